"""What people read of flagged rows: the case, the sentence, what fired with which values, what would change it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyze.detection.bundle import Bundle
from anomalyze.detection.case import anomaly_id
from anomalyze.detection.column import Columns
from anomalyze.detection.counterfactual import change_columns, columns_to_change, describe_changes
from anomalyze.detection.explanation import Explainer, Finding, ordered
from anomalyze.detection.judgement import Decided, Judgement
from anomalyze.detection.row import Row, read_rows
from anomalyze.detection.state import PartitionState
from anomalyze.detection.verdict import Anomaly, Ranked, Verdicts
from anomalyze.events.batch import MicroBatch, Severity
from anomalyze.features.spec import FeatureSpec
from anomalyze.rules import ColumnTypes

__all__ = ["Teller", "usual_ranges"]

SEVERITIES = tuple(Severity)


class Teller:
    """Explains by one bundle; made once a bundle, never changed."""

    def __init__(self, bundle: Bundle, spec: FeatureSpec, judgement: Judgement) -> None:
        self._spec = spec
        self._judgement = judgement
        supervised = bundle.supervised
        self._explainer = Explainer(
            spec,
            judgement.rules,
            tuple({i.name: i for i in (*bundle.inputs, *(supervised.inputs if supervised else ()))}.values()),
            judgement.two_quantile,
            usual_ranges(bundle.statistics),
            starter=bundle.kind == "starter",
        )
        self._changed_columns = columns_to_change(judgement.columns, ColumnTypes.of_features(spec.kinds))
        told = {rule.id: place for place, rule in enumerate(ordered(judgement.rules.rules))}
        self._told_order = np.array(
            sorted(range(len(told)), key=lambda r: told[judgement.rules.ids[r]]), dtype=np.intp
        )

    def tell(
        self,
        batch: MicroBatch,
        states: Mapping[int, PartitionState],
        verdicts: Verdicts,
        decided: Decided,
        rows: npt.NDArray[np.intp],
        bases: Sequence[str],
        *,
        profiled: bool,
    ) -> None:
        """Cases, sentences and details of the flagged ``rows``, in the order of their log; ``bases`` are accounts' currencies."""
        features = verdicts.features[rows]
        read = read_rows(batch, rows, self._spec.names, features, verdicts.history[rows], bases)
        findings = self._find(verdicts, read, rows, decided)
        changed = self._counterfactuals(batch, states, decided.columns, rows, profiled=profiled)
        columns_of_rows = zip(
            rows.tolist(),
            batch.partition[rows].tolist(),
            map(tuple, batch.user_key[rows].tolist()),
            batch.tx_key[rows].tolist(),
            batch.ts_ms[rows].tolist(),
            (batch.append_ms[rows] - batch.ts_ms[rows] > self._judgement.policy.notify_age_max_ms).tolist(),
            verdicts.severity[rows].tolist(),
            read,
            findings,
            changed,
            strict=True,
        )
        for row, partition, key, tx, ts_ms, late, severity, values, found, severities in columns_of_rows:
            amount = values.number("amount_base")
            case = states[partition].cases.assign(
                key,
                tx,
                ts_ms,
                severity,
                float("nan") if amount is None else amount,
                self._judgement.policy.case_window_ms,
            )
            found.changes = describe_changes(values, severities)
            verdicts.anomalies[row] = Anomaly(
                id=anomaly_id(key, tx),
                case_id=case.id,
                case_anomalies=case.anomalies,
                late=late,
                explanation=self._explainer.sentence(values, found),
                details=self._details(values, found, verdicts.ranked, row),
            )

    def _details(self, values: Row, found: Finding, ranked: Ranked | None, row: int) -> dict[str, Any]:
        """What ``analysis`` says of an anomaly."""
        details = self._explainer.details(values, found)
        if self._judgement.budget is None or ranked is None:
            return details
        return self._judgement.budget.tell(details, ranked, row)

    def _find(
        self,
        verdicts: Verdicts,
        read: Sequence[Row],
        rows: npt.NDArray[np.intp],
        decided: Decided,
    ) -> list[Finding]:
        """What rules, statistics and model found in each of the flagged rows."""
        judged, model, judgement = decided.statistics, decided.model, self._judgement
        caps = np.where(model.learning[rows], *judgement.decision.model_caps)
        fired = verdicts.fired[rows][:, self._told_order]
        columns = zip(
            read,
            fired,
            judged.values[:, rows].T.tolist(),
            judged.severities[:, rows].T.tolist(),
            model.tail[rows].tolist(),
            np.minimum(model.severity[rows], caps).tolist(),
            judgement.model.explain(
                verdicts.features[rows], None if model.by_forest is None else model.by_forest[rows]
            ),
            strict=True,
        )
        return [
            Finding(
                rules=self._explainer.tell(
                    [judgement.rules.rules[r] for r in self._told_order[of_row].tolist()], values
                ),
                statistics=statistics,
                statistic_severities=severities,
                tail=tail,
                model_severity=SEVERITIES[model_severity],
                shares=shares,
            )
            for values, of_row, statistics, severities, tail, model_severity, shares in columns
        ]

    def _counterfactuals(
        self,
        batch: MicroBatch,
        states: Mapping[int, PartitionState],
        columns: Columns,
        rows: npt.NDArray[np.intp],
        *,
        profiled: bool,
    ) -> list[dict[str, Severity]]:
        """For each row, severity under each change that applies to it."""
        found: list[dict[str, Severity]] = [{} for _ in rows]
        changes = change_columns(columns.at(self._changed_columns, rows))
        applying = {name: np.flatnonzero(applies) for name, (_, applies) in changes.items()}
        # All changes of all rows are judged at once: what a call costs is paid once a micro-batch.
        at = np.concatenate(list(applying.values()))
        if not len(at):
            return found
        changed = {
            column: np.concatenate([changes[name][0][column][here] for name, here in applying.items()])
            for column in self._judgement.columns
        }
        severity = self._judgement.decide_changed(batch, states, changed, rows[at], profiled=profiled)
        names = [name for name, here in applying.items() for _ in range(len(here))]
        for i, name, level in zip(at.tolist(), names, severity.tolist(), strict=True):
            found[i][name] = SEVERITIES[level]
        return found


def usual_ranges(statistics: Mapping[str, float]) -> dict[str, tuple[float, float, float]]:
    """Training quantiles by feature, from the bundle's plain numbers."""
    names = {name.removeprefix("usual_mid_") for name in statistics if name.startswith("usual_mid_")}
    return {
        name: (
            statistics[f"usual_low_{name}"],
            statistics[f"usual_mid_{name}"],
            statistics[f"usual_high_{name}"],
        )
        for name in sorted(names)
    }
