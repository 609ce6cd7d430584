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
        "matured_days": evaluation.matured or "no champion",
        "accounts": len(evaluation.accounts),
        "accounts_calibrated": len(bundle.account_calibrations),
        "rows": int(bundle.metrics.get("rows", 0)),
        "detector": bundle.detector,
        "model_inputs": len(bundle.inputs),
        "learned_from_labels": ", ".join(bundle.supervised.accounts) if bundle.supervised else "no: too few",
        "fraud_labels": evaluation.candidate.fraud,
        "labels_shuffled_auc": evaluation.canary.auc if evaluation.canary else "no model learned from labels",
        "fits_compared": dg.MetadataValue.md(table_of_fits(bundle)),
        "proven": dg.MetadataValue.md(table_of_proofs(evaluation)),
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


def table_of_fits(bundle: Bundle) -> str:
    """The ways to fit the supervised model that were compared, in Markdown."""
    figures = bundle.supervised.metrics if bundle.supervised else {}
    compared = [name.removeprefix("search_ap_") for name in figures if name.startswith("search_ap_")]
    if not compared:
        return "none: too few labels to compare ways to fit"
    lines = [
        "| fit | average precision, newest quarter of training | lower bound of its lead |",
        "|-|-|-|",
    ]
    for name in compared:
        low = figures.get(f"search_low_{name}")
        lines.append(
            f"| {name} | {figures[f'search_ap_{name}']:.3f} | {'' if low is None else f'{low:+.3f}'} |"
        )
    chosen = ", ".join(
        f"{name} {figures[name]:g}"
        for name in ("rounds", "learning_rate", "max_depth", "num_leaves", "min_child_samples")
    )
    return "\n".join([*lines, "", f"Taken: {chosen}"])


def table_of_proofs(evaluation: Evaluation) -> str:
    """What models that learned from labels achieved on later, settled days, in Markdown."""
    rows = [
        f"| {whose} | {account} | {proof.cases} | {proof.lead:+.3f} | {proof.lead_low:+.3f} | "
        f"{'may exceed MEDIUM' if proof.holds else 'stays at MEDIUM'} |"
        for whose, proofs in (("candidate", evaluation.proofs), ("champion", evaluation.champion_proofs))
        for account, proof in sorted(proofs.items())
    ]
    if not rows:
        return "nothing yet: no model that learned from labels met settled days with fraud"
    head = "| bundle | account | fraud cases | lead over rules and statistics | lower bound | |"
    return "\n".join([head, "|-|-|-|-|-|-|", *rows])


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
