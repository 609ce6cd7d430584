"""What people see of a day in Dagster, and what becomes an alarm."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import dagster as dg

from anomalyze.learning.drift import PSI_MAX, FeatureDrift
from anomalyze.learning.watch import SCORE, DayReport, StreamHealth
from anomalyze.storage.alarms import Alarm
from anomalyze_dagster.plot import as_metadata, new_figure

__all__ = ["find_alarms", "show_day"]

ROWS_SHOWN = 15


def find_alarms(
    day: datetime, reports: Sequence[DayReport], health: StreamHealth, run_id: str
) -> dict[str, list[Alarm]]:
    """Alarms by the check that they fail."""
    found: dict[str, list[Alarm]] = {
        name: []
        for name in ("features_steady", "scores_steady", "nulls_steady", "rules_steady", "stream_alive")
    }

    def add(check: str, subject: str, summary: str, account: str | None = None, **figures: float) -> None:
        kind = "stream" if check == "stream_alive" else "drift"
        key = f"{kind}:{check}:{account or ''}:{subject}:{day:%Y-%m-%d}"
        found[check].append(Alarm(kind, key, summary, account, figures, run_id))

    for report in reports:
        of = f"{report.account_id} on {day:%Y-%m-%d}"
        for drift in report.features:
            if drift.shifted:
                check = "scores_steady" if drift.name == SCORE else "features_steady"
                add(
                    check,
                    drift.name,
                    f"{drift.name} of {of} differs from {report.baseline}: stability index {drift.psi:.2f}.",
                    report.account_id,
                    psi=drift.psi,
                    distance=drift.distance,
                )
            if drift.lost:
                add(
                    "nulls_steady",
                    drift.name,
                    f"{drift.name} of {of} is missing in {drift.nulls_now:.0%} of the rows; before in "
                    f"{drift.nulls_before:.0%}.",
                    report.account_id,
                    now=drift.nulls_now,
                    before=drift.nulls_before,
                )
        for rule in report.rules:
            if rule.shifted:
                add(
                    "rules_steady",
                    rule.rule_id,
                    f"Rule {rule.rule_id} fires on {rule.now:.2%} of the transactions of {of}; before on "
                    f"{rule.before:.2%}.",
                    report.account_id,
                    now=rule.now,
                    before=rule.before,
                )
    for name in health.behind:
        add("stream_alive", name, f"{name} is {health.lag[name]:,} records behind.", lag=health.lag[name])
    for name in health.silent:
        add("stream_alive", name, f"{name} has been silent for over a minute.")
    for account in health.stopped:
        add(
            "stream_alive",
            "stopped",
            f"{account} sent something every day and nothing for {health.age_h[account]:.0f} hours.",
            account,
            age_h=health.age_h[account],
        )
    return found


def show_day(
    day: datetime, reports: Sequence[DayReport], health: StreamHealth
) -> Mapping[str, dg.MetadataValue | str | int | float]:
    """Counts, tables and a plot for each account."""
    shown: dict[str, dg.MetadataValue | str | int | float] = {
        "day": f"{day:%Y-%m-%d}",
        "accounts": len(reports),
        "rows": sum(report.rows for report in reports),
        "lag_records_max": max(health.lag.values(), default=0),
        "newest_transaction_age_h": round(min(health.age_h.values(), default=0.0), 2),
    }
    for report in reports:
        shown[f"{report.account_id}: baseline"] = f"{report.baseline}, {report.rows_before:,} rows"
        shown[f"{report.account_id}: features"] = dg.MetadataValue.md(feature_table(report.features))
        shown[f"{report.account_id}: drift"] = plot_drift(report)
    return shown


def feature_table(features: Sequence[FeatureDrift]) -> str:
    """The features that changed most, in Markdown."""
    lines = [
        "| feature | stability index | KS distance | p, adjusted | NULL before | NULL now |",
        "|-|-|-|-|-|-|",
    ]
    for drift in sorted(features, key=lambda one: -one.psi)[:ROWS_SHOWN]:
        sign = " ⚠" if drift.shifted or drift.lost else ""
        lines.append(
            f"| {drift.name}{sign} | {drift.psi:.3f} | {drift.distance:.3f} | {drift.p:.2g} | "
            f"{drift.nulls_before:.1%} | {drift.nulls_now:.1%} |"
        )
    return "\n".join(lines)


def plot_drift(report: DayReport) -> dg.MarkdownMetadataValue:
    """Stability index of each feature, with the line above which a shift counts."""
    worst = sorted(report.features, key=lambda one: -one.psi)[:ROWS_SHOWN][::-1]
    figure = new_figure(7.0, 0.6 + 0.25 * len(worst))
    axes = figure.subplots()
    colours = ["#c0504d" if one.shifted else "#4a7ebb" for one in worst]
    axes.barh([one.name for one in worst], [one.psi for one in worst], color=colours)
    axes.axvline(PSI_MAX, color="#333333", linewidth=1, linestyle="--")
    axes.set_xlabel("population stability index")
    axes.tick_params(labelsize=8)
    return as_metadata(figure, f"Drift of {report.account_id} by feature")
