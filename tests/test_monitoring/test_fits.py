"""What detectors learned is kept: it says the same as what is learned anew, and serves only for what it was learned of."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from anomalyze.metrics.detectors import trained
from anomalyze.metrics.detectors.base import Found, Stretch
from anomalyze.metrics.detectors.build import build_detectors
from anomalyze.metrics.detectors.setting import PYOD_NAMES, DetectorSetting
from anomalyze.metrics.rules import rules_of
from anomalyze.monitoring.fits import FIT_BYTES_MAX, FitShelf, SeriesFits, fit_names
from anomalyze.monitoring.score import retrain_batch, score_batch
from anomalyze.storage.metrics_values import store_values
from tests.test_monitoring.shop import NOW, frame
from tests.test_monitoring.test_named import batch, daily

Connection = psycopg.Connection[Any]
HOUR_MS = 3_600_000
KEY = b"k" * 16


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every training."""
    real, calls = trained.learn, list[int]()

    def learn(*arguments: Any) -> Any:
        calls.append(1)
        return real(*arguments)

    monkeypatch.setattr(trained, "learn", learn)
    return calls


def judge(name: str, value: np.ndarray, fits: SeriesFits | None, **keys: Any) -> Found:
    setting = DetectorSetting.model_validate({"pyod": {"name": name, "lags": 3, "train": 150, **keys}})
    (detector,) = build_detectors([setting], 3600.0)
    ts_ms = np.arange(len(value)) * HOUR_MS
    return detector.judge(Stretch(ts_ms, np.zeros_like(ts_ms), value, {}, fits), len(value) - 30)


@pytest.mark.parametrize("name", PYOD_NAMES)
def test_what_was_kept_says_the_same_to_the_bit(name: str, tmp_path: Path, learned: list[int]) -> None:
    fits = FitShelf(tmp_path).of("orders")
    value = np.array(daily(200), float)
    value[-5:] = [300.0, np.nan, 101.0, -1e6, 99.0]
    first, alone = judge(name, value, fits), judge(name, value, None)
    assert len(learned) == 2
    again = judge(name, value, fits)
    assert len(learned) == 2, "what was learned of the same values is not learned again"
    assert again.strength.tobytes() == first.strength.tobytes() == alone.strength.tobytes()
    assert again.measure.tobytes() == alone.measure.tobytes()
    assert np.nanmax(again.strength) > 0


def test_what_a_search_found_is_kept_with_it(tmp_path: Path, learned: list[int]) -> None:
    fits = FitShelf(tmp_path).of("orders")
    value = np.array(daily(300), float)
    first = judge("pca", value, fits, search={"trials": 3})
    again = judge("pca", value, fits, search={"trials": 3})
    assert len(learned) == 1
    assert again.measure.tobytes() == first.measure.tobytes()


def test_it_serves_only_for_the_values_it_was_learned_of(tmp_path: Path, learned: list[int]) -> None:
    fits = FitShelf(tmp_path).of("orders")
    value = np.array(daily(200), float)
    judge("knn", value, fits)
    for place in (0, 100):  # the first value that training rows have as a lag; one in their middle
        value[place] += 1e-9
        corrected = judge("knn", value, fits)
        assert corrected.measure.tobytes() == judge("knn", value, None).measure.tobytes()
    assert len(learned) == 5
    judge("knn", value, fits, quantile=0.99)
    assert len(learned) == 6, "by other parameters"


@pytest.mark.parametrize("damage", [lambda old: old[:-1], lambda old: b"", lambda old: old[:-1] + b"\7"])
def test_a_damaged_file_is_as_good_as_none(damage: Any, tmp_path: Path) -> None:
    fits = SeriesFits(tmp_path, "s")
    fits.keep("pyod_pca-1", KEY, {"a": np.arange(6.0).reshape(2, 3), "b": np.array([1, -1], np.int8)})
    found = fits.load("pyod_pca-1", KEY)
    assert found is not None
    assert found["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["b"].dtype == np.int8
    assert fits.load("pyod_pca-1", b"other") is None
    path = tmp_path / "pyod_pca-1" / "s"
    path.write_bytes(damage(path.read_bytes()))
    assert fits.load("pyod_pca-1", KEY) is None


def test_what_no_detector_asks_for_any_more_goes_and_what_is_too_large_never_comes(tmp_path: Path) -> None:
    rules = rules_of(batch([{"ensemble": {"of": ["novelty", {"pyod": "pca"}]}}, {"pyod": "knn"}]), ["a"])
    names = sorted(fit_names(rules))
    assert [name.split("-")[0] for name in names] == ["pyod_knn", "pyod_pca"]
    for name in (*names, "pyod_pca-1"):
        FitShelf(tmp_path, [name, *names]).of("a").keep(name, KEY, {"a": np.zeros(1)})
    FitShelf(tmp_path, names)
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    large = FitShelf(tmp_path, names).of("b")
    large.keep(names[0], KEY, {"a": np.zeros(FIT_BYTES_MAX // 8 + 1)})
    assert large.load(names[0], KEY) is None


def test_a_new_value_asks_what_was_kept_and_a_correction_learns_anew(
    connection: Connection, tmp_path: Path, learned: list[int]
) -> None:
    rules = rules_of(batch([{"pyod": {"name": "pca", "train": 120, "refit": "1000d"}}]), ["a", "b"])
    values = {"a": daily(), "b": daily(seed=2)}

    def run(until: int) -> int:
        before = len(learned)
        rows = frame(
            {name: some[:until] for name, some in values.items()}, NOW + timedelta(hours=until - 500)
        )
        store_values(connection, "shop", rows, NOW)
        assert not score_batch(connection, "shop", rules, tmp_path, NOW).failures
        return len(learned) - before

    assert run(500) > 2
    assert run(501) == 0
    values["b"][450] = 77.0
    assert run(502) > 0
    assert run(503) == 0


def test_training_learns_what_the_next_values_are_judged_by(
    connection: Connection, tmp_path: Path, learned: list[int]
) -> None:
    """Here each value begins a period of its own."""
    trained_hourly = {"pyod": {"name": "pca", "train": 120, "refit": "1h"}}
    rules = rules_of(batch([{"ensemble": {"of": ["novelty", trained_hourly]}}]), ["a", "b"])
    values = {"a": daily(150), "b": daily(150, seed=2)}

    def run(until: int) -> int:
        before = len(learned)
        rows = frame(
            {name: some[:until] for name, some in values.items()}, NOW + timedelta(hours=until - 147)
        )
        store_values(connection, "shop", rows, NOW)
        score_batch(connection, "shop", rules, tmp_path, NOW)
        return len(learned) - before

    run(147)
    assert run(148) == 2
    retrain_batch(connection, "shop", rules, tmp_path, NOW)
    assert run(149) == 0
    assert run(150) == 2
