"""Verdicts in their wire form: the sections ``enrichment``, ``analysis``, ``verdict`` and ``src`` put onto
the bytes that came in, which stay as they were.

Rows that need nothing but numbers go through the compiled encoder; for the few others, with words in them,
the three sections are made here.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from anomalyze.detection.verdict import Challenged, Prediction, Verdicts
from anomalyze.events.batch import Action, MicroBatch, Severity, Status
from anomalyze.events.encode import SCORE_DECIMALS, Challenge, ScoredEncoder
from anomalyze.events.gazetteer import COUNTRIES
from anomalyze.features.spec import FeatureSpec
from anomalyze.features.state import Disposition

__all__ = ["encode_scored", "pick_anomalies"]

SEVERITIES = [severity.name for severity in Severity]
ACTIONS = [action.name for action in Action]
STATUSES = [status.name.lower() for status in Status]
PREDICTIONS = [prediction.name for prediction in Prediction]

# As plain numbers: on the way of every call, looking up a member of an enumeration is not free.
NONE, ALLOW = int(Severity.NONE), int(Action.ALLOW)
JUDGE, STATUS_UPDATE = int(Disposition.JUDGE), int(Disposition.STATUS_UPDATE)
ANOMALY, LEARNING = int(Prediction.ANOMALY), int(Prediction.LEARNING)

_encode = msgspec.json.encode


def encode_scored(
    batch: MicroBatch,
    verdicts: Verdicts,
    rows: npt.NDArray[np.intp],
    previous: npt.NDArray[np.int64],
) -> list[bytes]:
    """Records for the topic ``scored``.

    Parameters
    ----------
    rows
        Rows that say something: JUDGE and STATUS_UPDATE.
    previous
        For each of them the offset of the record before it in its partition of ``scored``, -1 for the first.
    """
    return _form(verdicts).encode(batch, verdicts, rows, previous)


def pick_anomalies(
    verdicts: Verdicts, rows: npt.NDArray[np.intp], scored: Sequence[bytes]
) -> list[tuple[int, bytes]]:
    """(row, record) for the topic ``anomalies``: of every anomaly the same record as in ``scored``.

    Parameters
    ----------
    rows, scored
        What ``encode_scored`` was given, and what it made of it.
    """
    if not verdicts.anomalies:
        return []
    return [(row, scored[i]) for i, row in enumerate(rows.tolist()) if row in verdicts.anomalies]


@dataclass(frozen=True, slots=True)
class _Form:
    """The wire form of verdicts by one bundle, one version of profiles and one challenger, and where its features
    stand in it."""

    encoder: ScoredEncoder
    published: npt.NDArray[np.intp]
    spend: int
    distance: int

    @classmethod
    def of(
        cls,
        bundle: str,
        profiles: str | None,
        challenger: str | None,
        daily: str | None,
        spec: FeatureSpec,
    ) -> _Form:
        names = list(spec.published)
        decimals = [spec.published[name] for name in names]
        return cls(
            ScoredEncoder(names, decimals, bundle, profiles, challenger, daily),
            np.array([spec.index(name) for name in names], dtype=np.intp),
            *(
                spec.index(name) if name in spec.names else -1
                for name in ("user_amount_mean_20", "travel_km")
            ),
        )

    def encode(
        self,
        batch: MicroBatch,
        verdicts: Verdicts,
        rows: npt.NDArray[np.intp],
        previous: npt.NDArray[np.int64],
    ) -> list[bytes]:
        """Records of these rows."""
        published = verdicts.features[rows[:, None], self.published]
        unknown = np.full(len(rows), np.nan)
        spend = verdicts.features[rows, self.spend] if self.spend >= 0 else unknown
        distance = verdicts.features[rows, self.distance] if self.distance >= 0 else unknown
        learning = verdicts.prediction == LEARNING
        wordy = (
            (verdicts.severity > NONE)
            | (verdicts.prediction == ANOMALY)
            | (verdicts.disposition != JUDGE)
            | (verdicts.action != ALLOW)
            | verdicts.fired.any(axis=1)
            | verdicts.shadow.any(axis=1)
        )[rows]
        special = {}
        for i in np.flatnonzero(wordy).tolist():
            row = int(rows[i])
            if verdicts.disposition[row] == STATUS_UPDATE:
                status = STATUSES[int(batch.status[row])]
                special[row] = b'"verdict":' + _encode({"status_update": status})
            else:
                enrichment = self.encoder.enrichment(published[i], spend[i], distance[i])
                special[row] = sections(batch, verdicts, row, enrichment)
        return self.encoder.encode(
            batch,
            rows.astype(np.int64),
            published,
            spend,
            distance,
            verdicts.ml_score[rows],
            learning[rows],
            previous,
            special,
            None if verdicts.challenger is None else challenge(verdicts.challenger, rows),
        )


# The encoder keeps its buffer from call to call, so each thread has its own, for the bundle it saw last.
_of_thread = threading.local()


def _form(verdicts: Verdicts) -> _Form:
    challenger = None if verdicts.challenger is None else verdicts.challenger.bundle
    versions = (verdicts.bundle, verdicts.profiles, challenger, verdicts.daily_profiles)
    known: tuple[tuple[str, str | None, str | None, str | None], _Form] | None = getattr(
        _of_thread, "form", None
    )
    if known is None or known[0] != versions:
        known = (versions, _Form.of(*versions, verdicts.spec))
        _of_thread.form = known
    return known[1]


def sections(batch: MicroBatch, verdicts: Verdicts, row: int, enrichment: bytes) -> bytes:
    """The three sections of a row that has something to tell."""
    country = int(batch.country[row])
    if country >= 0:
        enrichment = enrichment[:-1] + b',"country":"' + COUNTRIES[country].encode() + b'"}'
    return b"%b,%b" % (
        enrichment,
        _encode({"analysis": analysis(verdicts, row), "verdict": verdict(verdicts, row)})[1:-1],
    )


def analysis(verdicts: Verdicts, row: int) -> dict[str, Any]:
    """The section ``analysis``: flags, score, bundle; for anomalies the details; last what a challenger says."""
    score = float(verdicts.ml_score[row])
    section: dict[str, Any] = {
        "rule_flags": flags(verdicts.rule_ids, verdicts.fired[row]),
        "ml_score": None if score != score else round(score, SCORE_DECIMALS),
        "ml_prediction": PREDICTIONS[int(verdicts.prediction[row])],
        "bundle": verdicts.bundle,
    }
    if verdicts.profiles is not None:
        section["profiles"] = verdicts.profiles
    if verdicts.daily_profiles is not None:
        section["daily_profiles"] = verdicts.daily_profiles
    shadow = flags(verdicts.rule_ids, verdicts.shadow[row])
    if shadow:
        section["shadow_flags"] = shadow
    anomaly = verdicts.anomalies.get(row)
    if anomaly is not None:
        section |= anomaly.details
    challenged = verdicts.challenger
    if challenged is not None and challenged.said[row]:
        section["challenger"] = challenger_section(challenged, row)
    return section


def challenge(challenged: Challenged, rows: npt.NDArray[np.intp]) -> Challenge:
    """What the challenger says of these rows, for the encoder."""
    wordy = (challenged.said & ((challenged.severity > NONE) | challenged.fired.any(axis=1)))[rows]
    return Challenge(
        challenged.said[rows],
        challenged.ml_score[rows],
        {
            row: b',"challenger":' + _encode(challenger_section(challenged, row))
            for row in rows[wordy].tolist()
        },
    )


def challenger_section(challenged: Challenged, row: int) -> dict[str, Any]:
    """``analysis.challenger``: never shown as an alarm, so without words."""
    score = float(challenged.ml_score[row])
    section: dict[str, Any] = {
        "bundle": challenged.bundle,
        "final_severity": SEVERITIES[int(challenged.severity[row])],
        "ml_score": None if score != score else round(score, SCORE_DECIMALS),
    }
    fired = flags(challenged.rule_ids, challenged.fired[row])
    return section | {"rule_flags": fired} if fired else section


def verdict(verdicts: Verdicts, row: int) -> dict[str, Any]:
    """The section ``verdict``."""
    section: dict[str, Any] = {
        "final_severity": SEVERITIES[int(verdicts.severity[row])],
        "action": ACTIONS[int(verdicts.action[row])],
    }
    anomaly = verdicts.anomalies.get(row)
    if anomaly is None:
        return section
    return section | {
        "case_id": anomaly.case_id,
        "anomaly_id": anomaly.id,
        "case_anomalies": anomaly.case_anomalies,
        "late": anomaly.late,
        "explanation": anomaly.explanation,
    }


def flags(rule_ids: Sequence[str], fired: npt.NDArray[np.bool_]) -> list[str]:
    """Ids of the rules that fired, in their order."""
    return [rule for rule, true in zip(rule_ids, fired.tolist(), strict=True) if true]
