"""Detectors by name against slow versions of themselves, and on any cut of a series."""

from __future__ import annotations

import datetime as dt
import importlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from anomalyze.config import ConfigProblems, Document, validate
from anomalyze.metrics.batch import Batch
from anomalyze.metrics.detectors.base import Detector, Found, Stretch, direction_of
from anomalyze.metrics.detectors.build import build_detectors
from anomalyze.metrics.detectors.forms import learn_form, score_form
from anomalyze.metrics.detectors.lag_table import lag_table, learn
from anomalyze.metrics.detectors.search import find_best
from anomalyze.metrics.detectors.setting import PYOD_NAMES, DetectorSetting, Pyod, Search, from_words
from anomalyze.metrics.detectors.usual import lean, learn_usual
from anomalyze.metrics.incident import Incident
from anomalyze.metrics.preprocess import offsets_ms

HOUR_MS = 3_600_000
SPRING_MS = 1_742_000_000_000 // HOUR_MS * HOUR_MS  # two weeks before Berlin's clocks go forward


def build(entry: Any, period_s: float = 3600.0) -> Detector:
    (setting,) = from_words(DetectorSetting, [entry])
    (detector,) = build_detectors([DetectorSetting.model_validate(setting)], period_s)
    return detector


def stretch(values: np.ndarray, zone: str = "UTC") -> Stretch:
    ts_ms = SPRING_MS + np.arange(len(values)) * HOUR_MS
    return Stretch(ts_ms, offsets_ms(ts_ms, zone), values)


def daily(points: int, seed: int = 1, zone: str = "UTC") -> Stretch:
    """A day's habit by the clock of a zone, with noise."""
    empty = stretch(np.zeros(points), zone)
    hour = (empty.ts_ms + empty.offset_ms) / HOUR_MS
    noise = np.random.default_rng(seed).normal(0, 2, points)
    return stretch(100 + 30 * np.sin(hour * np.pi / 12) + noise, zone)


def same(one: Found, other: Found) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True)
        for name in ("strength", "measure", "level", "expected", "lower", "upper")
    )


ENTRIES = [
    "seasonal_z",
    {"level_shift": {"points": 24, "spans": 5}},
    {"knn_shape": {"lags": 6, "memory": 200, "quantile": 0.99}},
    {"pyod": {"name": "pca", "lags": 3, "train": 110, "refit": "10d"}},
    {"pyod": {"name": "ecod", "differences": True, "train": 120, "refit": "2d"}},
    {"pyod": {"name": "pca", "train": 120, "refit": "5d", "search": {"trials": 3}}},
    {"ensemble": {"of": ["seasonal_z", "level_shift", {"pyod": {"name": "pca", "train": 100}}]}},
    {"ensemble": {"of": ["seasonal_z", {"pyod": {"name": "ecod", "train": 110}}], "combine": "rank"}},
]


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_row_says_the_same_whatever_else_is_at_hand(entry: Any, data: st.DataObject) -> None:
    """Judged with all that came before, or with what ``reach`` asks for alone; and with rows behind it, or without."""
    detector = build(entry)
    values = daily(600, data.draw(st.integers(0, 99))).value
    for place in data.draw(st.lists(st.integers(0, 599), max_size=30)):
        values[place] = data.draw(st.sampled_from([np.nan, 1e200, -1e5, 0.0, 5e-324]))
    whole = stretch(values, "Europe/Berlin")
    first = data.draw(st.integers(0, 599))
    reach = detector.reach(int(whole.ts_ms[first]))
    start = max(0, int(np.searchsorted(whole.ts_ms, reach.since_ms)) - reach.points)
    end = data.draw(st.integers(first, 600))
    part = Stretch(*(column[start:end] for column in (whole.ts_ms, whole.offset_ms, whole.value)))
    found, expected = detector.judge(part, first - start), detector.judge(whole, first)
    for name in ("strength", "measure", "level", "expected", "lower", "upper"):
        column = getattr(expected, name)[: end - first]
        assert np.array_equal(getattr(found, name), column, equal_nan=True), name
    assert direction_of(found).tolist() == direction_of(expected)[: end - first].tolist()


def test_seasonal_z_is_the_median_and_deviation_of_the_same_hour() -> None:
    one = daily(24 * 40, 2)
    found = build("seasonal_z").judge(one, 0)
    row = 24 * 36 + 5
    days = np.array([one.value[row - 24 * day] for day in range(1, 29)])
    residuals = np.concatenate([days[weekday::7] - np.median(days[weekday::7]) for weekday in range(7)])
    scale = 1.4826 * np.median(np.abs(residuals)) * (1 + 8 / 28)
    assert found.expected[row] == pytest.approx(np.median(days[6::7]))
    assert found.measure[row] == pytest.approx(abs(one.value[row] - found.expected[row]) / scale)
    assert found.upper[row] - found.expected[row] == pytest.approx(8 * scale)
    assert np.isnan(found.strength[: 24 * 7]).all()


def test_a_day_stays_a_day_when_clocks_change() -> None:
    """Nine o'clock is held against nine o'clock."""
    one = daily(24 * 30, 3, "Europe/Berlin")
    found = build("seasonal_z").judge(one, 24 * 8)
    assert np.nanmax(found.strength) < 3
    astray = build("seasonal_z").judge(stretch(one.value), 24 * 8)
    changed = np.flatnonzero(np.diff(one.offset_ms))[0] + 1 - 24 * 8
    week = slice(changed, changed + 24 * 5)
    assert np.mean(astray.measure[week]) > 1.5 * np.mean(found.measure[week])


def test_a_shift_says_from_where_to_where_and_when() -> None:
    one = daily(24 * 20, 4)
    one.value[400:] += 40
    one.value[100] = 1e6  # a spike is no shift
    found = build("level_shift").judge(one, 0)
    begins = np.flatnonzero(found.strength >= 3)
    assert 400 < begins[0] <= 424
    assert found.since_ms is not None
    peak = begins[np.argmax(found.strength[begins])]
    assert abs((found.since_ms[peak] - one.ts_ms[400]) / HOUR_MS) <= 8  # a day's habit blurs it
    assert found.expected[peak] == pytest.approx(100, abs=8)
    assert found.level[peak] == pytest.approx(140, abs=8)
    # A new level that stays is the usual one.
    later = build("level_shift").judge(daily(24 * 20, 4), 0)
    assert not (later.strength >= 3).any()
    assert begins[-1] < 400 + 3 * 24


@pytest.mark.parametrize("name", PYOD_NAMES)
def test_a_row_scores_the_same_alone_and_among_others(name: str) -> None:
    """Of every PyOD detector there is; and what lies far out is strange to it."""
    value = daily(300, 6).value
    table = lag_table(value, 3, False)[3:]
    far = np.vstack([table[:20], table[20] + 300.0])
    with threadpool_limits(1):
        learned, again = (learn(name, table[:200], 7, 0.99) for _ in range(2))
        assert learned is not None
        assert again is not None
        together = learned.score(far)
        assert together.tolist() == [float(learned.score(row[None])[0]) for row in far]
        assert together.tolist() == again.score(far).tolist()
    assert learned.limit > learned.usual
    # COPOD looks towards where values lean: the other side counts half.
    assert together[-1] > (learned.usual if name == "copod" else learned.limit)


def test_ecod_and_copod_score_as_pyod_does() -> None:
    """Of a row that it judges alone: it counts the row in."""
    from pyod.models.copod import COPOD
    from pyod.models.ecod import ECOD

    table = np.random.default_rng(8).gamma(2, size=(150, 3))
    low, centre, high = np.quantile(table, [0.1, 0.5, 0.9])
    scaled = (table - centre) / ((high - low) / 2.56)
    for name, detector in (("ecod", ECOD()), ("copod", COPOD())):
        learned = learn(name, table, 0, 0.9)
        assert learned is not None
        detector.fit(scaled)
        rows = np.random.default_rng(9).gamma(2, size=(10, 3))
        alone = [
            float(detector.decision_function((row[None] - centre) / ((high - low) / 2.56))[0]) for row in rows
        ]
        assert learned.score(rows) == pytest.approx(alone, rel=1e-8)


@pytest.mark.parametrize("name", ["iforest", "pca", "knn", "lof", "mcd", "ocsvm", "kde", "gmm", "hbos"])
def test_the_others_score_as_pyod_does(name: str) -> None:
    """Of training rows and of others, from nothing but the arrays that are kept."""
    table = np.random.default_rng(8).normal(size=(150, 3))
    rows = np.random.default_rng(9).normal(0, 2, (20, 3))
    module = importlib.import_module(f"pyod.models.{name}")
    detector = getattr(module, {"iforest": "IForest"}.get(name, name.upper()))()
    if "random_state" in detector.get_params():
        detector.set_params(random_state=4)
    if name == "hbos":  # compiling takes it seconds
        module._calculate_outlier_scores = module._calculate_outlier_scores.py_func
    detector.fit(table)
    arrays, of_training = learn_form(name, table, 4)
    assert of_training == pytest.approx(detector.decision_scores_, rel=1e-9)
    assert score_form(name, arrays, rows) == pytest.approx(detector.decision_function(rows), rel=1e-9)


def test_a_search_takes_what_finds_injected_anomalies_and_says_so_again() -> None:
    value = daily(600, 10).value
    setting = Pyod(name="pca", lags=0, search=Search(trials=6))
    assert setting.search is not None
    best = find_best(setting, setting.search, value)
    assert best == find_best(setting, setting.search, value)
    # One value alone, of a series with a strong habit, says little.
    assert best != (0, False)
    with pytest.raises(ValueError, match="ask for fewer, or for a longer timeout"):
        find_best(setting, Search.model_construct(trials=6, timeout=dt.timedelta(0)), value)


def test_what_is_usual_goes_by_the_hour_where_hours_differ() -> None:
    one = daily(24 * 20, 15, "Europe/Berlin")
    hour = (one.ts_ms + one.offset_ms) // HOUR_MS % 24
    usual = learn_usual(one.ts_ms, one.offset_ms, one.value)
    assert usual[:, 0] == pytest.approx(100 + 30 * np.sin(np.arange(24) * np.pi / 12), abs=3)
    assert usual[0, 1] == pytest.approx(3 * 2, rel=0.3)
    # Less than a week, or hours that are alike: one band.
    for some in (slice(0, 24 * 6), slice(None)):
        values = one.value[some] if some.stop else np.random.default_rng(1).normal(0, 1, len(hour))
        plain = learn_usual(one.ts_ms[some], one.offset_ms[some], values)
        assert plain[:, 0].tolist() == [np.median(values)] * 24
    assert np.isnan(learn_usual(one.ts_ms[:20], one.offset_ms[:20], one.value[:20])).all()


def test_the_value_that_lies_farthest_out_says_the_way() -> None:
    ts_ms = np.arange(8) * HOUR_MS
    value = np.array([0.0, 9.0, -1.0, -1.0, np.nan, 1.0, -1.0, 0.0])
    usual = np.column_stack([np.zeros(24), np.full(24, 2.0)])
    found = lean(usual, ts_ms, np.zeros_like(ts_ms), value, 1, 3)
    assert found.direction.tolist() == [1, 1, 1, -1, 1, -1, -1]
    assert found.upper.tolist() == [2.0] * 7
    assert lean(usual, ts_ms, np.zeros_like(ts_ms), value, 4, 3).direction.tolist() == [-1, 1, -1, -1]


def test_a_constant_series_is_nothing_to_learn_from() -> None:
    found = build({"pyod": {"name": "iforest", "train": 100, "refit": "1d"}}).judge(
        stretch(np.full(300, 5.0)), 0
    )
    assert np.isnan(found.strength).all()


def test_an_ensemble_combines_what_its_members_say() -> None:
    one = daily(400, 11)
    one.value[-1] += 100
    own = {"novelty": np.full(400, 1.0), "rarity": np.full(400, np.nan)}
    rows = Stretch(one.ts_ms, one.offset_ms, one.value, own)
    z = np.minimum(build("seasonal_z").judge(rows, 399).strength, 30)
    entry = {"of": ["novelty", "rarity", "seasonal_z"]}
    for combine, expected in (("mean", (1 + z) / 2), ("max", z), ("median", (1 + z) / 2)):
        found = build({"ensemble": {**entry, "combine": combine}}).judge(rows, 399)
        assert found.strength == pytest.approx(expected)


def test_ranks_count_members_of_unlike_scale_alike() -> None:
    """What one of them says a thousand times as loud has the weight of the other; only their order counts."""
    one = daily(400, 12)
    random = np.random.default_rng(13)
    quiet, loud = random.exponential(0.01, 400), random.exponential(10.0, 400)
    quiet[-3:], loud[-3:] = [1.0, 0.01, 1.0], [30.0, 1000.0, 1000.0]
    detector = build({"ensemble": {"of": ["novelty", "rarity"], "combine": "rank"}})

    def judged(novelty: np.ndarray, rarity: np.ndarray) -> np.ndarray:
        rows = Stretch(one.ts_ms, one.offset_ms, one.value, {"novelty": novelty, "rarity": rarity})
        return detector.judge(rows, 200).strength

    said = judged(quiet, loud)
    assert said.tolist() == judged(loud, quiet).tolist()
    assert said.tolist() == judged(quiet * 1000, loud / 7).tolist()
    # Of the last three, one alone is no consensus, and both are: (0.5 + 0.5) / 400, less for the equal one before.
    assert said[-2] < 1
    assert said[-1] == pytest.approx(3 * np.log((1.0 + 0.5) / 2 / 400 + 0.25 / 400) / np.log(0.005))
    assert said[-1] > 3
    assert np.isnan(judged(np.full(400, np.nan), np.full(400, np.nan))).all()


def test_a_rank_is_the_share_of_what_was_said_before() -> None:
    one = daily(1300, 14)
    member, trained = {"seasonal_z": {}}, {"pyod": {"name": "pca", "train": 300, "refit": "1000d"}}
    found = build({"ensemble": {"of": [member, trained], "combine": "rank"}}).judge(one, 1290)
    z = build(member).judge(one, 0).strength
    of_training = build(trained).judge(one, 1290).tail
    assert of_training is not None
    for row in range(1290, 1300):
        before = z[row - 1000 : row]
        own = (0.5 + (before > z[row]).sum() + 0.5 * (before == z[row]).sum()) / (
            np.isfinite(before).sum() + 1
        )
        assert found.measure[row - 1290] == pytest.approx((own + of_training[row - 1290]) / 2)
    assert 0 < of_training.min() < of_training.max() < 1


def test_weekends_are_no_shift() -> None:
    one = daily(24 * 60, 5)
    weekday = (one.ts_ms // 86_400_000 + 3) % 7
    one.value[weekday >= 5] -= 50
    assert not (build("level_shift").judge(one, 24 * 16).strength >= 3).any()


@pytest.mark.parametrize(
    ("detectors", "path", "said"),
    [
        (["seasonal"], "detectors", "perhaps seasonal_z"),
        ([{"seasonal_z": {"week": 3}}], "detectors.0.seasonal_z.week", "expected one of weeks, threshold"),
        ([{"pyod": "ifores"}], "detectors.0.pyod", "perhaps iforest"),
        (
            [{"pyod": "LODA"}],
            "detectors.0.pyod",
            "kde, gmm, found 'LODA'; LODA calls ordinary what lies beyond",
        ),
        (
            [{"pyod": {"name": "cblof"}}],
            "detectors.0.pyod.name",
            "found 'cblof'; PyOD's others are left out as",
        ),
        ([{"pyod": {"name": "pca", "lags": -1}}], "detectors.0.pyod.lags", "greater than or equal to 0"),
        ([{"ensemble": {"of": ["rarity"]}}], "detectors.0.ensemble.of", "at least 2"),
        (
            [{"ensemble": {"of": ["rarity", {"pyod": "x"}]}}],
            "detectors.0.ensemble.of.1.pyod",
            "expected one of",
        ),
        (["novelty", "novelty"], "detectors", "expected each detector once, got novelty twice"),
        ([{"seasonal_z": {}, "rarity": {}}], "detectors.0", "expected one detector an entry"),
        ([{"level_shift": {"points": 1}}], "detectors.0.level_shift.points", "greater than or equal to 4"),
    ],
)
def test_mistakes_name_their_place(detectors: Any, path: str, said: str) -> None:
    with pytest.raises(ConfigProblems) as caught:
        validate(Document("b.yaml", "", {"python": "x:y", "detectors": detectors}, None), Batch)
    messages = [problem.message for problem in caught.value.problems if problem.path == path]
    assert any(said in message for message in messages), caught.value.problems


def test_a_batch_written_out_and_read_again_is_the_same() -> None:
    """Also from the environment, where a list is words with commas between them."""
    batch = Batch.model_validate({"python": "x:y", "detectors": ["rarity", {"seasonal_z": {"weeks": 6}}]})
    assert Batch.model_validate_json(batch.model_dump_json(exclude_unset=True)) == batch
    words = Batch.model_validate({"python": "x:y", "detectors": "rarity, seasonal_z"})
    assert [one.kind for one in words.settings("any").detectors] == ["rarity", "seasonal_z"]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            {"pyod": {"name": "iforest", "lags": 10}},
            "orders = 7 EUR: to PyOD's isolation forest on 10 lags stranger than 99.9 % of what it was trained on, "
            "2 times as far out as that",
        ),
        (
            "knn_shape",
            "orders = 7 EUR: the shape of its last 50 values is farther from any before than 99.9 % were",
        ),
        (
            {"ensemble": {"of": ["novelty", {"pyod": "pca"}], "combine": "max"}},
            "orders = 7 EUR: one of novelty and pyod pca finds it strange",
        ),
    ],
)
def test_each_says_in_a_sentence_what_is_strange(entry: Any, said: str) -> None:
    nan = float("nan")
    incident = Incident("x", 0, 1, 2, 0, 0, 0, 1, 0, 0, 7.0, nan, nan, nan, 6.0)
    assert build(entry).describe(incident, "orders", lambda value: f"{value:g} EUR").startswith(said)
