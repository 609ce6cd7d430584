"""Whether the alert budget is kept: promised and delivered cases of days that no threshold was fitted on.

The path of the product, on a file shaped as those of ``benchmarks.fdh`` and ``benchmarks.sparkov``: the history is
replayed, a bundle is trained on what was known 28 days before the days judged, thresholds are fitted each night on the
28 days before, and the detector judges with them. The same is said of other budgets, counted from the same ranks.

    python -m benchmarks.budget --data FILE_OR_DIR --mapping benchmarks/mappings/fdh.yaml [--cases-per-day 20]
        [--test FROM..TO] [--delay-days 7] [--without-labels]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from anomalyze.backtest.mapping import load_mapping, read_file
from anomalyze.backtest.run import Replay
from anomalyze.detection.budget import with_thresholds
from anomalyze.detection.bundle import Bundle
from anomalyze.detection.detector import Detector
from anomalyze.detection.learning import (
    WINDOW_DAYS,
    FrameCollector,
    build_candidate,
    compute_snapshots,
    label_table,
    refresh_instants,
)
from anomalyze.detection.policy import Policy
from anomalyze.detection.training import build_bundle
from anomalyze.detection.verdict import BudgetEffect, Verdicts
from anomalyze.events.batch import MicroBatch
from anomalyze.features.snapshot import Profiles
from anomalyze.learning.budget import (
    DAY_MS,
    DAYS_MAX,
    RankedRows,
    count_cases,
    fit_threshold,
    keep_ranked,
)
from benchmarks.fdh import ACCOUNT, HISTORY_MS, Log, find_file, parse_days

TESTS = {"fdh": "2018-08-01..2018-08-14", "sparkov": "2023-06-01..2023-06-14"}
OTHER_BUDGETS = (5.0, 10.0, 50.0, 100.0)


@dataclass
class Shown:
    """What the detector showed of the days judged, by case: its day, and whether a fraud was in it."""

    cases: dict[str, tuple[int, bool]] = field(default_factory=dict)

    def add(self, batch: MicroBatch, verdicts: Verdicts, fraud: np.ndarray) -> None:
        """Take a micro-batch."""
        assert verdicts.ranked is not None
        effect = verdicts.ranked.effect
        for row, anomaly in verdicts.anomalies.items():
            if effect[row] in (BudgetEffect.KEPT, BudgetEffect.RAISED):
                day, found = self.cases.get(anomaly.case_id, (int(batch.ts_ms[row]) // DAY_MS, False))
                self.cases[anomaly.case_id] = (day, found or bool(fraud[row] == 1))


def main() -> None:
    """Run, print a table, then JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="parquet or CSV file, or a folder with one")
    parser.add_argument("--mapping", type=Path, default=Path("benchmarks/mappings/fdh.yaml"))
    parser.add_argument("--cases-per-day", type=float, default=20.0)
    parser.add_argument("--severity", default="HIGH", choices=["MEDIUM", "HIGH"])
    parser.add_argument("--test", help="days judged; by default 14 that the mapping's file has")
    parser.add_argument("--delay-days", type=float, default=7.0, help="days until a label is known")
    parser.add_argument("--without-labels", action="store_true", help="no supervised model")
    parser.add_argument("--config", type=Path, default=Path("metrics_config"))
    parser.add_argument("--json", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    test = parse_days(options.test or TESTS[options.mapping.stem])
    bundle = build_bundle(options.config)
    wanted = f"budget: {{cases_per_day: {options.cases_per_day}, severity: {options.severity}}}"
    bundle = replace(bundle, policy=f"{bundle.policy}\n{wanted}\n")
    result = run(
        find_file(options.data), options.mapping, bundle, test, options.delay_days, not options.without_labels
    )
    show(result)
    document = json.dumps(result)
    if options.json:
        options.json.write_text(document)
    print(document)


def run(
    path: Path, mapping: Path, bundle: Bundle, test: tuple[int, int], delay_days: float, labels: bool
) -> dict[str, Any]:
    """Replay, train, then night by night: fit and judge."""
    start_ms, end_ms = test
    as_of_ms, delay_ms = start_ms - DAYS_MAX * DAY_MS, round(delay_days * DAY_MS)
    replay = Replay(Detector(bundle))
    log, policy = Log(replay, delay_ms), replay.detector.policy
    collector = FrameCollector(replay.detector)
    learned_from = as_of_ms - delay_ms - WINDOW_DAYS * DAY_MS
    chunks = log.cut(
        read_file(
            path, load_mapping(mapping), ACCOUNT, start_ms=max(learned_from - HISTORY_MS, 0), end_ms=end_ms
        )
    )
    for first in chunks:
        if first.append_ms[0] >= as_of_ms:
            break
        collector.add(*log.judge(first, None))
    bundle = train(bundle, collector, as_of_ms, delay_ms, labels=labels)
    replay.detector = Detector(bundle)
    others = {wanted: policy_of(policy, wanted) for wanted in OTHER_BUDGETS}
    limits: dict[float, list[float]] = {wanted: [] for wanted in others}
    profiles, parts, shown = Profiles(), [], Shown()
    threshold: float | None = None
    night = start_ms
    for chunk in chain([first], chunks):
        if chunk.append_ms[0] >= night:
            window = RankedRows.join(parts), night - DAYS_MAX * DAY_MS, DAYS_MAX
            fit = fit_threshold(*window, policy, threshold)
            if fit.moves(policy.budget.cases_per_day):  # type: ignore[union-attr]
                threshold = fit.threshold
                replay.detector = Detector(with_thresholds(bundle, {ACCOUNT: threshold}))
            for wanted, other in others.items():
                before = limits[wanted][-1] if limits[wanted] else None
                limits[wanted].append(fit_threshold(*window, other, before).threshold)
            night += DAY_MS
        if labels:
            known = label_table(collector.frame(), delay_ms)
            instants = refresh_instants(replay.detector.spec, chunk.append_ms[0], chunk.append_ms[0] + 1)
            for snapshot in compute_snapshots(known, instants):
                profiles = profiles.with_snapshot(snapshot)
        part, verdicts = log.judge(chunk, profiles if labels else None)
        if labels:
            collector.add(part, verdicts)
        parts.append(keep_ranked(part.batch, verdicts))
        if chunk.append_ms[0] >= start_ms:
            shown.add(part.batch, verdicts, part.fraud)
    rows, days = RankedRows.join(parts), (end_ms - start_ms) // DAY_MS
    return summarize(shown, policy, start_ms, days) | {
        "other_budgets": {
            f"{wanted:g}": count_others(rows, start_ms, days, others[wanted], limits[wanted])
            for wanted in others
        }
    }


def train(bundle: Bundle, collector: FrameCollector, as_of_ms: int, delay_ms: int, *, labels: bool) -> Bundle:
    """The bundle in force before the days judged."""
    frame = collector.frame()
    instants = refresh_instants(Detector(bundle).spec, int(frame.ts_ms.min()), as_of_ms)
    frame = frame.with_profiles(compute_snapshots(label_table(frame, delay_ms), instants))
    made = build_candidate(bundle, frame, as_of_ms=as_of_ms, delay_ms=delay_ms)
    return made if labels else replace(made, supervised=None)


def policy_of(policy: Policy, cases_per_day: float) -> Policy:
    """The policy with another number."""
    assert policy.budget is not None
    return policy.model_copy(
        update={"budget": policy.budget.model_copy(update={"cases_per_day": cases_per_day})}
    )


def count_others(
    rows: RankedRows, start_ms: int, days: int, policy: Policy, limits: list[float]
) -> dict[str, float]:
    """Cases that another budget would have shown, each day by the threshold of its night."""
    assert policy.budget is not None
    day = np.clip((rows.ts_ms - start_ms) // DAY_MS, 0, days - 1)
    delivered = int(count_cases(rows, start_ms, days, policy, np.array(limits)[day]).sum())
    return {"delivered": delivered, "ratio": round(delivered / (policy.budget.cases_per_day * days), 3)}


def summarize(shown: Shown, policy: Policy, start_ms: int, days: int) -> dict[str, Any]:
    """Promised and delivered, day by day."""
    assert policy.budget is not None
    by_day = [0] * days
    for day, _ in shown.cases.values():
        by_day[day - start_ms // DAY_MS] += 1
    promised = policy.budget.cases_per_day * days
    return {
        "promised": promised,
        "delivered": sum(by_day),
        "ratio": round(sum(by_day) / promised, 3),
        "by_day": by_day,
        "with_fraud": sum(found for _, found in shown.cases.values()),
    }


def show(result: dict[str, Any]) -> None:
    """The table for people."""
    days = len(result["by_day"])
    table = Table("budget", "promised", "delivered", "ratio")
    table.add_row(
        f"{result['promised'] / days:g} a day",
        f"{result['promised']:g}",
        str(result["delivered"]),
        f"{result['ratio']:.2f}",
    )
    for wanted, other in result["other_budgets"].items():
        table.add_row(
            f"{wanted} a day", f"{float(wanted) * days:g}", str(other["delivered"]), f"{other['ratio']:.2f}"
        )
    console = Console()
    console.print(table)
    console.print(f"by day: {result['by_day']}; {result['with_fraud']} of the cases held a fraud")


if __name__ == "__main__":
    main()
