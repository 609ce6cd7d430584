"""The checks that a candidate must pass before it may be published. Each says yes or no, and why, in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import sqrt

import numpy as np

from anomalyze.detection.bundle import Bundle
from anomalyze.detection.policy import parse_policy
from anomalyze.errors import ContractError
from anomalyze.events.batch import Severity
from anomalyze.learning.evaluation import TAILS, Evaluation
from anomalyze.learning.quality import FRAUD_CASES_MIN
from anomalyze.models.kernel import TreeKernel
from anomalyze.models.runtime import OnnxScorer
from anomalyze.models.training import PARITY_MAX

__all__ = ["GATES", "Outcome"]

PROBES = 4_096
# How far the share of rows beyond a threshold may lie from what the calibration promised, besides chance.
CALIBRATION_FACTOR = 2.0
# Cases a day at MEDIUM or above, against the champion on the same days, besides chance.
VOLUME_FACTOR = 1.5
# Both judged the same micro-batches a moment apart; other programs share the processor.
LATENCY_FACTOR = 2.0
LATENCY_SLACK_US = 20.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether a check passed, the sentence and figures that people see, and whether they are told when it did not."""

    passed: bool
    says: str
    figures: Mapping[str, float] = field(default_factory=dict)
    is_alarm: bool = True


def check_parity(bundle: Bundle, evaluation: Evaluation) -> Outcome:
    """The file in the store scores as the trained model did, in both engines.

    Training compared the exported model with the trained one; here the two engines score the file as it was
    read back, on probes around its reference row.
    """
    if bundle.model is None:
        return Outcome(False, "The candidate has no model.")
    difference = float(bundle.metrics.get("parity_difference_max", float("inf")))
    reference = np.nan_to_num(np.array(bundle.reference, dtype=np.float32))
    spread = np.maximum(np.abs(reference), 1.0)
    noise = np.random.default_rng(0).standard_normal((PROBES, len(reference))).astype(np.float32)
    probes = (reference + 3.0 * spread * noise).astype(np.float32)
    try:
        same = np.array_equal(
            OnnxScorer(bundle.model).score(probes), TreeKernel.from_onnx(bundle.model).score(probes)
        )
    except ContractError as error:
        return Outcome(False, str(error))
    return Outcome(
        same and difference <= PARITY_MAX,
        f"Exported and trained scores differ by at most {difference:.1e} (allowed {PARITY_MAX:.0e}); the two "
        f"engines score {PROBES:,} probes {'the same to the bit' if same else 'differently'}.",
        {"difference_max": difference},
    )


def check_calibration(bundle: Bundle, evaluation: Evaluation) -> Outcome:
    """On days it never saw, about as many rows lie beyond each threshold as the calibration promises."""
    judged = evaluation.candidate
    if not judged.scored:
        return Outcome(False, "No row of the evaluated days has a score.")
    passed, parts, figures = True, [], {}
    for tail, found in zip(TAILS, judged.beyond, strict=True):
        expected = tail * judged.scored
        slack = 3.0 * sqrt(expected) + 3.0
        low, high = expected / CALIBRATION_FACTOR - slack, expected * CALIBRATION_FACTOR + slack
        passed &= low <= found <= high
        parts.append(
            f"{found:,} at {tail:g} (expected {expected:,.0f}, allowed {max(low, 0):,.0f} to {high:,.0f})"
        )
        figures[f"beyond_{tail:g}"] = float(found)
    return Outcome(passed, f"Of {judged.scored:,} rows: {'; '.join(parts)}.", figures)


def check_future(bundle: Bundle, evaluation: Evaluation) -> Outcome:
    """What came later changes no feature and no verdict."""
    return Outcome(
        evaluation.leaking == 0 and evaluation.leak_rows > 0,
        f"{evaluation.leak_rows:,} rows were judged again without what came after them; {evaluation.leaking:,} differ.",
        {"rows": float(evaluation.leak_rows), "differ": float(evaluation.leaking)},
    )


def check_volume(bundle: Bundle, evaluation: Evaluation) -> Outcome:
    """People are not flooded: the budget holds; without one, cases stay near the champion's, or the policy's tails."""
    trial = evaluation.budget
    if trial is not None:
        allowed = trial.promised * VOLUME_FACTOR + 3.0 * sqrt(trial.promised) + 3.0
        return Outcome(
            trial.delivered <= allowed,
            f"A threshold of earlier days shows {trial.delivered:,} cases in {trial.days} days; the budget promises "
            f"{trial.promised:,.0f}; allowed {allowed:,.0f}.",
            {"delivered": float(trial.delivered), "promised": trial.promised},
        )
    mine = evaluation.candidate.cases_from(Severity.MEDIUM)
    figures = {"candidate_a_day": mine / evaluation.days}
    if evaluation.champion is None:
        return Outcome(
            True, f"{mine:,} cases in {evaluation.days:.1f} days; no champion to compare with.", figures
        )
    theirs = evaluation.champion.cases_from(Severity.MEDIUM)
    # A champion without a model of these people, such as the starter, says too little to be the only yardstick.
    promised = _promised_share(bundle) * evaluation.candidate.scored
    most = max(float(theirs), promised)
    allowed = most * VOLUME_FACTOR + 3.0 * sqrt(most) + 3.0
    return Outcome(
        mine <= allowed,
        f"{mine:,} cases at MEDIUM or above in {evaluation.days:.1f} days; the champion {theirs:,}; policy.yaml gives "
        f"models {promised:,.0f} of these rows; allowed {allowed:,.0f}.",
        figures | {"champion_a_day": theirs / evaluation.days, "promised_a_day": promised / evaluation.days},
    )


def _promised_share(bundle: Bundle) -> float:
    """Share of rows that the policy lets the bundle's models raise to MEDIUM or above."""
    policy = parse_policy(bundle.policy)
    kinds = [policy.model.levels] + ([policy.supervised.levels] if bundle.supervised is not None else [])
    return sum(
        max((level.tail for level in levels if Severity[level.severity] >= Severity.MEDIUM), default=0.0)
        for levels in kinds
    )


def check_latency(bundle: Bundle, evaluation: Evaluation) -> Outcome:
    """It judges about as fast as the champion."""
    mine = evaluation.candidate.row_us
    if evaluation.champion is None:
        return Outcome(True, f"{mine:.1f} µs a row; no champion to compare with.", {"candidate_us": mine})
    theirs = evaluation.champion.row_us
    allowed = theirs * LATENCY_FACTOR + LATENCY_SLACK_US
    return Outcome(
        mine <= allowed,
        f"{mine:.1f} µs a row; the champion {theirs:.1f}; allowed {allowed:.1f}.",
        {"candidate_us": mine, "champion_us": theirs},
    )


def check_canary(bundle: Bundle, evaluation: Evaluation) -> Outcome:
    """Labels drawn by lot are not found again: nothing that the model learns from tells of the future."""
    canary = evaluation.canary
    if bundle.supervised is None:
        return Outcome(True, "No model learned from labels.")
    if canary is None:
        return Outcome(True, "Too few labels to draw lots with.")
    return Outcome(
        canary.sings,
        f"A model that learned labels drawn by lot finds {canary.frauds:,} of them in {canary.rows:,} later rows with "
        f"a ROC AUC of {canary.auc:.3f}; chance explains up to {canary.allowed:.3f}."
        + ("" if canary.sings else " Some value that it learns from holds what became known later."),
        {"auc": canary.auc, "allowed": canary.allowed},
    )


def check_quality(bundle: Bundle, evaluation: Evaluation) -> Outcome:
    """On matured days it surely finds more fraud value than the champion within the same budget of cases.

    With too few matured cases nothing is known, which holds up nothing: the first models come before any label.
    """
    quality = evaluation.quality
    if quality is None:
        return Outcome(True, "No champion to compare with.")
    if not quality.known:
        return Outcome(
            True,
            f"Not known: {quality.fraud_cases:,} confirmed fraud cases on matured days ({evaluation.matured}), "
            f"{FRAUD_CASES_MIN} are needed.",
            {"fraud_cases": float(quality.fraud_cases)},
        )
    return Outcome(
        quality.better,
        f"Of {quality.value:,.0f} lost in {quality.fraud_cases:,} fraud cases of {evaluation.matured} it finds "
        f"{quality.candidate:,.0f} in {quality.budget:,} cases, the champion {quality.champion:,.0f}; 95 % interval of "
        f"the difference {quality.low:+,.0f} to {quality.high:+,.0f}, which has to lie above zero.",
        {"low": quality.low, "high": quality.high},
        # That the champion stays because nothing surely better came is no trouble.
        is_alarm=quality.worse,
    )


# By name: what it is called in Dagster, in the order in which people read them.
GATES: Mapping[str, Callable[[Bundle, Evaluation], Outcome]] = {
    "parity": check_parity,
    "calibration": check_calibration,
    "no_future_leak": check_future,
    "shuffled_labels": check_canary,
    "alert_volume": check_volume,
    "latency": check_latency,
    "quality": check_quality,
}
