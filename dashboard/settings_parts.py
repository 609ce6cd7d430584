"""Pieces of the settings page: rules, place and money, thresholds, what would change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anomalyze.detection.policy import Policy
from anomalyze.events.batch import Severity
from anomalyze.rules.column import Kind
from anomalyze.rules.rule import RuleSet
from dashboard import formatters as form
from dashboard import routes
from dashboard.components import cell, empty_row, head_cell, missing, severity, table
from dashboard.element import (  # fmt: skip
    FT,
    H2,
    Div,
    Input,
    Label,
    Li,
    Option,
    P,
    Section,
    Select,
    Span,
    Tr,
    Ul,
    ft,
)
from dashboard.security import Viewer
from dashboard.settings_form import CAPS, LEVELS, levels_text, parameter_text
from dashboard.settings_preview import Preview

__all__ = ["changes_part", "money_part", "preview_part", "rules_part", "text_field", "thresholds_part"]

MODES = ("live", "shadow", "off")


def _field(name: str, label: str, control: FT, error: str, note: str = "") -> FT:
    return Div(
        Label(label, fr=name),
        control,
        P(error, cls="error small", id=f"{name}-error", role="alert") if error else None,
        P(note, cls="faint small") if note and not error else None,
        cls="field",
    )


def text_field(
    name: str, value: str, fallback: str, error: str, *, off: bool, label: str = "", **more: Any
) -> FT:
    return Input(
        type="text",
        name=name,
        id=name,
        value=value,
        placeholder=fallback,
        cls="input",
        disabled=off,
        autocomplete="off",
        spellcheck="false",
        aria_label=label or None,
        aria_invalid="true" if error else None,
        aria_describedby=f"{name}-error" if error else None,
        **more,
    )


def rules_part(
    rules: RuleSet,
    kinds: Mapping[tuple[str, str], tuple[Kind, bool]],
    fields: Mapping[str, str],
    errors: Mapping[str, str],
    hits: Mapping[str, int],
    precision: Mapping[str, tuple[int, int]],
    *,
    off: bool,
) -> FT:
    """Every rule with its mode and parameters here, how often it fired, how often it was right."""
    heads = (
        head_cell("Rule"),
        head_cell("Severity", "mid"),
        head_cell("Mode"),
        head_cell("Parameters"),
        head_cell(
            "7 days",
            "num",
            title="How often it fired live for this account; what only counts in shadow is not in it",
        ),
        head_cell(
            "Right", "num", title="Share of fraud among its firings of 90 days of which anything became known"
        ),
    )
    rows = []
    for rule in rules:
        name = f"m.{rule.id}"
        chosen, wrong = fields.get(name, ""), errors.get(name, "")
        usual = rule.mode.name.lower()
        options = [Option(f"{usual}, as usual", value="", selected=not chosen)] + [
            Option(mode, value=mode, selected=mode == chosen) for mode in MODES
        ]
        parameters = [
            _parameter(rule.id, parameter, rule.parameters.get(parameter), kind, fields, errors, off=off)
            for (owner, parameter), kind in kinds.items()
            if owner == rule.id
        ]
        rows.append(
            Tr(
                cell(
                    Span(rule.id, cls="wm mono"),
                    P(rule.description, cls="faint small why") if rule.description else None,
                ),
                cell(severity(int(rule.severity)), cls="mid"),
                cell(
                    Select(
                        *options,
                        name=name,
                        id=name,
                        cls="input",
                        disabled=off,
                        aria_label=f"Mode of {rule.id}",
                    ),
                    P(wrong, cls="error small", role="alert") if wrong else None,
                ),
                cell(Div(*parameters, cls="params") if parameters else Span("none", cls="faint")),
                cell(form.format_count(hits.get(rule.id, 0)), cls="num"),
                cell(_right(precision.get(rule.id)), cls="num"),
                role="row",
            )
        )
    return Section(
        Div(H2("Rules"), cls="fh"),
        P("What is left empty stays as the platform has it, now and when that changes.", cls="muted small"),
        Div(
            table(
                "Rules of this account",
                heads,
                rows or [empty_row(6, "The bundle has no rules.")],
                cls="grid rules",
            ),
            cls="sheet",
        ),
        cls="s",
    )


def _parameter(
    rule_id: str,
    parameter: str,
    default: Any,
    kind: tuple[Kind, bool],
    fields: Mapping[str, str],
    errors: Mapping[str, str],
    *,
    off: bool,
) -> FT:
    name = f"p.{rule_id}.{parameter}"
    fallback = parameter_text(default) or ("needed: a, b" if kind[1] else "needed")
    wrong = errors.get(name, "")
    return Div(
        Label(parameter, fr=name),
        text_field(name, fields.get(name, ""), fallback, wrong, off=off, inputmode="decimal" if kind == ("number", False) else None),
        P(wrong, cls="error small", id=f"{name}-error", role="alert") if wrong else None,
        cls="param",
    )  # fmt: skip


def _right(counts: tuple[int, int] | None) -> FT:
    if counts is None or not counts[1]:
        return missing("nothing became known of its firings: confirm cases, or send labels")
    right, known = counts
    return Span(form.format_percent(right / known), title=f"{right:,} of {known:,} proved to be fraud")


def money_part(fields: Mapping[str, str], errors: Mapping[str, str], rates: str, *, off: bool) -> FT:
    """Time zone, currency, label delay."""
    pairs = (
        ("time_zone", "Time zone of local hours", "the platform's", "such as Europe/Berlin"),
        ("base_currency", "Base currency", "the platform's", "amounts are compared in it; until users have bought anew, usual amounts are in the old one"),
        ("label_delay_days", "Days until silence is genuine", "45", "a payment that nobody complained of"),
    )  # fmt: skip
    return Section(
        Div(H2("Place, money, labels"), cls="fh"),
        Div(
            *(
                _field(n, label, text_field(n, fields.get(n, ""), fallback, errors.get(n, ""), off=off), errors.get(n, ""), note)
                for n, label, fallback, note in pairs
            ),
            cls="filters wrap",
        ),
        P(rates, cls="muted small"),
        cls="s",
    )  # fmt: skip


def thresholds_part(policy: Policy, fields: Mapping[str, str], errors: Mapping[str, str], *, off: bool) -> FT:
    """Levels and caps, the platform's as placeholders."""
    platform = {
        "robust_z": policy.statistics.robust_z,
        "iqr": policy.statistics.iqr,
        "two_quantile": policy.statistics.two_quantile,
        "model": policy.model.levels,
        "supervised": policy.supervised.levels,
    }
    controls = [
        _field(
            "t.amount_base_min",
            "Smallest amount judged by statistics",
            text_field("t.amount_base_min", fields.get("t.amount_base_min", ""), parameter_text(policy.statistics.amount_base_min), errors.get("t.amount_base_min", ""), off=off),
            errors.get("t.amount_base_min", ""),
            "in the base currency",
        )
    ]  # fmt: skip
    for name, key, label, note in LEVELS:
        field = f"t.{name}"
        usual = levels_text([level.model_dump() for level in platform[name]], key) or "none"
        wrong = errors.get(field, "")
        control = text_field(field, fields.get(field, ""), usual, wrong, off=off)
        controls.append(_field(field, label, control, wrong, note))
    for name, label in CAPS:
        field, most = f"c.{name}", Severity[getattr(policy.caps, name)]
        chosen = fields.get(field, "")
        options = [Option(f"{most.name}, as usual", value="", selected=not chosen)] + [
            Option(one.name, value=one.name, selected=one.name == chosen) for one in Severity if one < most
        ]
        controls.append(
            _field(
                field,
                label,
                Select(*options, name=field, id=field, cls="input", disabled=off),
                errors.get(field, ""),
                "at most",
            )
        )
    return Section(
        Div(H2("Thresholds"), cls="fh"),
        P(
            "Levels read “value severity, value severity”; none switches them off. Caps can only be lowered.",
            cls="muted small",
        ),
        Div(*controls, cls="filters wrap levels"),
        cls="s",
    )


def changes_part(changes: Sequence[str], preview: FT | None) -> FT:
    """What is about to be saved, before it is."""
    return Section(
        Div(H2("What would change"), cls="fh"),
        Ul(*(Li(line, cls="mono") for line in changes), cls="doubts") if changes else P("Nothing."),
        preview,
        cls="s first",
        id="changes",
    )


def preview_part(name: str, preview: Preview, viewer: Viewer) -> FT:
    """How the stored days would have been judged; asked for again while it is worked out."""
    polled: dict[str, Any] = {}
    if preview.is_open:
        polled = {
            "hx_get": routes.settings_preview(name),
            "hx_swap": "outerHTML",
            "hx_trigger": "every 1s",
            "hx_sync": "this:drop",
        }
        share = (
            f"{preview.done:,} of {preview.total:,} transactions"
            if preview.total
            else "reading stored transactions"
        )
        content: tuple[Any, ...] = (
            P(f"Judging the newest stored days by both: {share}.", cls="muted", role="status"),
            ft("progress", max=str(preview.total or 1), value=str(preview.done) if preview.total else None, aria_label="Judged", cls="wide-bar"),
        )  # fmt: skip
    elif preview.found is None:
        content = (
            P(
                f"What it would have said of the stored days is not known: {preview.error}.",
                cls="banner down",
            ),
        )
    else:
        content = _found(preview.found, viewer)
    return Div(*content, id="preview", **polled)


def _found(found: Mapping[str, Any], viewer: Viewer) -> tuple[Any, ...]:
    if not found["rows"]:
        return (P("No transaction of this account is stored: nothing to try it on.", cls="muted"),)
    days = f"{form.format_moment(_moment(found['from']), viewer.zone)} to {form.format_moment(_moment(found['to']), viewer.zone)}"
    said = P(
        f"Of {found['rows']:,} transactions, {days}: ",
        Span(f"{found['appear']:,} would be flagged anew", cls="strong"),
        ", ",
        Span(f"{found['go']:,} no longer", cls="strong"),
        f", {found['raised']:,} more severely, {found['lowered']:,} less. "
        f"{found['before']:,} are flagged now, {found['after']:,} would be.",
        cls="lead",
    )
    causes = [
        Tr(cell(cause, cls="mono"), cell(f"{more:,}", cls="num"), cell(f"{fewer:,}", cls="num"), role="row")
        for cause, (more, fewer) in found["causes"].items()
    ]
    heads = (head_cell("By"), head_cell("Appear", "num"), head_cell("Go", "num"))
    examples = [Li("Appears: ", text) for text in found["appearing"]] + [
        Li("Goes: ", text) for text in found["going"]
    ]
    return (
        said,
        Div(table("By what", heads, causes, cls="grid"), cls="sheet narrow") if causes else None,
        Ul(*examples, cls="doubts") if examples else None,
    )


def _moment(text: str) -> Any:
    from datetime import datetime

    return datetime.fromisoformat(text)
