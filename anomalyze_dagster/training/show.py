"""What people see of a candidate in Dagster."""

from collections.abc import Mapping

import dagster as dg

from anomalyze.detection.bundle import Bundle
from anomalyze.learning.evaluation import HISTOGRAM_BINS, Evaluation, Judged
from anomalyze_dagster.plot import as_metadata, new_figure

__all__ = ["show_candidate"]


def show_candidate(
    bundle: Bundle, evaluation: Evaluation
) -> Mapping[str, dg.MetadataValue | str | int | float]:
    """Counts, windows, a table beside the champion, and a plot of the calibration."""
    return {
        "bundle": bundle.id,
        "trained_on": evaluation.windows["train"],
        "calibrated_on": evaluation.windows["calibrate"],
        "judged_on": evaluation.windows["evaluate"],
        "accounts": len(evaluation.accounts),
        "accounts_calibrated": len(bundle.account_calibrations),
        "rows": int(bundle.metrics.get("rows", 0)),
        "model_inputs": len(bundle.inputs),
        "learned_from_labels": ", ".join(bundle.supervised.accounts) if bundle.supervised else "no: too few",
        "fraud_labels": evaluation.candidate.fraud,
        "beside_the_champion": dg.MetadataValue.md(table(evaluation)),
        "calibration": plot_calibration(evaluation.candidate),
    }


def table(evaluation: Evaluation) -> str:
    """Candidate and champion on the same days, in Markdown."""
    lines = [
        "| | bundle | rows | LOW | MEDIUM | HIGH | CRITICAL | fraud found | µs a row |",
        "|-|-|-|-|-|-|-|-|-|",
    ]
    for name, judged in (("candidate", evaluation.candidate), ("champion", evaluation.champion)):
        if judged is None:
            continue
        cases = " | ".join(str(judged.cases.get(s, 0)) for s in ("LOW", "MEDIUM", "HIGH", "CRITICAL"))
        found = f"{judged.fraud_found} of {judged.fraud}" if judged.fraud else "no labels"
        short = judged.bundle.removeprefix("sha256:")[:12]
        lines.append(f"| {name} | {short} | {judged.rows} | {cases} | {found} | {judged.row_us:.1f} |")
    return "\n".join(lines)


def plot_calibration(judged: Judged) -> dg.MarkdownMetadataValue:
    """Rows by tail probability: flat where the calibration holds."""
    figure = new_figure()
    axes = figure.subplots()
    places = [(i + 0.5) / HISTOGRAM_BINS for i in range(HISTOGRAM_BINS)]
    axes.bar(places, judged.histogram, width=0.9 / HISTOGRAM_BINS, color="#4a7ebb")
    axes.axhline(judged.scored / HISTOGRAM_BINS, color="#333333", linewidth=1, linestyle="--")
    axes.set_xlabel("tail probability of the score (0 = strangest)")
    axes.set_ylabel("rows")
    axes.set_title("On days it never saw: flat is right", fontsize=10)
    return as_metadata(figure, "Rows by tail probability on the evaluated days")
