"""The form of an account's settings: a document as fields, and fields as a document again.

What the form does not show (a currency table of one's own) goes through it unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from anomalyze.config import Problem
from anomalyze.errors import EventError
from anomalyze.rules.column import Kind
from anomalyze.storage.list_change import ListChange

__all__ = [
    "CAPS",
    "LEVELS",
    "document_of_form",
    "field_of_problem",
    "levels_text",
    "list_change",
    "parameter_text",
    "parse_levels",
    "plain_text",
]

TEXT_LENGTH_MAX = 2_000
NOTE_LENGTH_MAX = 500
LIST_DAYS_MAX = 3_650
# Levels of `thresholds`: key, what stands before the severity, label, what it means.
LEVELS = (
    ("robust_z", "over", "Distance from the usual", "robust deviations above the user's median"),
    ("iqr", "over", "Quartile ranges", "interquartile ranges above the upper quartile"),
    ("two_quantile", "tail", "Rarity of the amount", "share of the history that is as strange"),
    ("model", "tail", "Rarity by the model", "share of the history that is as strange"),
    ("supervised", "tail", "Rarity by the learned model", "share of the history that is as suspicious"),
)
CAPS = (
    ("statistics_alone", "Statistics alone reach"),
    ("model_alone", "The model alone reaches"),
    ("model_proven", "A proven model reaches"),
)
_LEVEL = re.compile(r"([0-9.eE+-]+)\s*:?\s*([A-Za-z]+)")


def levels_text(levels: Any, key: str) -> str:
    """Levels as one line.

    >>> levels_text([{"over": 25.0, "severity": "LOW"}, {"over": 60, "severity": "MEDIUM"}], "over")
    '25 LOW, 60 MEDIUM'
    """
    return ", ".join(f"{_number(level[key])} {level['severity']}" for level in levels)


def parse_levels(text: str, key: str) -> list[dict[str, Any]]:
    """The line as levels; what is none of them is kept as a text, for the check to name.

    >>> parse_levels("25 LOW, 60: medium", "over")
    [{'over': 25.0, 'severity': 'LOW'}, {'over': 60.0, 'severity': 'MEDIUM'}]
    >>> parse_levels("none", "over")
    []
    """
    if text.strip().lower() == "none":
        return []
    levels: list[dict[str, Any]] = []
    for part in text.split(","):
        found = _LEVEL.fullmatch(part.strip())
        value, severity = (found[1], found[2].upper()) if found else (part.strip(), "")
        levels.append({key: _read_number(value), "severity": severity})
    return levels


def parameter_text(value: Any) -> str:
    """A parameter as it stands in its field.

    >>> parameter_text(["DE", "AT"]), parameter_text(25000.0), parameter_text(None)
    ('DE, AT', '25000', '')
    """
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return ", ".join(parameter_text(item) for item in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return _number(value) if isinstance(value, (int, float)) else str(value)


def document_of_form(
    fields: Mapping[str, str],
    before: Mapping[str, Any],
    kinds: Mapping[tuple[str, str], tuple[Kind, bool]],
) -> dict[str, Any]:
    """What the form says.

    Parameters
    ----------
    fields
        ``m.<rule>`` modes, ``p.<rule>.<parameter>``, ``t.<levels>``, ``c.<cap>`` and plain names; empty: the
        platform's.
    before
        The document that was edited: what has no field is taken over.
    kinds
        Kind of each rule's parameter, and whether it is a list.

    >>> document_of_form({"m.A": "off", "p.B.limit": "5", "time_zone": ""}, {"label_delay_days": 3}, {("B", "limit"): ("number", False)})
    {'rules': {'A': {'mode': 'off'}, 'B': {'parameters': {'limit': 5.0}}}}
    """
    made: dict[str, Any] = {
        name: before[name] for name in ("currency_rates", "population_amount_median") if name in before
    }
    rules: dict[str, dict[str, Any]] = {}
    for name, sent in fields.items():
        text = sent.strip()[:TEXT_LENGTH_MAX]
        if not text:
            continue
        if name.startswith("m."):
            rules.setdefault(name[2:], {})["mode"] = text
        elif name.startswith("p.") and name.count(".") == 2:
            _, rule_id, parameter = name.split(".")
            kind, many = kinds.get((rule_id, parameter), ("text", False))
            rules.setdefault(rule_id, {}).setdefault("parameters", {})[parameter] = _parameter(
                text, kind, many
            )
    # Of rules that are no longer there what was said is kept.
    shown = {rule_id for rule_id, _ in kinds} | {name[2:] for name in fields if name.startswith("m.")}
    kept = {rule_id: entry for rule_id, entry in (before.get("rules") or {}).items() if rule_id not in shown}
    if rules or kept:
        made["rules"] = {**kept, **rules}
    for name in ("time_zone", "base_currency"):
        if text := fields.get(name, "").strip()[:TEXT_LENGTH_MAX]:
            made[name] = text.upper() if name == "base_currency" else text
    if text := fields.get("label_delay_days", "").strip()[:TEXT_LENGTH_MAX]:
        made["label_delay_days"] = _read_number(text)
    if thresholds := _thresholds(fields):
        made["thresholds"] = thresholds
    return made


def _thresholds(fields: Mapping[str, str]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if text := fields.get("t.amount_base_min", "").strip():
        made["amount_base_min"] = _read_number(text[:TEXT_LENGTH_MAX])
    for name, key, _, _ in LEVELS:
        if text := fields.get(f"t.{name}", "").strip():
            made[name] = parse_levels(text[:TEXT_LENGTH_MAX], key)
    caps = {name: fields[f"c.{name}"] for name, _ in CAPS if fields.get(f"c.{name}")}
    if caps:
        made["caps"] = caps
    return made


def field_of_problem(problem: Problem) -> str:
    """Name of the field that a mistake is about; empty for none of the form's.

    >>> field_of_problem(Problem("settings", 1, 1, "rules.AMOUNT_LIMIT.parameters.limit", "expected number"))
    'p.AMOUNT_LIMIT.limit'
    >>> field_of_problem(Problem("settings", 1, 1, "thresholds.model.0.tail", "too large"))
    't.model'
    """
    path = problem.path.split(".")
    if path[0] == "rules" and len(path) > 2:
        return f"p.{path[1]}.{path[3]}" if path[2] == "parameters" and len(path) > 3 else f"m.{path[1]}"
    if path[0] == "thresholds" and len(path) > 1:
        return f"c.{path[2]}" if path[1] == "caps" and len(path) > 2 else f"t.{path[1]}"
    return path[0] if path[0] in ("time_zone", "base_currency", "label_delay_days") else ""


def list_change(sent: Mapping[str, str], account_id: str, now: datetime) -> ListChange:
    """What the form of lists says. Raises ``EventError``."""
    from anomalyze.rules.lists import parse_entry

    days, value = sent.get("days", "").strip(), sent.get("value", "").strip()
    try:
        lasting = float(days) if days else None
    except ValueError:
        lasting = -1.0
    if lasting is not None and not 0 < lasting <= LIST_DAYS_MAX:
        raise EventError("days", f"more than 0 and at most {LIST_DAYS_MAX:,}, or nothing", days)
    if not value.isprintable():
        raise EventError("value", "printable characters", repr(value))
    op = "remove" if sent.get("op") == "remove" else "add"
    entry = parse_entry(
        {"op": op, "account_id": account_id, "list": sent.get("list", "").strip(), "field": sent.get("field", ""), "value": value}
    )  # fmt: skip
    until = None if lasting is None else now.astimezone(UTC) + timedelta(days=lasting)
    return ListChange(op, entry.list, entry.field, entry.value, until, plain_text(sent.get("why", "")))


def plain_text(text: str) -> str:
    """What of a text may be stored: printable, of a limited length."""
    return "".join(sign for sign in text.strip() if sign.isprintable())[:NOTE_LENGTH_MAX]


def _parameter(text: str, kind: Kind, many: bool) -> Any:
    if many:
        return [_parameter(part.strip(), kind, False) for part in text.split(",") if part.strip()]
    if kind == "number":
        return _read_number(text)
    if kind == "flag" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    return text


def _read_number(text: str) -> float | str:
    """A number, or the text as it came: the check says what is wrong with it."""
    try:
        return float(text.replace("_", "").replace(" ", ""))
    except ValueError:
        return text


def _number(value: float) -> str:
    return (
        str(int(value))
        if float(value).is_integer() and abs(value) < 1e15
        else f"{value:g}"
        if float(f"{value:g}") == value
        else repr(value)
    )
