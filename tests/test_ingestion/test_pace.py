"""How fast rows may go onto the log, against a detector made of a clock."""

from __future__ import annotations

import time
from typing import Any

import pytest

from anomalyze.bus.topics import SCORED
from anomalyze.errors import TransientError
from anomalyze.ingestion import pace
from anomalyze.ingestion.pace import UNJUDGED_MIN, Pace


class Log:
    """A log whose detector judges so many rows a second, and commits each second only."""

    def __init__(self, rate: float) -> None:
        self.rate, self.sent, self._judged, self._at = rate, 0, 0.0, time.monotonic()
        self._committed, self._committed_at = 0, self._at
        self.most_waiting = 0
        self.put_out_again = 0

    @property
    def judged(self) -> int:
        now = time.monotonic()
        self._judged = min(self.sent, self._judged + (now - self._at) * self.rate)
        self._at = now
        return int(self._judged)

    def send(self, rows: int) -> None:
        _ = self.judged
        self.sent += rows
        self.most_waiting = max(self.most_waiting, self.sent - self.judged)

    def committed(self, topic: str, group: str) -> dict[int, int]:
        if time.monotonic() - self._committed_at > 1.0:
            self._committed, self._committed_at = self.judged, time.monotonic()
        return {0: self._committed}

    def watermarks(self, topic: str) -> dict[int, tuple[int, int]]:
        return {0: (0, self.judged + self.put_out_again if topic == SCORED else self.sent)}


def publish(
    log: Log, rows: int, others: int = 0, one: Pace | None = None, **options: Any
) -> tuple[Pace, float]:
    """Send rows as an upload does, and ``others``' rows after each batch; the seconds that took."""
    one = one or Pace(log, **options)  # type: ignore[arg-type]
    began = time.monotonic()
    ours = 0
    while ours < rows:
        batch = one.await_room(rows - ours, lambda: None)
        assert 0 < batch <= rows - ours
        log.send(batch)
        one.sent(batch)
        log.send(others)
        ours += batch
    return one, time.monotonic() - began


def test_few_rows_wait_for_a_slow_detector() -> None:
    log = Log(rate=4_000)
    _, seconds = publish(log, 6_000)
    assert log.most_waiting <= UNJUDGED_MIN
    assert seconds < 2 * 6_000 / 4_000


def test_a_fast_detector_is_kept_busy() -> None:
    log = Log(rate=200_000)
    one, _ = publish(log, 60_000)
    assert one.window > UNJUDGED_MIN
    assert log.most_waiting <= pace.UNJUDGED_MAX


def test_a_detector_that_grows_slow_gets_fewer_rows() -> None:
    log = Log(rate=200_000)
    one, _ = publish(log, 60_000)
    assert one.window > UNJUDGED_MIN
    log.rate = 4_000
    publish(log, 4_000, one=one)
    assert one.window == UNJUDGED_MIN


def test_beside_others_rows_we_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "REST_SHARE", 4.0)
    _, alone = publish(Log(rate=40_000), 10_000)
    log = Log(rate=40_000)
    one, beside = publish(log, 10_000, others=1)
    assert one.beside_live
    assert one.window == UNJUDGED_MIN
    assert beside > 2 * alone


def test_the_own_rows_are_not_taken_for_others() -> None:
    one, _ = publish(Log(rate=40_000), 10_000)
    assert not one.beside_live


def test_a_limit_of_the_caller_holds() -> None:
    log = Log(rate=20_000)
    publish(log, 3_000, unjudged_max=100)
    assert log.most_waiting <= 100


def test_what_was_judged_is_never_overstated() -> None:
    log = Log(rate=20_000)
    one, _ = publish(log, 3_000)
    assert log.sent - one.unjudged <= log.judged
    log.rate = 0.0
    log.put_out_again = 10_000  # by a worker that took over
    one.look()
    assert 0 < log.sent - log.judged <= one.unjudged


def test_a_detector_that_is_down_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "JUDGE_TIMEOUT_S", 0.2)
    with pytest.raises(TransientError, match="judged nothing"):
        publish(Log(rate=0.0), 3_000)
