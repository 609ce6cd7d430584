"""The detector's bank: equal to its description, indifferent to how a series is cut, safe to kill and to reopen."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyze.errors import ConfigError, ContractError, TransientError
from anomalyze.metrics import bank as bank_module
from anomalyze.metrics import memory
from anomalyze.metrics.bank import Scores, SeriesBank
from tests.test_metrics.reference import Reference

Floats = npt.NDArray[np.float64]
START_MS = 1_700_000_000_000
HOUR_S = 3_600.0
FIELDS = Scores.__slots__


def make_series(seed: int, points: int) -> Floats:
    """A day's habit, noise, repeated values, a spike now and then, and a jump."""
    rng = np.random.default_rng(seed)
    values = 100 + 20 * np.sin(np.arange(points) * 2 * np.pi / 24) + rng.normal(0, 2, points)
    values[rng.random(points) < 0.02] *= rng.choice([3.0, -1.0, 0.0, 40.0])
    values[int(points * rng.random()) :] += rng.choice([0.0, 30.0, -250.0])
    return np.asarray(np.round(values, int(rng.integers(0, 3))))


def take(bank: SeriesBank, series: int, values: Floats, first: int = 0) -> Scores:
    """Points of one series, hourly; the first of them is its ``first``."""
    times = START_MS + (first + np.arange(len(values))) * 3_600_000
    return bank.advance(np.full(len(values), series), times, values)


def assert_same(one: Scores, other: Sequence[Scores]) -> None:
    """Equal to the bit."""
    for name in FIELDS:
        joined = np.concatenate([getattr(part, name) for part in other])
        assert np.array_equal(getattr(one, name), joined, equal_nan=name not in ("taken",)), name


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_plain_reference(tmp_path: Path, seed: int) -> None:
    values = make_series(seed, 700)
    with SeriesBank.open(tmp_path, ["a"], HOUR_S) as bank:
        scores = take(bank, 0, values)
    reference = Reference(HOUR_S)
    for row, value in enumerate(values.tolist()):
        for name, expected in reference.take(START_MS + row * 3_600_000, value).items():
            got = getattr(scores, name)[row]
            assert got == expected or (math.isnan(got) and math.isnan(expected)), (row, name)
    assert scores.novelty_alert.any()
    assert scores.channel.max() > 0


def test_the_oldest_values_go(tmp_path: Path) -> None:
    """A value seen long ago is new again, and memories that wrap around equal the reference."""
    rng = np.random.default_rng(5)
    values = np.round(rng.normal(0, 30, memory.VALUES_MAX + 700))
    values[3], values[-1] = 500.0, 500.0
    with SeriesBank.open(tmp_path, ["a"], HOUR_S) as bank:
        scores = take(bank, 0, values)
    reference = Reference(HOUR_S)
    reference._rarity = lambda x: 0.0  # type: ignore[method-assign] # brute force takes too long here
    surprise = [
        reference.take(START_MS + row * 3_600_000, x)["surprise"] for row, x in enumerate(values.tolist())
    ]
    assert np.array_equal(scores.surprise, np.array(surprise), equal_nan=True)
    assert scores.novelty_alert[-1]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(0, 2**32))
def test_cut_anywhere_is_the_same(tmp_path_factory: pytest.TempPathFactory, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    series = [make_series(int(rng.integers(999)), int(rng.integers(1, 600))) for _ in range(count)]
    names = [f"s{place}" for place in range(count)]
    with SeriesBank.open(tmp_path_factory.mktemp("whole"), names, HOUR_S) as bank:
        whole = [take(bank, place, values) for place, values in enumerate(series)]
    folder = tmp_path_factory.mktemp("cut")
    parts: list[list[Scores]] = [[] for _ in series]
    reached = [0] * count
    bank = SeriesBank.open(folder, names, HOUR_S)
    while any(reached[place] < len(values) for place, values in enumerate(series)):
        if rng.random() < 0.3:
            bank.close()
            bank = SeriesBank.open(folder, names, HOUR_S)
        steps = [int(rng.integers(0, rng.choice([5, 300]))) for _ in series]
        chunks = [values[at : at + step] for values, at, step in zip(series, reached, steps, strict=True)]
        times = [
            START_MS + (at + np.arange(len(c))) * 3_600_000 for at, c in zip(reached, chunks, strict=True)
        ]
        index = np.repeat(np.arange(count), [len(chunk) for chunk in chunks])
        scores = bank.advance(index, np.concatenate(times), np.concatenate(chunks))
        for place, chunk in enumerate(chunks):
            mine = index == place
            parts[place].append(Scores(**{name: getattr(scores, name)[mine] for name in FIELDS}))
            reached[place] += len(chunk)
    assert bank.seen.tolist() == [len(values) for values in series]
    bank.close()
    for one, other in zip(whole, parts, strict=True):
        assert_same(one, other)


def test_what_is_no_number_or_not_new_is_skipped(tmp_path: Path) -> None:
    values = make_series(3, 300)
    with SeriesBank.open(tmp_path / "clean", ["a"], HOUR_S) as bank:
        clean = take(bank, 0, values)
    times = START_MS + np.arange(300) * 3_600_000
    # Between two values: NaN, infinities, too much, a repeat of the last time, a late one.
    odd = np.array([np.nan, np.inf, -np.inf, 1e300, 7.0, 7.0])
    odd_times = times[99] + np.array([1, 2, 3, 4, 4, -5])
    with SeriesBank.open(tmp_path / "odd", ["a"], HOUR_S) as bank:
        scores = bank.advance(
            np.zeros(306, np.int64),
            np.concatenate([times[:100], odd_times, times[100:]]),
            np.concatenate([values[:100], odd, values[100:]]),
        )
        assert bank.seen[0] == 304
        assert bank.last_ms[0] == times[-1]
    assert scores.taken[100:106].tolist() == [True] * 4 + [False] * 2
    assert np.isnan(scores.novelty[100:106]).all()
    assert not scores.novelty_alert[100:106].any()
    kept = np.r_[0:100, 106:306]
    assert np.array_equal(scores.surprise[kept], clean.surprise, equal_nan=True)


def test_local_time_keeps_habits_across_daylight_saving(tmp_path: Path) -> None:
    """Clocks go forward after four weeks: with the offset the day's habit goes with them, without it does not."""
    hours = np.arange(24 * 35)
    local = np.where(hours >= 24 * 28, hours + 1, hours)
    values = 1000.0 * (local % 24) + np.random.default_rng(1).normal(0, 5, len(hours))
    times, zeros = START_MS + hours * 3_600_000, np.zeros(len(hours), np.int64)
    after = slice(24 * 28, 24 * 29)
    missed = []
    for offset in (None, (local - hours) * 3_600_000):
        folder = tmp_path / str(offset is None)
        with SeriesBank.open(folder, ["a"], HOUR_S) as bank:
            scores = bank.advance(zeros, times, values, offset)
        missed.append(np.abs(values - scores.expected)[after].mean())
    assert missed[1] < 50 < 500 < missed[0]


def test_a_spike_a_jump_and_a_repeat(tmp_path: Path) -> None:
    """One alert an incident; a repeat of it says less; the band is left by what alerts."""
    rng = np.random.default_rng(2)
    values = rng.normal(50, 1, 1_500)
    values[500:504], values[800:804], values[1_200:] = 90.0, 91.0, 20.0
    with SeriesBank.open(tmp_path, ["a"], HOUR_S) as bank:
        scores = take(bank, 0, values)
    alerts = np.flatnonzero(scores.novelty_alert).tolist()
    assert 500 in alerts
    assert not {501, 502, 503} & set(alerts)
    assert any(1_200 <= at <= 1_206 for at in alerts)
    assert scores.novelty[800] < scores.novelty[500]
    assert values[500] > scores.upper[500] > scores.expected[500] > scores.lower[500] > 20.0
    assert scores.rarity_alert[800]
    assert scores.tail[500] == 1 / 501
    assert len(alerts) < 12


def test_a_value_usual_at_night_alerts_by_day(tmp_path: Path) -> None:
    """Orders of a shop fall at ten in the morning to what they are each night, and not on any other day."""
    rng = np.random.default_rng(4)
    hours = np.arange(60 * 24)
    values = rng.poisson(40 + 35 * np.sin((hours - 8) / 24 * 2 * np.pi)).astype(float)
    fall = 59 * 24 + 10
    values[fall : fall + 4] = 3.0
    with SeriesBank.open(tmp_path, ["a"], HOUR_S) as bank:
        scores = take(bank, 0, values, -2)
    alerts = scores.novelty_alert | scores.rarity_alert
    assert alerts[fall : fall + 3].any()
    assert alerts[30 * 24 : fall].sum() <= 2
    assert np.all(scores.rarity[fall + 1 : fall + 4] > 4)
    assert np.all(values[fall + 1 : fall + 4] < scores.lower[fall + 1 : fall + 4])
    night = fall - 8
    assert scores.lower[night] < 3.0 < scores.upper[night]


def test_novelty_and_rarity_confirm_each_other(tmp_path: Path) -> None:
    """A gap between usual values is new and not rare; a value seen before is rare and not new: neither alerts."""
    rng = np.random.default_rng(3)
    values = np.where(rng.random(1_500) < 0.5, 10.0, 20.0) + rng.normal(0, 0.4, 1_500).round(1)
    values[700] = 13.0
    values[[900, 1_000, 1_100]] = 45.0
    with SeriesBank.open(tmp_path, ["a"], HOUR_S) as bank:
        scores = take(bank, 0, values)
    gap = scores.novelty[700] / (1 - scores.novelty[700])
    assert 3 < gap < 9
    assert scores.rarity[700] < 0.75
    assert not scores.novelty_alert[700]
    assert scores.novelty_alert[900]
    assert (scores.rarity[[1_000, 1_100]] > 4).all()
    assert not scores.rarity_alert[1_100]


def test_a_run_of_rare_values_alerts_once_and_runs_all_day_less(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(50, 1, 3_000)
    begins = [1_000, *range(2_000, 2_900, 60)]
    for place, at in enumerate(begins):  # each run a little beyond what was seen, so that it is new
        values[at : at + 20] = 58 + 0.3 * place + rng.normal(0, 0.05, 20)
    minutes = START_MS + np.arange(3_000) * 60_000
    with SeriesBank.open(tmp_path, ["a"], 60.0) as bank:
        scores = bank.advance(np.zeros(3_000, np.int64), minutes, values)
    alerts = np.flatnonzero(scores.novelty_alert | scores.rarity_alert)
    told = [at for at in begins if ((alerts >= at) & (alerts < at + 26)).any()]
    assert 1_000 in told
    assert ((alerts >= 1_000) & (alerts < 1_026)).sum() == 1
    assert len(told) < len(begins) / 2


def test_an_incident_of_minutes_stays_open_for_hours(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    values = rng.normal(50, 1, 3_000)
    values[2_000], values[2_300], values[2_600] = 80.0, 83.0, 86.0
    alerts = []
    for period_s in (60.0, HOUR_S):
        times = START_MS + np.arange(3_000) * int(period_s * 1000)
        with SeriesBank.open(tmp_path / str(period_s), ["a"], period_s) as bank:
            scores = bank.advance(np.zeros(3_000, np.int64), times, values)
        alerts.append(scores.novelty_alert[[2_000, 2_300, 2_600]].tolist())
    assert alerts == [[True, False, True], [True, True, True]]


def test_forgotten_series_begin_again(tmp_path: Path) -> None:
    values = make_series(1, 400)
    with SeriesBank.open(tmp_path, ["a", "b"], HOUR_S) as bank:
        first, other = take(bank, 0, values), take(bank, 1, values[:200])
        bank.forget(bank.find(["a"]))
        assert bank.seen.tolist() == [0, 200]
        again = take(bank, 0, values)
        assert_same(first, [again])
        assert_same(first, [other, take(bank, 1, values[200:], 200)])


def test_names_may_be_added_and_be_anything(tmp_path: Path) -> None:
    names = ['a "quoted" one', "ünïcödé ☂", "", "a\nb", "'; drop table"]
    with SeriesBank.open(tmp_path, names[:2], HOUR_S) as bank:
        take(bank, 1, np.arange(50.0))
    with SeriesBank.open(tmp_path, names[1:], HOUR_S) as bank:
        assert bank.names == names
        assert bank.seen[bank.find(names)].tolist() == [0, 50, 0, 0, 0]
        with pytest.raises(KeyError):
            bank.find(["unknown"])


def test_refuses_another_format_period_owner_and_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SeriesBank.open(tmp_path, ["a"], HOUR_S) as bank:
        with pytest.raises(TransientError, match="another process"):
            SeriesBank.open(tmp_path, ["a"], HOUR_S)
        with pytest.raises(ValueError, match="sorted by series"):
            bank.advance(np.array([1]), np.array([0]), np.array([0.0]))
        with pytest.raises(ValueError, match="one length"):
            bank.advance(np.array([0]), np.array([0, 1]), np.array([0.0]))
    with pytest.raises(ContractError, match="period"):
        SeriesBank.open(tmp_path, ["a"], 60.0)
    with pytest.raises(ConfigError, match="seconds"):
        SeriesBank.open(tmp_path, ["a"], math.nan)
    monkeypatch.setattr(bank_module, "SERIES_MAX", 3)
    with pytest.raises(ConfigError, match="at most 3 series"):
        SeriesBank.open(tmp_path, ["b", "c", "d"], HOUR_S)
    head = json.loads((tmp_path / "bank.json").read_text())
    (tmp_path / "bank.json").write_text(json.dumps(head | {"format": 0}))
    with pytest.raises(ContractError, match="format 2 was expected, got 0"):
        SeriesBank.open(tmp_path, ["a"], HOUR_S)
    (tmp_path / "bank.json").write_text("{")
    with pytest.raises(ContractError, match="no head"):
        SeriesBank.open(tmp_path, ["a"], HOUR_S)


def test_only_a_flushed_bank_outlives_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for flushed, seen in ((False, 0), (True, 50)):
        folder = tmp_path / str(flushed)
        with SeriesBank.open(folder, ["a"], HOUR_S) as bank:
            take(bank, 0, np.arange(50.0))
            if flushed:
                bank.flush()
        monkeypatch.setattr(bank_module, "_boot_id", lambda: "after the crash")
        with SeriesBank.open(folder, ["a"], HOUR_S) as bank:
            assert bank.seen[0] == seen
        monkeypatch.undo()


KILLED = """
import sys
from pathlib import Path
import numpy as np
from anomalyze.metrics.bank import SeriesBank
from tests.test_metrics.test_bank import START_MS, make_series

with SeriesBank.open(Path(sys.argv[1]), [f"s{n}" for n in range(30)], 3600.0) as bank:
    values = np.stack([make_series(n, 9000) for n in range(30)])
    for at in range(0, 9000, 300):
        times = np.tile(START_MS + np.arange(at, at + 300) * 3_600_000, 30)
        bank.advance(np.repeat(np.arange(30), 300), times, values[:, at : at + 300].ravel())
        if at == 0:
            print("go", flush=True)
"""


def test_killed_while_writing_a_bank_goes_on_or_gives_a_series_up(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed")], stdout=subprocess.PIPE, env=os.environ
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"go\n"
    names = [f"s{n}" for n in range(30)]
    seconds = np.random.default_rng().uniform(0.0, 0.2)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with (
        SeriesBank.open(tmp_path / "killed", names, HOUR_S) as killed,
        SeriesBank.open(tmp_path / "whole", names, HOUR_S) as whole,
    ):
        seen = killed.seen
        assert seen.max() > 0
        for place in range(30):
            values = make_series(place, 9_000)
            rest = take(killed, place, values[seen[place] :], int(seen[place]))
            expected = take(whole, place, values)
            assert np.array_equal(rest.surprise, expected.surprise[seen[place] :], equal_nan=True), place


def test_a_series_that_was_being_written_is_given_up(tmp_path: Path) -> None:
    values = make_series(4, 300)
    with SeriesBank.open(tmp_path, ["a", "b"], HOUR_S) as bank:
        expected = take(bank, 0, values)
        take(bank, 1, values)
        bank._words.array[0, memory.I_TORN] = 1
    with SeriesBank.open(tmp_path, ["a", "b"], HOUR_S) as bank:
        assert bank.seen.tolist() == [0, 300]
        assert_same(expected, [take(bank, 0, values)])
