"""The detector's memory of many series, in files that grow: a new point touches a few pages of its own series.

A bank is derived from stored values and never the only copy of anything. It remembers of each series how many
points it has taken and the time of the newest; a caller compares that with what is stored and has a series that
disagrees forgotten and taken again. Killed in the middle of a call, a bank gives up the one series that was being
written (``seen`` is then 0). After the machine went down it starts empty, unless ``flush`` came last: the system
may have written its pages in any order.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyze.errors import ConfigError, ContractError, TransientError
from anomalyze.metrics import kernel
from anomalyze.metrics.grown import GrownArray

__all__ = ["BANK_FORMAT", "SERIES_MAX", "Scores", "SeriesBank"]

# Raised when the meaning of a stored word changes: older banks are then refused.
BANK_FORMAT = 2
SERIES_MAX = 100_000
NAME_CHARACTERS_MAX = 1_000
DAY_BINS_MAX = 1_440  # series finer than a minute share the bins of a minute
PERIOD_S_MAX = 366 * 86_400.0
_DAY_S = 86_400.0

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Scores:
    """What the detector says of each row of a call; arrays of one entry a row, NaN where there is nothing to say.

    Attributes
    ----------
    novelty
        0 to 1, e/(1 + e): how far the value leaves what this series has ever shown, past incidents as strange
        considered. 0.75 is where an incident opens.
    surprise
        S: the sum of the channels' gap novelties, in deviations.
    rarity
        k: how far the 5 % nearest values are, in spreads of the series; or, where it has a season, how far out the
        value is for its hour, if that is more. 4 is where a repeat is told of, more where there were other runs of
        such values within days.
    rarity_score
        3k/(k + 4): rarity on the scale of e, always below the novelty that alerts (3).
    expected
        Of the season where there is one, else the median; in the value's unit.
    lower, upper
        The band that a value of its own, against what this series has shown or against its season, would have to
        leave to alert. A value within may still alert: by how long it stays, or in a gap between usual values.
    tail
        Share of the kept values at least as far out on the same side, never 0: 0.0005 is "one in 2,000".
    novelty_alert
        An incident opens here, or the open one has become three times as surprising, and the value is somewhat
        rare too (k of 0.75) or the novelty alone says enough (e of 9); below 200 values it takes 200/n times as much.
    rarity_alert
        A run of values rare for this series begins, and something of it is new (e of 0.1): lower severity.
    taken
        The row counted: its time was newer than all before. Later rows of an equal or older time did not.
    channel
        int8: which of ``CHANNEL_NAMES`` was most surprising.
    """

    novelty: Floats
    surprise: Floats
    rarity: Floats
    rarity_score: Floats
    expected: Floats
    lower: Floats
    upper: Floats
    tail: Floats
    novelty_alert: Flags
    rarity_alert: Flags
    taken: Flags
    channel: npt.NDArray[np.int8]


class SeriesBank:
    """States of the series of one batch; use ``open``, and ``close`` or a ``with`` block.

    One process has a bank open at a time. Series keep their index for the life of the bank.
    """

    def __init__(self, folder: Path, lock: int, head: dict[str, Any]) -> None:
        self._folder, self._lock, self._head = folder, lock, head
        self.period_s: float = head["period_s"]
        self.names: list[str] = list(head["names"])
        self._index = {name: place for place, name in enumerate(self.names)}
        self._day_bins = min(DAY_BINS_MAX, max(1, round(_DAY_S / self.period_s)))
        self._week_bins = max(1, min(7 * DAY_BINS_MAX, round(7 * _DAY_S / self.period_s)))
        self._pace = kernel.pace_of(self.period_s)
        bins = self._day_bins + self._week_bins
        self._words = GrownArray(folder / "series", np.int64, (kernel.WORDS,))
        self._season = GrownArray(folder / "season", np.float64, (bins,))
        self._visits = GrownArray(folder / "visits", np.int8, (bins,))
        channels = kernel.CHANNELS
        self._rings = [GrownArray(folder / f"values-{c}", np.float64, (c, channels)) for c in kernel.CLASSES]
        self._orders = [GrownArray(folder / f"orders-{c}", np.uint16, (channels, c)) for c in kernel.CLASSES]
        self._free: list[list[int]] = []

    @classmethod
    def open(cls, path: Path, names: Sequence[str], period_s: float) -> SeriesBank:
        """Open the bank in a folder, or begin one; names it has not seen are added.

        Parameters
        ----------
        path
            Folder of its own.
        names
            Series; those of earlier calls stay.
        period_s
            Usual distance of two points: the width of a bin of the day and the week.

        Raises
        ------
        ConfigError
            More than ``SERIES_MAX`` series, a name that is too long, or a period that is none.
        ContractError
            The folder holds a bank of another format or period, or a damaged one: remove it, and it is built
            again from stored values.
        TransientError
            Another process has it open.
        """
        if not 0.001 <= period_s <= PERIOD_S_MAX:
            raise ConfigError(f"a period of 0.001 to {PERIOD_S_MAX:.0f} seconds was expected, got {period_s}")
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                message = f"{path} is open in another process: wait until its run has ended"
                raise TransientError(message, 5.0) from error
            bank = cls(path, lock, _load_head(path, period_s))
            bank._recover()
            bank._add(names)
        except BaseException:
            os.close(lock)
            raise
        return bank

    def __enter__(self) -> SeriesBank:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.names)

    def find(self, names: Sequence[str]) -> Integers:
        """int64 ``[N]``: the indices of these names.

        Raises
        ------
        KeyError
            A name that the bank was not opened with.
        """
        return np.fromiter((self._index[name] for name in names), np.int64, len(names))

    @property
    def seen(self) -> Integers:
        """int64 ``[S]``: points taken of each series, those without a value too."""
        return np.array(self._words.array[: len(self), kernel.I_SEEN])

    @property
    def last_ms(self) -> Integers:
        """int64 ``[S]``: time of the newest point taken; meaningless where ``seen`` is 0."""
        return np.array(self._words.array[: len(self), kernel.I_LAST_MS])

    def advance(
        self,
        series_index: Integers,
        ts_ms: Integers,
        values: Floats,
        offset_ms: Integers | None = None,
    ) -> Scores:
        """Score points, each on what came before it, and remember them.

        A row whose time is not newer than its series' newest is skipped (not ``taken``): a repeat, or one that came
        late, for which the series has to be taken again from stored values. NaN, infinities and values beyond
        1e150 count as seen and say nothing.

        Parameters
        ----------
        series_index, ts_ms, values
            ``[N]``, sorted by series, then by time; times in ms since 1970, UTC.
        offset_ms
            ``[N]``: what to add for local time, so that a day's habits hold across daylight saving. None: UTC.

        Raises
        ------
        ValueError
            Lengths differ, a series is unknown, or rows are not sorted by series.
        """
        series = np.ascontiguousarray(series_index, np.int64)
        times, numbers = np.ascontiguousarray(ts_ms, np.int64), np.ascontiguousarray(values, np.float64)
        rows = len(series)
        offsets = np.zeros(rows, np.int64) if offset_ms is None else np.ascontiguousarray(offset_ms, np.int64)
        if not rows == len(times) == len(numbers) == len(offsets):
            raise ValueError(f"columns of one length were expected, got {rows}, {len(times)}, {len(numbers)}")
        if rows and not (series.min() >= 0 and series[-1] < len(self) and (np.diff(series) >= 0).all()):
            raise ValueError(f"rows sorted by series, 0 to {len(self) - 1}, were expected")
        out = np.full((rows, len(kernel.OUTPUTS)), np.nan)
        marks = np.zeros((rows, 4), np.int8)
        if rows:
            self._set_flushed("")
            self._make_room(series)
            words = self._words.array
            kernel.advance_series(
                series, times, numbers, offsets, words, words.view(np.float64),
                tuple(ring.array for ring in self._rings), tuple(order.array for order in self._orders),
                self._season.array, self._visits.array, self._day_bins, self._week_bins, self._pace,
                np.empty(kernel.INCIDENTS_MAX), out, marks,
            )  # fmt: skip
        columns = {name: np.ascontiguousarray(out[:, place]) for place, name in enumerate(kernel.OUTPUTS)}
        taken, novelty_alert, rarity_alert = (marks[:, place].astype(np.bool_) for place in range(3))
        return Scores(
            **columns,
            taken=taken,
            novelty_alert=novelty_alert,
            rarity_alert=rarity_alert,
            channel=marks[:, 3],
        )

    def forget(self, series_index: Integers | int) -> None:
        """Make series as new, so that they can be taken again from their first stored value."""
        self._set_flushed("")
        for series in np.unique(np.atleast_1d(np.asarray(series_index, np.int64))).tolist():
            if not 0 <= series < len(self):
                raise ValueError(f"a series from 0 to {len(self) - 1} was expected, got {series}")
            words = self._words.array[series]
            words[kernel.I_TORN] = 1
            if words[kernel.I_PLACED]:
                self._free[words[kernel.I_CLASS]].append(int(words[kernel.I_SLOT]))
            self._clear(series)

    def flush(self) -> None:
        """Write everything to the disk: only then does the bank survive the machine's going down."""
        for array in self._arrays():
            array.flush()
        self._set_flushed("yes")

    def close(self) -> None:
        """Let go of the files; what was taken stays (see the module for what a machine's crash costs)."""
        for array in self._arrays():
            array.close()
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def _arrays(self) -> list[GrownArray]:
        return [self._words, self._season, self._visits, *self._rings, *self._orders]

    def _set_flushed(self, value: str) -> None:
        boot = value or _boot_id()
        if self._head["intact"] != boot:
            self._head["intact"] = boot
            _save_head(self._folder, self._head)

    def _recover(self) -> None:
        """Forget what cannot be trusted, and find the free blocks."""
        if len(self._words.array) < len(self) or len(self._season.array) < len(self):
            raise ContractError(f"{self._folder} is damaged: remove it, it is built again from stored values")
        words = self._words.array[: len(self)]
        if self._head["intact"] not in ("yes", _boot_id()):
            words[:] = 0
            self._season.array[:] = 0
            self._visits.array[:] = 0
        for series in np.flatnonzero(words[:, kernel.I_TORN]).tolist():
            self._clear(series)
        for place, ring in enumerate(self._rings):
            used = words[(words[:, kernel.I_PLACED] > 0) & (words[:, kernel.I_CLASS] == place)]
            free = np.ones(min(len(ring.array), len(self._orders[place].array)), np.bool_)
            free[used[:, kernel.I_SLOT]] = False
            self._free.append(np.flatnonzero(free)[::-1].tolist())

    def _clear(self, series: int) -> None:
        self._season.array[series] = 0
        self._visits.array[series] = 0
        torn = self._words.array[series, kernel.I_TORN :]
        self._words.array[series, : kernel.I_TORN] = 0
        torn[1:] = 0
        torn[0] = 0  # last: until then it is still to be cleared

    def _add(self, names: Sequence[str]) -> None:
        new = [name for name in dict.fromkeys(names) if name not in self._index]
        if not new:
            return
        total = len(self.names) + len(new)
        if total > SERIES_MAX:
            raise ConfigError(
                f"at most {SERIES_MAX:,} series in a batch were expected, got {total:,}: name fewer, or split the batch"
            )
        for name in new:
            if len(name) > NAME_CHARACTERS_MAX:
                raise ConfigError(
                    f"a series' name of at most {NAME_CHARACTERS_MAX} characters was expected, got {name[:60]}…"
                )
        for array in (self._words, self._season, self._visits):
            array.reserve(total)
        # Rows behind the last name may hold what a killed process had begun.
        for array in (self._words, self._season, self._visits):
            array.array[len(self.names) : total] = 0
        self._head["names"] = [*self.names, *new]
        self._head["intact"] = _boot_id()
        _save_head(self._folder, self._head)
        for name in new:
            self._index[name] = len(self.names)
            self.names.append(name)

    def _make_room(self, series: Integers) -> None:
        """Move series that outgrow their blocks into larger ones."""
        places, rows = np.unique(series, return_counts=True)
        words = self._words.array[places]
        classes = np.array(kernel.CLASSES)
        wanted = np.minimum(words[:, kernel.I_COUNT] + rows, kernel.VALUES_MAX)
        has = words[:, kernel.I_PLACED] > 0
        grows = ~has | (wanted > classes[words[:, kernel.I_CLASS]])
        target = np.searchsorted(classes, wanted)
        for place in np.unique(target[grows]).tolist():
            self._reserve_blocks(place, int((grows & (target == place)).sum()))
        for row in np.flatnonzero(grows).tolist():
            self._move(int(places[row]), int(target[row]), bool(has[row]))

    def _reserve_blocks(self, place: int, count: int) -> None:
        free, ring, order = self._free[place], self._rings[place], self._orders[place]
        missing = count - len(free)
        if missing > 0:
            before = min(len(ring.array), len(order.array))
            ring.reserve(before + missing)
            order.reserve(before + missing)
            free.extend(range(min(len(ring.array), len(order.array)) - 1, before - 1, -1))

    def _move(self, series: int, target: int, has: bool) -> None:
        words = self._words.array[series]
        slot = self._free[target].pop()
        source, old = int(words[kernel.I_CLASS]), int(words[kernel.I_SLOT])
        if has:
            kernel.move_values(
                self._rings[source].array[old], self._orders[source].array[old],
                self._rings[target].array[slot], self._orders[target].array[slot], words,
            )  # fmt: skip
        words[kernel.I_TORN] = 1
        words[kernel.I_CLASS], words[kernel.I_SLOT], words[kernel.I_PLACED] = target, slot, 1
        words[kernel.I_TORN] = 0
        if has:
            self._free[source].append(old)


def _load_head(folder: Path, period_s: float) -> dict[str, Any]:
    path = folder / "bank.json"
    advice = "remove the folder, it is built again from stored values"
    if not path.exists():
        head: dict[str, Any] = {
            "format": BANK_FORMAT,
            "period_s": period_s,
            "names": [],
            "intact": _boot_id(),
        }
        _save_head(folder, head)
        return head
    try:
        head = json.loads(path.read_text())
        found, period, _ = head["format"], head.get("period_s"), head["intact"]
    except (ValueError, KeyError, TypeError) as error:
        raise ContractError(f"{path} is no head of a bank: {advice}") from error
    if found != BANK_FORMAT:
        raise ContractError(f"{path}: format {BANK_FORMAT} was expected, got {found}: {advice}")
    if period != period_s:
        raise ContractError(f"{path}: a period of {period_s} s was expected, got {period} s: {advice}")
    return head


def _save_head(folder: Path, head: dict[str, Any]) -> None:
    path = folder / "bank.json"
    partial = path.with_suffix(".partial")
    with partial.open("w") as file:
        json.dump(head, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _boot_id() -> str:
    """Of the running system; where it has none, nothing outlives the process that wrote it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"process {os.getpid()}"
