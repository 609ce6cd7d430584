"""Verdicts in their wire form: the sections ``enrichment``, ``analysis``, ``verdict`` and ``src`` put onto
the bytes that came in, which stay as they were.

Records that need nothing but numbers go through the compiled encoder; the few others, with words in them,
through msgspec. Both write the same form.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from anomalyze.detection.verdict import Prediction, Verdicts
from anomalyze.events.batch import Action, MicroBatch, Severity, Status
from anomalyze.events.gazetteer import COUNTRIES
from anomalyze.features.spec import FeatureSpec
from anomalyze.features.state import Disposition

__all__ = ["encode_anomalies", "encode_scored"]

SCORE_DECIMALS = 6  # a calibration knows at most some ten thousand rows
AMOUNT_DECIMALS = 2
KM_DECIMALS = 1

SEVERITIES = [severity.name for severity in Severity]
ACTIONS = [action.name for action in Action]
STATUSES = [status.name.lower() for status in Status]
PREDICTIONS: list[str | None] = [None, "NORMAL", "ANOMALY", "LEARNING"]
assert len(PREDICTIONS) == len(Prediction)

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
    form = _Form(verdicts)
    return [
        form.encode(batch, verdicts, row, before)
        for row, before in zip(rows.tolist(), previous.tolist(), strict=True)
    ]


def encode_anomalies(
    batch: MicroBatch,
    verdicts: Verdicts,
    rows: npt.NDArray[np.intp],
    previous: npt.NDArray[np.int64],
) -> Iterator[tuple[int, bytes]]:
    """(row, record) for the topic ``anomalies``: of every anomaly the same record as in ``scored``."""
    form = _Form(verdicts)
    for row, before in zip(rows.tolist(), previous.tolist(), strict=True):
        if row in verdicts.anomalies:
            yield row, form.encode(batch, verdicts, row, before)


class _Form:
    """Where a bundle's features stand in the wire form."""

    def __init__(self, verdicts: Verdicts) -> None:
        spec: FeatureSpec = verdicts.spec
        place = {name: i for i, name in enumerate(spec.names)}
        self.published = [(name, place[name], decimals) for name, decimals in spec.published.items()]
        self.mean = place.get("user_amount_mean_20")
        self.km = place.get("travel_km")

    def encode(self, batch: MicroBatch, verdicts: Verdicts, row: int, previous: int) -> bytes:
        """One record."""
        if verdicts.disposition[row] == Disposition.STATUS_UPDATE:
            sections: dict[str, Any] = {"verdict": {"status_update": STATUSES[int(batch.status[row])]}}
        else:
            sections = {
                "enrichment": self._enrichment(batch, verdicts, row),
                "analysis": analysis(verdicts, row),
                "verdict": verdict(verdicts, row),
            }
        sections["src"] = {
            "partition": int(batch.partition[row]),
            "offset": int(batch.offset[row]),
            "previous": previous,
        }
        start, end = int(batch.starts[row]), int(batch.data_end[row])
        return batch.buffer[start:end].tobytes() + b"," + _encode(sections)[1:]

    def _enrichment(self, batch: MicroBatch, verdicts: Verdicts, row: int) -> dict[str, Any]:
        values = verdicts.features[row].tolist()
        country = int(batch.country[row])
        return {
            "user_avg_spend": rounded(values, self.mean, AMOUNT_DECIMALS),
            "distance_from_last_tx": rounded(values, self.km, KM_DECIMALS),
            "country": COUNTRIES[country] if country >= 0 else None,
            "features": {name: rounded(values, place, decimals) for name, place, decimals in self.published},
        }


def analysis(verdicts: Verdicts, row: int) -> dict[str, Any]:
    """The section ``analysis``: flags, score, versions; for anomalies the details."""
    score = float(verdicts.ml_score[row])
    section: dict[str, Any] = {
        "rule_flags": flags(verdicts, verdicts.fired[row]),
        "ml_score": None if score != score else round(score, SCORE_DECIMALS),
        "ml_prediction": PREDICTIONS[int(verdicts.prediction[row])],
        "bundle": verdicts.bundle,
        "profiles": None,
    }
    shadow = flags(verdicts, verdicts.shadow[row])
    if shadow:
        section["shadow_flags"] = shadow
    anomaly = verdicts.anomalies.get(row)
    return section if anomaly is None else section | anomaly.details


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


def flags(verdicts: Verdicts, fired: npt.NDArray[np.bool_]) -> list[str]:
    """Ids of the rules that fired, in their order."""
    return [verdicts.rule_ids[rule] for rule in np.flatnonzero(fired).tolist()]


def rounded(values: list[float], place: int | None, decimals: int) -> float | int | None:
    """A feature as it is sent out: null for NULL, whole numbers without a point."""
    if place is None or values[place] != values[place]:
        return None
    return round(values[place]) if decimals == 0 else round(values[place], decimals)
