"""How fast rows may go onto the log: no faster than the detector judges, so that live traffic never waits long.

A live record waits for what is being judged when it comes and for what lies before it. So the rows that wait are kept
to what the detector judges in a few hundredths of a second, as it was seen to do: more where it is fast. And while
others' rows come too, we rest as long as ours take: they cost the log, the detector and the sink their time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from anomalyze.bus.contract import Bus
from anomalyze.bus.topics import SCORED, TRANSACTIONS
from anomalyze.errors import TransientError

__all__ = ["DETECTOR_GROUP", "JUDGE_TIMEOUT_S", "UNJUDGED_MAX", "UNJUDGED_MIN", "Pace"]

DETECTOR_GROUP = "detector"
# Rows that may wait, in all partitions, however fast the detector is.
UNJUDGED_MAX = 10_000
# And however slow: with fewer, every micro-batch would cost more than its rows.
UNJUDGED_MIN = 500
# A live record waits about twice as long: for the micro-batch at work, and for its own.
WAIT_AIM_S = 0.02
# How much of the rate seen last counts.
RATE_SHARE = 0.3
LOOK_S_MIN, LOOK_S_MAX = 0.01, 0.05
# Beside live traffic, how long we rest for each second that our rows were at work, and at most at a time.
REST_SHARE = 1.0
REST_S_MAX = 0.5
# Whoever sent a row so long ago is expected to send another one.
LIVE_S = 60.0
# A detector that judges nothing for so long is down: somebody else shall go on later.
JUDGE_TIMEOUT_S = 600.0


class Pace:
    """Rows of everybody's that wait for the detector, and how many more may.

    Parameters
    ----------
    bus
        Asked for what was judged.
    unjudged_max
        Rows that may wait at most.
    """

    def __init__(self, bus: Bus, unjudged_max: int = UNJUDGED_MAX) -> None:
        self._bus = bus
        self._most = unjudged_max
        self._window = min(unjudged_max, UNJUDGED_MIN)
        self._rate = 0.0
        self._lag = unjudged_max  # not known: looked at before the first row goes out
        self._looked_at = float("-inf")
        self._look_s = LOOK_S_MIN
        self._look_cost_s = 0.0
        self._sent_since = 0
        self._unnoted = 0
        self._committed = -1
        self._scored_then = 0
        self._scored_before = 0
        self._end_before = -1
        self._live_at = float("-inf")
        self._released_at = float("inf")

    @property
    def beside_live(self) -> bool:
        """Whether somebody else's rows came in the last minute."""
        return time.monotonic() - self._live_at < LIVE_S

    @property
    def window(self) -> int:
        """Rows that may wait as things are."""
        return self._window

    @property
    def unjudged(self) -> int:
        """Rows that are not known to be judged, at most."""
        return self._unnoted + self._sent_since

    def sent(self, rows: int) -> None:
        """Note rows that the log has acknowledged."""
        self._sent_since += rows

    def await_room(self, rows: int, waiting: Callable[[], None]) -> int:
        """Wait until some rows may go out; how many of ``rows`` that are.

        Parameters
        ----------
        waiting
            Called now and then meanwhile.

        Raises
        ------
        TransientError
            The detector has judged nothing for ten minutes.
        """
        moved_at = time.monotonic()
        # A quarter at least: an acknowledgement by the log costs about the same for few rows as for many.
        while self._room < min(rows, max(1, self._window // 4)):
            time.sleep(max(0.0, self._looked_at + self._look_s - time.monotonic()))
            before = self._lag
            self.look()
            # A detector that is far behind is not asked a hundred times a second.
            self._look_s = LOOK_S_MIN if self._lag < self._window else min(LOOK_S_MAX, 1.5 * self._look_s)
            if self._lag != before:
                moved_at = time.monotonic()
            self.give_up_after(moved_at)
            waiting()
        if self.beside_live:
            worked_s = max(0.0, time.monotonic() - self._released_at)
            time.sleep(min(REST_S_MAX, REST_SHARE * worked_s))
        self._released_at = time.monotonic()
        return min(rows, self._room)

    @property
    def _room(self) -> int:
        return self._window - self._lag - self._sent_since

    def look(self) -> None:
        """See how many rows wait: those behind the detector's last commit, less what it has put out since.

        It commits once a second only. What it puts out counts as judged for the pace, never for the progress: a
        worker that takes over may put out again what another had.
        """
        began = time.monotonic()
        found = self._bus.committed(TRANSACTIONS, DETECTOR_GROUP)
        marks = self._bus.watermarks(TRANSACTIONS)
        scored_now = sum(end for _, end in self._bus.watermarks(SCORED).values())
        committed = sum(found.values())
        if committed != self._committed:
            self._committed, self._scored_then = committed, scored_now
        self._unnoted = sum(max(0, end - max(found.get(p, low), low)) for p, (low, end) in marks.items())
        self._lag = max(0, self._unnoted - (scored_now - self._scored_then))
        now = time.monotonic()
        ended = sum(end for _, end in marks.values())
        if 0 <= self._end_before < ended - self._sent_since:
            self._live_at = now
        self._end_before = ended
        self._look_cost_s = now - began
        self._fit_window(scored_now - self._scored_before, now - self._looked_at)
        self._scored_before, self._looked_at, self._sent_since = scored_now, now, 0

    def _fit_window(self, judged: int, took_s: float) -> None:
        """Let more rows wait when the detector was through with them, fewer when they wait for longer than is aimed at."""
        if self._lag == 0:
            # How fast it is cannot be told: it may have waited for us, as where a look takes long, or while we rest.
            if self._sent_since and not self.beside_live:
                self._window = min(self._most, self._window * 5 // 4)
        elif judged > 0 and 0 < took_s < 1.0:
            rate = judged / took_s
            self._rate = rate if self._rate == 0 else (1 - RATE_SHARE) * self._rate + RATE_SHARE * rate
            # While we ask, nothing is published: a log that answers slowly needs more rows to go on with.
            aimed = max(UNJUDGED_MIN, int(self._rate * (WAIT_AIM_S + self._look_cost_s)))
            self._window = min(self._most, self._window, aimed)

    def give_up_after(self, moved_at: float) -> None:
        """Raises ``TransientError`` when nothing has moved since that moment for too long."""
        if time.monotonic() - moved_at > JUDGE_TIMEOUT_S:
            raise TransientError(
                f"the detector has judged nothing for {JUDGE_TIMEOUT_S:.0f} s: is it running? See /system",
                retry_after_s=60.0,
            )
