"""Why an anomaly was flagged: rules with their values, the model's features beside what is usual, what would
have changed the verdict. Reads the section ``analysis`` as the detector wrote it; what is not there is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anomalyze.detection.wording import value_text
from anomalyze.storage.board_page import AnomalyRecord
from dashboard import formatters as form
from dashboard.components import cell, head_cell, missing, severity, table
from dashboard.element import FT, H2, H3, Details, Div, P, Section, Span, Summary, Tr, ft
from dashboard.formatters import SEVERITIES
from dashboard.plots import range_bar, share_bar

__all__ = ["level_of", "why"]

# Three features answer "why"; the others are one click away.
FEATURES_SHOWN = 3
STATISTIC_WORDS = {
    "robust_z": "robust z: how many of this user's usual deviations above the usual",
    "iqr": "interquartile ranges above this user's upper quartile",
    "two_quantile": "larger of: amount over own usual, amount itself; each over its 99.5% quantile",
}


def level_of(word: object) -> int:
    """A severity's name in the wire form as its level.

    >>> level_of("CRITICAL"), level_of(None)
    (4, 0)
    """
    name = str(word).lower()
    return SEVERITIES.index(name) if name in SEVERITIES else 0


def why(record: AnomalyRecord) -> FT:
    """The section "Why"."""
    analysis = record.analysis
    parts = [
        _rules(analysis, record),
        _statistics(_list(analysis, "statistics")),
        _model(analysis, record),
        _changes(_list(analysis, "would_change")),
        _notes(analysis),
    ]
    return Section(Div(H2("Why"), cls="fh"), *(p for part in parts for p in part), cls="s")


def _rules(analysis: Mapping[str, Any], record: AnomalyRecord) -> list[FT]:
    rules = _list(analysis, "rules")
    if not rules:
        names = ", ".join(record.rule_flags)
        return [H3(f"Rules fired: {names}" if names else "No rule fired")]
    rows = [
        Tr(
            cell(severity(level_of(rule.get("severity"))), cls="rs"),
            ft("th", rule.get("id", ""), scope="row", role="rowheader", cls="rn"),
            cell(*_comparisons(rule), cls="ex mono", title=rule.get("condition")),
            cell(rule.get("text", ""), cls="muted"),
            role="row",
        )
        for rule in rules
    ]
    return [
        H3(f"{form.plural(len(rules), 'rule')} fired"),
        ft(
            "table",
            ft("caption", "Rules that fired, with the values that fired them", cls="vh"),
            ft("tbody", *rows, role="rowgroup"),
            role="table",
            cls="why",
        ),
    ]


def _comparisons(rule: Mapping[str, Any]) -> list[Any]:
    """``amount_base 4,500.50 > 3 * user_amount_p95 600.00``, joined by "and"."""
    values = _list(rule, "values")
    if not values:
        return [rule.get("condition", "")]
    parts: list[Any] = []
    for value in values:
        if parts:
            parts.append(" and ")
        parts += [
            f"{value.get('what', '')} ",
            ft("i", value.get("here", "")),
            f" {value.get('operator', '')} {value.get('limit', '')}",
        ]
    return parts


def _statistics(statistics: Sequence[Mapping[str, Any]]) -> list[FT]:
    if not statistics:
        return []
    rows = [
        Tr(
            cell(severity(level_of(found.get("severity"))), cls="rs"),
            ft("th", str(found.get("name", "")).replace("_", " "), scope="row", role="rowheader", cls="rn"),
            cell(ft("i", form.format_value(found.get("value"))), cls="ex mono"),
            cell(found.get("words") or STATISTIC_WORDS.get(str(found.get("name")), ""), cls="muted"),
            role="row",
        )
        for found in statistics
    ]
    return [
        Div(H3("Statistics of this user's own amounts"), cls="sub-h"),
        ft(
            "table",
            ft("caption", "Statistics that flagged the amount", cls="vh"),
            ft("tbody", *rows, role="rowgroup"),
            role="table",
            cls="why",
        ),
    ]


def _model(analysis: Mapping[str, Any], record: AnomalyRecord) -> list[FT]:
    model = analysis.get("model")
    if not isinstance(model, dict):
        if record.score is None:
            return [Div(H3("No model score: too little history"), cls="sub-h")]
        return [
            Div(
                H3(
                    f"Model score {form.format_score(record.score)}: {form.one_in(record.score)} of the training history looks this strange"
                ),
                cls="sub-h",
            )
        ]
    score = record.score if record.score is not None else 1 - float(model.get("tail", 0.5))
    words = model.get("words") or form.one_in(score)
    title = f"Model score {form.format_score(score)}: {words} of the {'simulated ' if model.get('starter') else ''}training history looks this strange"
    if model.get("combination"):
        title += "; an unusual combination, no single cause"
    shown, rest = _features(_list(model, "groups"))
    parts = [Div(H3(title), cls="sub-h")]
    if shown:
        parts.append(_feature_table("Features by their share of the score", shown, record.severity))
    if rest:
        parts.append(
            Details(
                Summary(f"{form.plural(len(rest), 'more feature')}", cls="link"),
                _feature_table("Other features", rest, record.severity),
                cls="rest",
            )
        )
    return parts


def _features(
    groups: Sequence[Mapping[str, Any]],
) -> tuple[list[tuple[Mapping[str, Any], float | None]], list[tuple[Mapping[str, Any], float | None]]]:
    """Of each group its strangest feature with the group's share; then all others."""
    shown: list[tuple[Mapping[str, Any], float | None]] = []
    rest: list[tuple[Mapping[str, Any], float | None]] = []
    for group in groups:
        features = sorted(
            (f for f in _list(group, "features") if f.get("here") is not None), key=_strangeness, reverse=True
        )
        if not features:
            continue
        share = float(group.get("share", 0.0))
        (shown if len(shown) < FEATURES_SHOWN else rest).append((features[0], share))
        rest += [(feature, None) for feature in features[1:]]
    return shown, rest


def _strangeness(feature: Mapping[str, Any]) -> float:
    here, low, median, high = (feature.get(name) for name in ("here", "low", "median", "high"))
    if here is None or low is None or high is None:
        return 0.0
    middle = median if median is not None else (low + high) / 2
    return float(abs(here - middle) / max(high - low, abs(middle) * 0.1, 1e-9))


def _feature_table(
    caption: str, features: Sequence[tuple[Mapping[str, Any], float | None]], level: int
) -> FT:
    heads = (
        head_cell("Feature"),
        head_cell("Here", "num"),
        head_cell("Beside usual, log scale", "fbar"),
        head_cell("Usual (90%)"),
        ft("th", "Share of score", scope="col", role="columnheader", colspan="2", cls="num"),
    )
    return table(
        caption, heads, [_feature_row(feature, share, level) for feature, share in features], cls="why feat"
    )


def _feature_row(feature: Mapping[str, Any], share: float | None, level: int) -> FT:
    here, low, high = (feature.get(name) for name in ("here", "low", "high"))
    known = None if low is None or high is None else (float(low), float(high))
    return Tr(
        ft(
            "th",
            feature.get("label") or feature.get("name", ""),
            scope="row",
            role="rowheader",
            cls="fn",
            title=feature.get("name"),
        ),
        cell(feature.get("shown") or form.format_value(here), cls="num wm"),
        cell(
            range_bar(float(here or 0), known, feature.get("median"), level) if known else None,
            cls="fbar",
        ),
        cell(_usual(feature) if known else missing("no usual range yet"), cls="muted usual"),
        cell(share_bar(share) if share is not None else None, cls="share"),
        cell(form.format_percent(share, 0) if share is not None else None, cls="num"),
        role="row",
    )


def _usual(feature: Mapping[str, Any]) -> str:
    low, high, unit = float(feature["low"]), float(feature["high"]), str(feature.get("unit", ""))
    currency = str(feature.get("shown", "")).rpartition(" ")[2] if unit == "money" else ""
    texts = [value_text(value, unit, currency) for value in (low, high)]
    if texts[0] == texts[1]:
        return texts[0]
    # "0 to 38 km": the unit once.
    number, _, suffix = texts[0].rpartition(" ")
    return f"{number if number and texts[1].endswith(f' {suffix}') else texts[0]} to {texts[1]}"


def _changes(changes: Sequence[Mapping[str, Any]]) -> list[FT]:
    if not changes:
        return []
    boxes = []
    for change in changes:
        level = level_of(change.get("severity"))
        boxes.append(Div(P(change.get("change", "")), severity(level, word=None if level else "No anomaly")))
    return [
        Div(H3("What would have changed the verdict"), cls="sub-h"),
        Div(*boxes, cls=f"without n{len(boxes)}"),
    ]


def _notes(analysis: Mapping[str, Any]) -> list[FT]:
    notes = [f"{note}." for note in analysis.get("notes") or [] if isinstance(note, str)]
    off = analysis.get("rules_off")
    parts = [P(note, cls="note") for note in notes]
    if isinstance(off, dict) and off:
        rows = [P(Span(rule, cls="rule"), f" {reason}", cls="small muted") for rule, reason in off.items()]
        parts.append(
            Details(
                Summary(f"{form.plural(len(rows), 'rule')} could not look", cls="link"), *rows, cls="rest"
            )
        )
    shadow = analysis.get("shadow_flags")
    if isinstance(shadow, list) and shadow:
        parts.append(P(f"In shadow, without effect: {', '.join(map(str, shadow))}.", cls="note"))
    return parts


def _list(section: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    found = section.get(name)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
