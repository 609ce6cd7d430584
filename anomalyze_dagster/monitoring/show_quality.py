"""What people see of detection quality in Dagster."""

from collections.abc import Mapping

import dagster as dg

from anomalyze.events.batch import Severity
from anomalyze.learning.recall import Recall, share_interval
from anomalyze.storage.quality import Outcomes, Reviewed
from anomalyze_dagster.plot import as_metadata, new_figure

__all__ = ["show_quality"]


def show_quality(
    found: Mapping[str, tuple[Outcomes, Recall]],
) -> Mapping[str, dg.MetadataValue | str | int | float]:
    """Tables by rule and severity, recall, and a plot by day for each account."""
    shown: dict[str, dg.MetadataValue | str | int | float] = {"accounts_shown": ", ".join(found) or "none"}
    for account, (outcomes, recall) in found.items():
        rules = {rule or "no rule": one for rule, one in outcomes.rules.items()}
        severities = {
            Severity(level).name: outcomes.severities[level] for level in sorted(outcomes.severities)[::-1]
        }
        shown[f"{account}: by rule"] = dg.MetadataValue.md(table("rule", rules))
        shown[f"{account}: by severity"] = dg.MetadataValue.md(table("severity", severities))
        shown[f"{account}: recall"] = recall_words(recall)
        if outcomes.days:
            shown[f"{account}: by day"] = plot_days(account, outcomes)
    return shown


def table(name: str, rows: Mapping[str, Reviewed]) -> str:
    """Cases with a label, frauds among them, and the share with its interval, in Markdown."""
    if not rows:
        return "no case has a label yet"
    lines = [f"| {name} | cases known | fraud | precision | 95 % interval |", "|-|-|-|-|-|"]
    for key, one in sorted(rows.items(), key=lambda item: -item[1].reviewed):
        low, high = share_interval(one.fraud, one.reviewed)
        share = one.fraud / one.reviewed
        lines.append(f"| {key} | {one.reviewed} | {one.fraud} | {share:.1%} | {low:.1%} to {high:.1%} |")
    return "\n".join(lines)


def recall_words(recall: Recall) -> str:
    """The estimate, or why there is none."""
    of = f"{recall.reviewed} of {recall.drawn} drawn payments are reviewed"
    if recall.share is None or recall.low is None or recall.high is None:
        return f"not known: {of}"
    return f"{recall.share:.0%} ({recall.low:.0%} to {recall.high:.0%}); {of}"


def plot_days(account: str, outcomes: Outcomes) -> dg.MarkdownMetadataValue:
    """Cases with a label by day, frauds among them."""
    figure = new_figure()
    axes = figure.subplots()
    days = list(outcomes.days)
    axes.bar(days, [outcomes.days[day].reviewed for day in days], color="#c9d3df", label="known")  # type: ignore[arg-type]
    axes.bar(days, [outcomes.days[day].fraud for day in days], color="#c0504d", label="fraud")  # type: ignore[arg-type]
    axes.legend(frameon=False, fontsize=8)
    axes.set_ylabel("cases")
    axes.tick_params(labelsize=8)
    return as_metadata(figure, f"Cases of {account} by day, and those that were fraud")
