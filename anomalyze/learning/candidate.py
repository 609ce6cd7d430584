"""A candidate: trained on stored transactions by a replay through the detector, calibrated on later ones.

The frame is what ``Detector.process`` computed for each stored row in the order of the log, so that training and
serving cannot differ; nothing here computes a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np

from anomalyze.backtest.mapping import SourceChunk
from anomalyze.backtest.run import Replay
from anomalyze.backtest.stored import read_stored
from anomalyze.detection.account_overlay import with_newest_documents
from anomalyze.detection.budget import load_thresholds, with_thresholds
from anomalyze.detection.bundle import Bundle
from anomalyze.detection.detector import Detector
from anomalyze.detection.policy import parse_policy
from anomalyze.detection.state import PartitionState
from anomalyze.detection.training import Frame, build_bundle, collect_frame, train_bundle
from anomalyze.events.batch import MicroBatch, Severity
from anomalyze.features.snapshot import Profiles
from anomalyze.learning.admission import Admission, read_suspects
from anomalyze.learning.budget import try_budget
from anomalyze.learning.evaluation import Evaluation, Tally, judge_days, leaking_rows
from anomalyze.learning.history import History, Span
from anomalyze.learning.labels import add_supervised
from anomalyze.learning.profiles import DELAY_DAYS
from anomalyze.learning.quality import Quality, compare_quality
from anomalyze.models.calibration import fit_calibration
from anomalyze.storage.pool import connect

__all__ = ["base_bundle", "calibrate_later", "join_frames", "train_candidate"]

DAY_MS = 86_400_000
# Cases of an account that one person gets through, where nobody has said how many.
REVIEWED_A_DAY = 20.0


def base_bundle(config_dir: Path, champion: Bundle | None) -> Bundle:
    """Today's configuration without a model, with the champion's lists and what accounts saved."""
    base = build_bundle(config_dir)
    if champion is None:
        return base
    made = with_newest_documents(base, champion)
    return replace(made, lists=champion.lists, created_from={"parent": champion.id})


def train_candidate(
    dsn: str,
    history: History,
    base: Bundle,
    champion: Bundle | None,
    *,
    delay_days: float = DELAY_DAYS,
    account_delay_days: Mapping[str, float] | None = None,
    days: Profiles | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Bundle, Evaluation]:
    """Train, calibrate on later data, judge the newest days beside the champion.

    Parameters
    ----------
    dsn
        Where the transactions are.
    base
        What `base_bundle` gave.
    delay_days, account_delay_days
        After so many a transaction that nobody labelled counts as genuine; an account may have its own.
    days
        The profiles of whole days that were in force (``learning.daily.load_profiles_of``): rules read them.
    say
        Told what is being done.

    Raises
    ------
    ContractError
        The exported model does not score as the trained one.
    """
    delays = {
        account: round((account_delay_days or {}).get(account, delay_days) * DAY_MS)
        for account in history.accounts
    }
    replays = {account: Replay(Detector(base)) for account in history.accounts}
    say(f"learning from {history.train}")
    with connect(dsn, program="anomalyze-learning") as connection:
        admissions = {
            account: Admission(read_suspects(connection, account, history.train.start)) for account in replays
        }
    train = collect_part(base, replays, dsn, history.train, admissions)
    begun = {account: copy_replay(replay) for account, replay in replays.items()}
    # Rare is what is rare among all that comes: rows that nothing is learned from count here.
    say(f"calibrating on {history.calibrate}")
    later = collect_part(base, replays, dsn, history.calibrate)
    bundle = calibrate_later(train_bundle(base, train, "trained", seed=seed), train, later)
    learned = add_supervised(
        dsn,
        history,
        bundle,
        champion,
        delays,
        profiles_ms=history.calibrate.bounds_ms[0],
        seed=seed,
        say=say,
    )
    bundle = learned.bundle
    if champion is not None:
        bundle = with_thresholds(bundle, load_thresholds(champion))
    say(f"judging {history.evaluate} by the candidate and by the champion")
    profiles = learned.profiles if days is None else learned.profiles.joined(days)
    evaluation, thresholds = evaluate(dsn, history, replays, bundle, champion, profiles)
    matured, quality = compare_matured(dsn, history, begun, bundle, champion, profiles, delays)
    evaluation = msgspec.structs.replace(
        evaluation,
        quality=quality,
        matured=matured,
        canary=learned.canary,
        proofs=dict(learned.bundle.supervised.proofs) if learned.bundle.supervised else {},
        champion_proofs=dict(learned.champion),
    )
    return set_thresholds(bundle, evaluation, thresholds)


def set_thresholds(
    bundle: Bundle, evaluation: Evaluation, thresholds: dict[str, float]
) -> tuple[Bundle, Evaluation]:
    """The candidate with thresholds of its own model; an account with too few days keeps the champion's."""
    fitted = with_thresholds(bundle, load_thresholds(bundle) | thresholds)
    judged = msgspec.structs.replace(evaluation.candidate, bundle=fitted.id)
    return fitted, msgspec.structs.replace(evaluation, candidate=judged)


def collect_part(
    base: Bundle,
    replays: Mapping[str, Replay],
    dsn: str,
    part: Span,
    admissions: Mapping[str, Admission] | None = None,
) -> Frame:
    """All accounts' rows of a part, of those that are admitted. The replays move on."""
    collected = (
        collect_account(base, replay, dsn, account, part, None if admissions is None else admissions[account])
        for account, replay in replays.items()
    )
    return join_frames([frame for frame in collected if frame is not None])


def collect_account(
    base: Bundle, replay: Replay, dsn: str, account: str, part: Span, admission: Admission | None
) -> Frame | None:
    """One account's rows of a part; None when it has none. The replay moves on."""
    chunks = read_stored(dsn, account, *part.bounds_ms)
    first = next(chunks, None)
    if first is None:
        return None

    def batches() -> Iterator[MicroBatch]:
        yield replay.decode(first)
        for chunk in chunks:
            yield replay.decode(chunk)

    return collect_frame(base, batches(), replay.states, None if admission is None else admission.admit)


def copy_replay(replay: Replay) -> Replay:
    """The replay as it stands, to go on from once more."""
    states = {partition: PartitionState.empty() for partition in replay.states}
    for partition, state in states.items():
        state.restore(replay.states[partition].snapshot())
    return Replay(replay.detector, states, [list(labels) for labels in replay.labels])


def join_frames(frames: Sequence[Frame]) -> Frame:
    """Frames of several accounts as one."""
    ids: dict[str, int] = {}
    account = []
    for frame in frames:
        codes = np.array([ids.setdefault(name, len(ids)) for name in frame.accounts], dtype=np.int32)
        account.append(codes[frame.account])
    return Frame(
        frames[0].names,
        np.concatenate([frame.features for frame in frames]),
        tuple(ids),
        np.concatenate(account),
        (min(frame.window[0] for frame in frames), max(frame.window[1] for frame in frames)),
    )


def calibrate_later(bundle: Bundle, train: Frame, later: Frame) -> Bundle:
    """The bundle with calibrations of rows that the model never saw.

    An account with enough later rows has its own calibration of these; one that has enough only together with
    the rows of training keeps the one that training fitted on those.
    """
    scorer = bundle.build_scorer()
    assert scorer is not None
    source = [later.names.index(one.name) for one in bundle.inputs]
    scores = scorer.score(later.features[:, source].astype(np.float32))
    rows_min = parse_policy(bundle.policy).model.learning_rows_min
    own = dict(bundle.account_calibrations)
    for code, name in enumerate(later.accounts):
        mine = scores[later.account == code]
        if len(mine) >= rows_min:
            own[name] = fit_calibration(mine)
    return replace(
        bundle,
        calibration=fit_calibration(scores),
        account_calibrations=own,
        metrics={**bundle.metrics, "calibration_rows": float(len(scores))},
    )


def evaluate(
    dsn: str,
    history: History,
    replays: dict[str, Replay],
    bundle: Bundle,
    champion: Bundle | None,
    profiles: Profiles,
) -> tuple[Evaluation, dict[str, float]]:
    """Judge the newest part by the candidate, and by the champion from the same states.

    Returns what was found, and the alert budget's thresholds that hold for the candidate.
    """
    judges = [(Detector(one), Tally(one.id)) for one in (bundle, champion) if one is not None]
    leak_rows = leaking = 0
    for account, replay in replays.items():
        batches: list[MicroBatch] = []
        for chunk in read_stored(dsn, account, *history.evaluate.bounds_ms):
            if not batches:
                # The first chunk once whole and once only its first half, by a copy of the replay's books.
                copy = Replay(replay.detector, replay.states, [list(labels) for labels in replay.labels])
                half = slice(len(chunk.users) // 2 + 1)
                part = copy.decode(
                    SourceChunk(
                        chunk.users[half], chunk.append_ms[half], chunk.values[half], chunk.labels[half]
                    )
                )
            batches.append(replay.decode(chunk))
            if len(batches) == 1:
                rows, differing = leaking_rows(judges[0][0], replay.states, batches[0], part)
                leak_rows, leaking = leak_rows + rows, leaking + differing
        judge_days(account, replay, batches, judges, profiles)
    results = [tally.result() for _, tally in judges]
    thresholds, trial = try_budget(judges[0][1].ranked, *history.evaluate.bounds_ms, judges[0][0].policy)
    evaluation = Evaluation(
        accounts=list(history.accounts),
        windows={
            "train": str(history.train),
            "calibrate": str(history.calibrate),
            "evaluate": str(history.evaluate),
        },
        days=history.evaluate.days,
        leak_rows=leak_rows,
        leaking=leaking,
        candidate=results[0],
        champion=results[1] if len(results) > 1 else None,
        budget=trial,
    )
    return evaluation, thresholds


def compare_matured(
    dsn: str,
    history: History,
    begun: Mapping[str, Replay],
    bundle: Bundle,
    champion: Bundle | None,
    profiles: Profiles,
    delay_ms: Mapping[str, int],
) -> tuple[str, Quality | None]:
    """Fraud found by candidate and champion on the newest days that are settled and taught neither of them anything.

    Parameters
    ----------
    begun
        The replays where the forest's rows of training end.

    Returns
    -------
    tuple
        The days in words, and what was found; None without a champion.
    """
    if champion is None:
        return "", None
    end_ms = history.evaluate.bounds_ms[1]
    windows = [one.supervised.window for one in (bundle, champion) if one.supervised is not None]
    if champion.kind == "trained" and champion.training_window is not None:
        windows.append(champion.training_window)
    ended_ms = [int(datetime.fromisoformat(end).timestamp() * 1000) for _, end in windows]
    start_ms = max(history.calibrate.bounds_ms[0], *ended_ms, 0)
    days = {account: (start_ms, end_ms - delay) for account, delay in delay_ms.items()}
    judges = [(Detector(one), Tally(one.id, days)) for one in (bundle, champion)]
    settled_ms = max(end for _, end in days.values())
    for account, replay in begun.items():
        copies = [copy_replay(replay) for _ in judges]
        for chunk in read_stored(dsn, account, history.calibrate.bounds_ms[0], max(days[account][1], 0)):
            for (detector, tally), copy in zip(judges, copies, strict=True):
                tally.judge(account, detector, copy, [copy.decode(chunk)], profiles)
    mine, theirs = ((tally.cases, tally.frauds) for _, tally in judges)
    words = " to ".join(
        f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M}" for ms in (start_ms, settled_ms)
    )
    raised = judges[1][1].result().cases_from(Severity.MEDIUM)
    budget = cases_looked_at(
        bundle, raised, sum(max(end - start, 0) for start, end in days.values()) / DAY_MS
    )
    quality = compare_quality(mine, theirs, budget)
    return words if settled_ms > start_ms else "none yet", quality


def cases_looked_at(bundle: Bundle, raised: int, account_days: float) -> int:
    """How many cases people look at in so many days, summed over accounts.

    What the policy's budget says. Without one at least `REVIEWED_A_DAY`: a champion that raises little, as the
    starter does, is no measure of how much people can look at.
    """
    budget = parse_policy(bundle.policy).budget
    if budget is not None:
        return round(budget.cases_per_day * account_days)
    return max(raised, round(REVIEWED_A_DAY * account_days))
