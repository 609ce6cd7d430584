"""Learning from late labels: frame equals stream to the bit, and what a second model may say."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from anomalyze.detection import search
from anomalyze.detection.bundle import Bundle
from anomalyze.detection.canary import release_canary
from anomalyze.detection.detector import Detector, PartitionState
from anomalyze.detection.learning import (
    SUSPECT,
    FrameCollector,
    LabelledBatch,
    LearningFrame,
    build_candidate,
    compute_snapshots,
    label_table,
    refresh_instants,
    training_frame,
)
from anomalyze.detection.proof import average_precision, compute_lead, prove
from anomalyze.detection.search import FITS, search_fit
from anomalyze.detection.supervised import Proof
from anomalyze.detection.training import build_bundle
from anomalyze.errors import ContractError
from anomalyze.events.batch import Control, MicroBatch, Severity
from anomalyze.events.gazetteer import Gazetteer
from anomalyze.events.hashing import text_keys
from anomalyze.features.snapshot import Profiles, merchant_keys
from anomalyze.models.boosting import DEFAULT_FIT, SUPERVISED_INPUTS, Fit
from anomalyze.simulation.starter import decode_traffic
from anomalyze.simulation.world import Simulation

CONFIG = Path(__file__).parents[2] / "metrics_config"
DAY = 86_400_000
START_MS = 1_760_054_400_000
DELAY_MS = 3 * DAY
DAYS = 34


@dataclass(frozen=True)
class History:
    bundle: Bundle
    parts: list[LabelledBatch]

    def until(self, instant_ms: int) -> list[LabelledBatch]:
        return [part for part in self.parts if part.batch.ts_ms.max() < instant_ms]


@pytest.fixture(scope="session")
def history() -> History:
    """Ordinary payments; at one merchant in nine, for ten days each, half are fraud of any amount."""
    world = Simulation(220, 5, START_MS, DAYS, per_day_mean=3.0, incidents_per_10k=40.0)
    batches = decode_traffic(world.chunks(), "l", "acct", Gazetteer.load(CONFIG))
    random = np.random.default_rng(2)
    parts = []
    for batch in batches:
        for piece in cut(batch, [batch.n // 3, batch.n // 2]):
            bad = (piece.merchant % np.uint64(9) == 0) & (
                (piece.ts_ms // DAY + (piece.merchant % np.uint64(97)).astype(np.int64)) % 20 < 10
            )
            fraud = np.where(bad & (random.random(piece.n) < 0.5), 1, -1).astype(np.int8)
            late = random.choice([1, 2, 3, 4, 12], piece.n) * DAY  # some become known after the delay
            parts.append(LabelledBatch(piece, fraud, piece.ts_ms + late))
    return History(build_bundle(CONFIG), parts)


def cut(batch: MicroBatch, at: list[int]) -> list[MicroBatch]:
    """A micro-batch of one partition in pieces."""
    pieces = []
    for first, end in itertools.pairwise([0, *at, batch.n]):
        if end == first:
            continue
        values = {}
        for name in batch.__dataclass_fields__:
            value = getattr(batch, name)
            per_row = isinstance(value, np.ndarray) and name != "buffer"
            values[name] = value[first:end] if per_row else value
        pieces.append(MicroBatch(**values | {"n": end - first, "groups": [(0, 0, end - first)]}))
    return pieces


@pytest.fixture(scope="session")
def frame(history: History) -> LearningFrame:
    return training_frame(history.bundle, history.parts, {0: PartitionState.empty()}, delay_ms=DELAY_MS)


@pytest.fixture(scope="session")
def candidate(history: History, frame: LearningFrame) -> Bundle:
    return build_candidate(
        history.bundle, frame, as_of_ms=START_MS + (DAYS - 4) * DAY, delay_ms=DELAY_MS, seed=1
    )


def test_the_frame_is_the_stream_to_the_bit(
    history: History, frame: LearningFrame, candidate: Bundle
) -> None:
    """The detector in service, profiles computed as the days go by, other cuts: the same values."""
    detector = Detector(candidate)
    collector = FrameCollector(detector)
    state, profiles, known_until = {0: PartitionState.empty()}, Profiles(), 0
    random = np.random.default_rng(8)
    for part in history.parts:
        first = int(part.batch.ts_ms.min())
        for instant in refresh_instants(detector.spec, first, int(part.batch.ts_ms.max()) + 1):
            if instant > known_until and collector._parts:
                table = label_table(collector.frame(), DELAY_MS)
                for snapshot in compute_snapshots(table, [instant]):
                    profiles = profiles.with_snapshot(snapshot)
                known_until = instant
        at = sorted(random.integers(0, part.batch.n, 3).tolist())
        for piece in cut(part.batch, at):
            rows = np.searchsorted(part.batch.offset, piece.offset)
            labelled = LabelledBatch(piece, part.fraud[rows], part.known_ms[rows])
            collector.add(labelled, detector.process(piece, state, profiles))
    streamed = collector.frame()
    # A part may begin before an instant whose labels lie within it: compare where the stream had the snapshot.
    assert streamed.names == frame.names
    own = [i for i, name in enumerate(frame.names) if not name.startswith("merchant_")]
    assert streamed.features[:, own].tobytes() == frame.features[:, own].tobytes()
    again = frame.with_profiles(profiles._snapshots)
    newest = profiles._snapshots[0].as_of_ms
    rows = frame.ts_ms >= newest
    assert rows.sum() > 1_000
    assert streamed.features[rows].tobytes() == again.features[rows].tobytes()
    assert again.features[rows].tobytes() == frame.features[rows].tobytes()
    merchants = [i for i, name in enumerate(frame.names) if name.startswith("merchant_")]
    assert (~np.isnan(frame.features[rows][:, merchants])).any(axis=0).all()


def test_without_profiles_what_labels_say_is_null(history: History, frame: LearningFrame) -> None:
    detector = Detector(history.bundle)
    part = history.parts[0]
    with_none = detector.process(part.batch, {0: PartitionState.empty()})
    names = detector.spec.profile_names
    assert np.isnan(with_none.features[:, -len(names) :]).all()
    assert len(detector.spec.label_names) == 7


def test_labels_count_from_when_they_are_known(frame: LearningFrame) -> None:
    fraud = np.flatnonzero((frame.fraud == 1) & (frame.known_ms > frame.ts_ms + DELAY_MS))[0]
    settled, known = int(frame.ts_ms[fraud]) + DELAY_MS, int(frame.known_ms[fraud])
    said = [int(frame.labels_at(at, DELAY_MS)[fraud]) for at in (settled, settled + 1, known, known + 1)]
    assert said == [-1, 0, 0, 1]
    table = label_table(frame, DELAY_MS)
    mine = table.filter((table["key"] == frame.merchant[fraud]) & (table["ts_ms"] == frame.ts_ms[fraud]))
    assert sorted(mine.select("fraud", "known_ms", "until_ms").rows()) == [
        (False, settled, known),
        (True, known, np.iinfo(np.int64).max),
    ]


def test_what_came_later_teaches_nothing(history: History, frame: LearningFrame, candidate: Bundle) -> None:
    as_of = START_MS + (DAYS - 4) * DAY
    early = training_frame(
        history.bundle, history.until(as_of), {0: PartitionState.empty()}, delay_ms=DELAY_MS
    )
    known = np.where(early.known_ms < as_of, early.fraud, -1).astype(np.int8)
    assert (known != early.fraud).any()
    again = build_candidate(
        history.bundle, replace(early, fraud=known), as_of_ms=as_of, delay_ms=DELAY_MS, seed=1
    )
    assert again.id == candidate.id


def test_it_finds_what_the_forest_cannot(frame: LearningFrame, candidate: Bundle) -> None:
    detector = Detector(candidate)
    as_of = START_MS + (DAYS - 4) * DAY
    later = frame.at(frame.ts_ms >= as_of)
    view = candidate.supervised_view()
    assert view is not None
    learned, strange = (
        one.build_scorer().score(  # type: ignore[union-attr]
            np.column_stack([later.column(i.name) for i in one.inputs]).astype(np.float32)
        )
        for one in (view, candidate)
    )
    fraud = later.fraud == 1
    assert average_precision(learned.astype(float), fraud) > 3 * average_precision(
        strange.astype(float), fraud
    )
    assert {i.group for i in view.inputs} > {"amount", "merchant"}
    assert detector.spec.profile_names


def judge_latest(
    bundle: Bundle, history: History, frame: LearningFrame
) -> tuple[np.ndarray, dict[int, dict[str, object]]]:
    """Severities and details of the newest day's rows, with profiles."""
    detector, state = Detector(bundle), {0: PartitionState.empty()}
    instants = refresh_instants(detector.spec, START_MS + (DAYS - 5) * DAY, START_MS + DAYS * DAY)
    profiles = Profiles(compute_snapshots(label_table(frame, DELAY_MS), instants))
    severities, details = [], {}
    for part in history.parts:
        verdicts = detector.process(part.batch, state, profiles)
        if part.batch.ts_ms.min() >= START_MS + (DAYS - 4) * DAY:
            start = sum(len(s) for s in severities)
            severities.append(verdicts.severity)
            details |= {
                start + row: {**a.details, "sentence": a.explanation} for row, a in verdicts.anomalies.items()
            }
    return np.concatenate(severities), details


def test_a_proven_model_may_say_more_than_medium(
    history: History, frame: LearningFrame, candidate: Bundle
) -> None:
    assert candidate.supervised is not None
    no_rules = replace(candidate, rules={})
    severity, details = judge_latest(no_rules, history, frame)
    assert severity.max() == Severity.MEDIUM
    told = [d for d in details.values() if d["model"]["groups"][0]["group"] == "merchant"]  # type: ignore[index]
    assert told
    assert any("frauds at" in str(d["sentence"]).lower() for d in told), [d["sentence"] for d in told][:5]
    proven = replace(
        no_rules, supervised=replace(candidate.supervised, proofs={"acct": Proof(50, 0.1, 0.01)})
    )
    assert judge_latest(proven, history, frame)[0].max() == Severity.HIGH
    for proofs in (
        {"acct": Proof(49, 0.1, 0.01)},
        {"acct": Proof(500, 0.1, 0.0)},
        {"another": Proof(500, 0.1, 0.01)},
    ):
        unproven = replace(no_rules, supervised=replace(candidate.supervised, proofs=proofs))
        assert judge_latest(unproven, history, frame)[0].max() == Severity.MEDIUM


def test_without_profiles_the_forest_judges_alone(history: History, candidate: Bundle) -> None:
    assert candidate.supervised is not None
    proven = replace(
        candidate, supervised=replace(candidate.supervised, proofs={"acct": Proof(50, 0.1, 0.01)})
    )
    one, other = (Detector(b) for b in (proven, replace(candidate, supervised=None)))
    states = {0: PartitionState.empty()}, {0: PartitionState.empty()}
    for part in history.parts[-12:]:
        pair = one.process(part.batch, states[0]), other.process(part.batch, states[1])
        for name in ("severity", "ml_score", "prediction", "features"):
            assert getattr(pair[0], name).tobytes() == getattr(pair[1], name).tobytes(), name
        assert [a.explanation for a in pair[0].anomalies.values()] == [
            a.explanation for a in pair[1].anomalies.values()
        ]


def test_a_model_says_nothing_of_accounts_it_did_not_learn_from(
    history: History, frame: LearningFrame, candidate: Bundle
) -> None:
    assert candidate.supervised is not None
    assert candidate.supervised.accounts == ("acct",)
    strangers = replace(
        candidate,
        rules={},
        account_calibrations={},
        supervised=replace(candidate.supervised, accounts=("another",), proofs={"acct": Proof(99, 0.9, 0.5)}),
    )
    _, details = judge_latest(strangers, history, frame)
    assert all(d["model"]["severity"] == "NONE" for d in details.values())  # type: ignore[index]


def test_the_bundle_comes_back_and_older_ones_stay_as_they_were(history: History, candidate: Bundle) -> None:
    again = Bundle.from_bytes(candidate.data, candidate.id)
    assert again.supervised is not None
    assert candidate.supervised is not None
    assert again.supervised.onnx == candidate.supervised.onnx
    assert again.supervised.inputs == candidate.supervised.inputs
    assert again.supervised.calibration.to_bytes() == candidate.supervised.calibration.to_bytes()
    assert again.supervised.accounts == candidate.supervised.accounts
    assert replace(candidate, supervised=None).id != candidate.id
    assert b"supervised" not in replace(candidate, supervised=None).data.split(b"features.yaml")[0][:20_000]
    damaged = candidate.data.replace(b'"matured_frauds": 0', b'"matured_frauds": 9')
    with pytest.raises(ContractError):
        Bundle.from_bytes(damaged, candidate.id)


def test_a_known_fraud_leaves_its_users_baseline(history: History) -> None:
    detector, part = Detector(history.bundle), history.parts[0]
    usual = detector.spec.index("user_amount_n")
    counted = []
    for body in (None, {"fraud": True}, {"fraud": False}):
        state = PartitionState.empty()
        later = [p for p in history.parts if p.batch.ts_ms.min() > START_MS + 5 * DAY]
        for one in history.parts[:9]:
            detector.process(one.batch, {0: state})
        if body is not None:
            row = part.batch.row_bytes(0)
            import msgspec

            event = msgspec.json.decode(row)
            names = {
                "account_id": "acct",
                "user_id": event["meta"]["user_id"],
                "tx_id": event["data"]["tx_id"],
            }
            steps = [True] if body["fraud"] else [True, False]
            for fraud in steps:
                control = Control(0, 0, "label", names | {"fraud": fraud})
                assert detector.apply_control(control, state) is None
        counts = {}
        for one in later[:6]:
            verdicts = detector.process(one.batch, {0: state})
            for key, n in zip(one.batch.user_key[:, 0].tolist(), verdicts.features[:, usual], strict=True):
                counts.setdefault(key, n)
        counted.append(counts)
    user = int(part.batch.user_key[0, 0])
    assert counted[1][user] == counted[0][user] - 1
    assert counted[2] == counted[0]
    refused = detector.apply_control(Control(0, 0, "label", {"fraud": 1}), state)
    assert refused is not None
    assert "expected account_id, user_id, tx_id and fraud" in refused


def test_average_precision_and_lead() -> None:
    from sklearn.metrics import average_precision_score

    random = np.random.default_rng(4)
    fraud = random.random(3_000) < 0.05
    weak, user = random.random(3_000).round(2), random.integers(0, 300, 3_000).astype(np.uint64)
    strong = weak + fraud
    weight = random.integers(0, 4, 3_000).astype(float)
    for score in (weak, strong):
        assert average_precision(score, fraud, weight) == pytest.approx(
            average_precision_score(fraud, score, sample_weight=weight)
        )
    lead, low = compute_lead(strong, weak, fraud, user)
    assert 0.5 < low < lead
    assert compute_lead(weak, weak, fraud, user) == (0.0, 0.0)
    assert compute_lead(weak, strong, fraud, user)[1] < 0
    assert np.isnan(average_precision(weak, fraud & False))


def test_proof_goes_into_the_bundle(candidate: Bundle, frame: LearningFrame) -> None:
    later = frame.at(frame.ts_ms >= START_MS + (DAYS - 4) * DAY)
    fraud, day = later.fraud == 1, later.ts_ms // DAY
    found = prove(fraud + 0.0, np.zeros(len(fraud)), fraud, later.user, day)
    assert found.cases == len({*zip(later.user[fraud].tolist(), day[fraud].tolist(), strict=True)}) >= 50
    assert found.lead_low > 0.5
    assert not prove(np.zeros(len(fraud)), fraud + 0.0, fraud, later.user, day).holds
    assert candidate.supervised is not None
    proven = replace(candidate, supervised=replace(candidate.supervised, proofs={"acct": found}))
    again = Bundle.from_bytes(proven.data, proven.id).supervised
    assert again is not None
    assert again.proofs == {"acct": found}
    assert (again.proven_for("acct"), again.proven_for("another")) == (True, False)


def test_the_canary_dies_of_what_tells_of_the_future(frame: LearningFrame, candidate: Bundle) -> None:
    as_of, spec = START_MS + (DAYS - 8) * DAY, Detector(candidate).spec
    instants = refresh_instants(spec, int(frame.ts_ms.min()), int(frame.ts_ms.max()) + 1)

    def join(one: LearningFrame) -> LearningFrame:
        return one.with_profiles(compute_snapshots(label_table(one, DELAY_MS), instants))

    def leaking(one: LearningFrame) -> LearningFrame:
        """The merchant's share of frauds of the whole day, as a careless query computes it."""
        features, day = one.features.copy(), one.ts_ms // DAY
        rows = pl.DataFrame({"merchant": one.merchant, "day": day, "fraud": one.fraud == 1})
        share = rows.select(pl.col("fraud").mean().over("merchant", "day")).to_series().to_numpy()
        features[:, one.names.index("merchant_fraud_share_30d")] = share
        return replace(one, features=features)

    sound = release_canary(frame, as_of, DELAY_MS, join)
    assert sound is not None
    assert sound.sings, sound
    assert sound.frauds > 50
    found = release_canary(frame, as_of, DELAY_MS, leaking)
    assert found is not None
    assert not found.sings, found
    few = replace(frame, fraud=np.where(frame.fraud == 1, -1, frame.fraud).astype(np.int8))
    assert release_canary(few, as_of, DELAY_MS, join) is None


def test_a_fit_replaces_the_default_only_when_it_surely_leads(frame: LearningFrame) -> None:
    fraud = frame.fraud == 1
    given = (frame.features, frame.names, fraud, frame.user, frame.ts_ms)
    fit, figures = search_fit(*given)
    assert {name.removeprefix("search_ap_") for name in figures if "_ap_" in name} == set(FITS)
    assert (fit, figures) == search_fit(*given)
    leads = {name: figures.get(f"search_low_{name}", 0.0) for name in FITS}
    assert fit == DEFAULT_FIT or leads[next(name for name in FITS if FITS[name] == fit)] > 0
    few = np.cumsum(fraud) <= 60
    assert search_fit(*given[:2], fraud & few, *given[3:]) == (DEFAULT_FIT, {})
    blind = {"default": Fit(rounds=1, num_leaves=2, max_depth=1), "sighted": DEFAULT_FIT}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "FITS", blind)
        assert search_fit(*given)[0] == blind["sighted"]
        patch.setattr(search, "FITS", {"default": DEFAULT_FIT, "blind": blind["default"]})
        assert search_fit(*given)[0] == DEFAULT_FIT


def test_suspects_teach_nothing_however_long_they_wait(frame: LearningFrame) -> None:
    open_cases = replace(frame, fraud=np.where(frame.fraud == -1, SUSPECT, frame.fraud).astype(np.int8))
    late = START_MS + 400 * DAY
    assert set(np.unique(open_cases.labels_at(late, DELAY_MS))) == {-1, 1}
    assert set(np.unique(frame.labels_at(late, DELAY_MS))) == {0, 1}
    assert label_table(open_cases, DELAY_MS).equals(label_table(frame, DELAY_MS))
    own = {"acct": DELAY_MS}
    assert np.array_equal(
        frame.labels_at(START_MS + 9 * DAY, own), frame.labels_at(START_MS + 9 * DAY, DELAY_MS)
    )


def test_every_input_is_a_feature(history: History) -> None:
    spec = Detector(history.bundle).spec
    assert {i.name for i in SUPERVISED_INPUTS} <= set(spec.names)
    assert all(spec.kinds[i.name].group in {j.group for j in SUPERVISED_INPUTS} for i in SUPERVISED_INPUTS)
    keys = merchant_keys(text_keys(["acct"]), np.array([1], dtype=np.uint64))
    assert keys[0] != 0
