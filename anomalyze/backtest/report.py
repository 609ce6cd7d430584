"""What a backtest found, in figures: for people as tables, for machines as one JSON object."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from anomalyze.backtest.run import Findings
from anomalyze.events.batch import Severity

__all__ = ["print_report", "summarise"]


def summarise(findings: Findings) -> dict[str, Any]:
    """Counts a day, by rule and by severity; precision and recall where labels are known.

    ``precision`` is the share of the labelled flagged rows that are fraud, ``recall`` the share of the frauds
    that were flagged; both None without labels. Average precision and ROC AUC rank rows without a score last.
    """
    label = np.concatenate(findings.label) if findings.label else np.empty(0, dtype=np.int8)
    severity = np.concatenate(findings.severity) if findings.severity else np.empty(0, dtype=np.int8)
    days = np.unique(np.concatenate(findings.day)) if findings.day else np.empty(0)
    n, frauds = len(label), int((label == 1).sum())
    per_day = max(len(days), 1)
    fired = np.concatenate(findings.fired) if findings.fired else np.empty((0, len(findings.rule_ids)), bool)
    report: dict[str, Any] = {
        "transactions": n,
        "days": len(days),
        "frauds": frauds,
        "labelled": int((label >= 0).sum()),
        "repeats": findings.repeats,
        "dead_letters": findings.dead_total,
        "anomalies_day": round(float((severity > 0).sum()) / per_day, 2),
        "cases_day": round(len(findings.cases) / per_day, 2),
        "anomalies_10k": per_10k((severity > 0).sum(), n),
        "severity": {},
        "rules": {},
    }
    for level in list(Severity)[1:]:
        flagged = severity >= level
        report["severity"][level.name] = {"10k": per_10k(flagged.sum(), n), **rates(flagged, label)}
    for i, name in enumerate(findings.rule_ids):
        report["rules"][name] = {
            "live": findings.live[i],
            "10k": per_10k(fired[:, i].sum(), n),
            **rates(fired[:, i], label),
        }
    for name, parts in (("model", findings.score), ("two_quantile", findings.statistic)):
        if frauds and parts:
            report[name] = ranking(np.concatenate(parts), label)
    return report


def per_10k(count: Any, n: int) -> float:
    """Firings of 10,000 transactions."""
    return round(10_000 * int(count) / max(n, 1), 2)


def rates(flagged: npt.NDArray[np.bool_], label: npt.NDArray[np.int8]) -> dict[str, float | None]:
    """Precision and recall of a flag."""
    known = int((flagged & (label >= 0)).sum())
    hits, frauds = int((flagged & (label == 1)).sum()), int((label == 1).sum())
    return {
        "precision": round(hits / known, 4) if known and frauds else None,
        "recall": round(hits / frauds, 4) if frauds else None,
    }


def ranking(score: npt.NDArray[np.float64], label: npt.NDArray[np.int8]) -> dict[str, float | None]:
    """Average precision and area under the ROC curve over the labelled rows."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    known = label >= 0
    truth, ranked = label[known] == 1, np.nan_to_num(score[known], nan=-np.inf)
    ranked = np.where(
        np.isfinite(ranked), ranked, np.nanmin(np.where(np.isfinite(ranked), ranked, np.nan)) - 1
    )
    if truth.all() or not truth.any():
        return {"average_precision": None, "roc_auc": None}
    return {
        "average_precision": round(float(average_precision_score(truth, ranked)), 4),
        "roc_auc": round(float(roc_auc_score(truth, ranked)), 4),
    }


def print_report(report: dict[str, Any], console: Console) -> None:
    """Tables for people."""
    console.print(
        f"{report['transactions']:,} transactions of {report['days']} days judged, "
        f"{report['dead_letters']:,} refused, {report['frauds']:,} known frauds."
    )
    console.print(
        f"{report['anomalies_day']:,} anomalies and {report['cases_day']:,} cases a day; "
        f"{report['anomalies_10k']} anomalies of 10,000 transactions."
    )
    for title, part in (("Severity at least", "severity"), ("Rule", "rules")):
        table = Table(title, "of 10,000", "precision", "recall", box=None, pad_edge=False)
        for name, row in report[part].items():
            mode = "" if row.get("live", True) else " (not live)"
            table.add_row(name + mode, f"{row['10k']:g}", shown(row["precision"]), shown(row["recall"]))
        console.print(table)
    for name, words in (("model", "Model's score"), ("two_quantile", "Two-quantile maximum")):
        if name in report:
            found = report[name]
            console.print(
                f"{words}: average precision {shown(found['average_precision'])}, "
                f"ROC AUC {shown(found['roc_auc'])}."
            )


def shown(value: float | None) -> str:
    """A share, or a dash where there is none."""
    return "–" if value is None else f"{value:.3f}"
