"""Pieces of pages as pure functions of data: severity marks, amounts, times, states, tables.

`NotStr` is used for constants of this file only: what comes from data is always escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

from dashboard import formatters as form
from dashboard import routes
from dashboard.element import (
    FT,
    A,
    B,
    Button,
    Caption,
    Dd,
    Details,
    Div,
    Dl,
    Dt,
    Input,
    Kbd,
    NotStr,
    Span,
    Summary,
    Table,
    Tbody,
    Td,
    Th,
    Thead,
    Tr,
    ft,
)

__all__ = [
    "SPRITE",
    "ago",
    "cell",
    "copyable",
    "empty_row",
    "facts",
    "folded_table",
    "head_cell",
    "icon",
    "key_cap",
    "mark",
    "missing",
    "moment",
    "money",
    "score",
    "sentence",
    "severity",
    "table",
    "user_link",
]

SEVERITY_WORDS = ("None", "Low", "Medium", "High", "Critical")

# Severity marks and icons, drawn once a page and referred to by id. Shapes as in tokens.css: the order never
# rests on colour.
SPRITE = NotStr(
    '<svg class="sprite" width="0" height="0" aria-hidden="true" focusable="false"><defs>'
    '<symbol id="s-critical" viewBox="0 0 12 12"><path class="f-critical" d="M6 .6 11.4 6 6 11.4.6 6Z" stroke-width="1" stroke-linejoin="round"/></symbol>'
    '<symbol id="s-high" viewBox="0 0 12 12"><path class="f-high" d="M6 1.3 11 10.4H1Z" stroke-width="1.2" stroke-linejoin="round"/></symbol>'
    '<symbol id="s-medium" viewBox="0 0 12 12"><rect class="f-medium" x="1.7" y="1.7" width="8.6" height="8.6" rx=".8" stroke-width="1.2"/></symbol>'
    '<symbol id="s-low" viewBox="0 0 12 12"><circle class="f-low" cx="6" cy="6" r="4.1" stroke-width="1.6"/></symbol>'
    '<symbol id="s-none" viewBox="0 0 12 12"><path class="f-none" d="M3.5 6h5" stroke-width="1.4" stroke-linecap="round"/></symbol>'
    '<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect class="hatch-ground" width="6" height="6"/><path class="hatch-line" d="M0 0V6" stroke-width="1.2"/></pattern>'
    '<symbol id="i-now" viewBox="0 0 16 16"><path d="M1.5 8.5h3l2-5.5 3 10 2-4.5h3"/></symbol>'
    '<symbol id="i-alerts" viewBox="0 0 16 16"><path d="M3.5 11.5V7a4.5 4.5 0 0 1 9 0v4.5ZM2 11.5h12M6.5 13.8h3"/></symbol>'
    '<symbol id="i-metrics" viewBox="0 0 16 16"><path d="M2 2.5v11h12M4.5 10.5 7 6.8l2.6 2.1L13.5 4"/></symbol>'
    '<symbol id="i-tx" viewBox="0 0 16 16"><path d="M2 3.5h12M2 8h12M2 12.5h7"/></symbol>'
    '<symbol id="i-users" viewBox="0 0 16 16"><circle cx="8" cy="5.3" r="2.8"/><path d="M2.8 13.8c.5-2.6 2.5-4 5.2-4s4.7 1.4 5.2 4"/></symbol>'
    '<symbol id="i-system" viewBox="0 0 16 16"><rect x="2" y="2.5" width="12" height="4.5" rx="1"/><rect x="2" y="9" width="12" height="4.5" rx="1"/><path d="M4.5 4.8h.01M4.5 11.3h.01"/></symbol>'
    '<symbol id="i-bundle" viewBox="0 0 16 16"><path d="M8 1.8 14 5v6l-6 3.2L2 11V5ZM2 5l6 3.2L14 5M8 8.2v6"/></symbol>'
    '<symbol id="i-settings" viewBox="0 0 16 16"><path d="M2 4.5h7M13 4.5h1M2 11.5h1M7 11.5h7"/><circle cx="11" cy="4.5" r="1.8"/><circle cx="5" cy="11.5" r="1.8"/></symbol>'
    '<symbol id="i-search" viewBox="0 0 16 16"><circle cx="7" cy="7" r="4.5"/><path d="M10.5 10.5 14 14"/></symbol>'
    '<symbol id="i-check" viewBox="0 0 16 16"><path d="M3 8.5l3.3 3.3L13 4.5"/></symbol>'
    '<symbol id="i-x" viewBox="0 0 16 16"><path d="M4 4l8 8M12 4l-8 8"/></symbol>'
    '<symbol id="i-up" viewBox="0 0 16 16"><path d="M8 13V3.5M4 7l4-4 4 4"/></symbol>'
    '<symbol id="i-left" viewBox="0 0 16 16"><path d="M10 3.5 5.5 8l4.5 4.5"/></symbol>'
    '<symbol id="i-right" viewBox="0 0 16 16"><path d="M6 3.5 10.5 8 6 12.5"/></symbol>'
    '<symbol id="i-copy" viewBox="0 0 16 16"><rect x="5.5" y="5.5" width="8" height="8" rx="1.2"/><path d="M3 10.5h-.5v-8h8V3"/></symbol>'
    '<symbol id="i-more" viewBox="0 0 16 16"><path d="M3 8h.01M8 8h.01M13 8h.01" stroke-width="2.2"/></symbol>'
    '<symbol id="i-ok" viewBox="0 0 14 14"><circle cx="7" cy="7" r="6" fill="none" stroke="currentColor" stroke-width="1.4"/><path d="M4.3 7.2 6.3 9.2 9.9 5.2" fill="none" stroke="currentColor" stroke-width="1.5" stroke-linecap="round" stroke-linejoin="round"/></symbol>'
    '<symbol id="i-late" viewBox="0 0 14 14"><circle cx="7" cy="7" r="6" fill="none" stroke="currentColor" stroke-width="1.4"/><path d="M7 3.8V7l2.2 1.6" fill="none" stroke="currentColor" stroke-width="1.4" stroke-linecap="round"/></symbol>'
    '<symbol id="i-down" viewBox="0 0 14 14"><circle cx="7" cy="7" r="6" fill="none" stroke="currentColor" stroke-width="1.4"/><path d="M4.8 4.8l4.4 4.4M9.2 4.8 4.8 9.2" fill="none" stroke="currentColor" stroke-width="1.4" stroke-linecap="round"/></symbol>'
    '<symbol id="logo" viewBox="0 0 20 20"><path class="l-ground" d="M1 15.5h18" stroke-width="1.4" stroke-linecap="round"/><g class="l-dots"><circle cx="3" cy="11.8" r="1.5"/><circle cx="7" cy="10.6" r="1.5"/><circle cx="17" cy="11.4" r="1.5"/></g><path class="l-mark" d="M12 1.6 15 4.6 12 7.6 9 4.6Z"/></symbol>'
    "</defs></svg>"
)


def search_box(words: str, placeholder: str, label: str) -> FT:
    """The field ``q`` that a page is filtered by; ``/`` goes to it."""
    return Input(
        type="search", name="q", value=words, placeholder=placeholder, aria_label=label, cls="input",
        data_search=True,
    )  # fmt: skip


@cache
def icon(name: str) -> NotStr:
    """An icon of the sprite, for the eye only: its words stand beside it or in a label."""
    return NotStr(f'<svg class="i" aria-hidden="true"><use href="#i-{name}"/></svg>')


@cache
def mark(level: int) -> NotStr:
    """The shape of a severity (0 to 4)."""
    return NotStr(f'<svg class="m" aria-hidden="true"><use href="#s-{form.SEVERITIES[level]}"/></svg>')


def severity(level: int, *, tint: bool = False, word: str | None = None) -> FT:
    """Shape, word and colour of a severity together."""
    name = form.SEVERITIES[level] if level else "faint"
    return Span(mark(level), word or SEVERITY_WORDS[level], cls=f"sev {name}{' tint' if tint else ''}")


def missing(reason: str) -> FT:
    """A value that is not there, with the reason on hover."""
    return Span(form.MISSING, cls="faint", title=reason)


def money(amount: Decimal | float | None, currency: str | None) -> tuple[Any, ...]:
    """An amount and its code."""
    if amount is None or currency is None:
        return (missing("amounts in several currencies"),)
    return form.format_money(amount, currency), Span(currency, cls="cur")


def moment(then: datetime, now: datetime, zone: ZoneInfo, *, ticks: bool = True) -> FT:
    """A time as an age that ticks; absolute on hover and for machines."""
    return ft(
        "time",
        form.format_age(then, now, zone),
        datetime=then.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        title=form.format_moment(then, zone),
        data_age=ticks,
    )


def ago(then: datetime, now: datetime, zone: ZoneInfo) -> tuple[FT, ...]:
    """``42 s ago``; after a day the moment alone, which needs no "ago"."""
    recent = abs(now - then) < timedelta(days=1)
    return (moment(then, now, zone), Span(" ago", cls="ago")) if recent else (moment(then, now, zone),)


def score(value: float | None) -> FT | str:
    """A score, rarity in words on hover."""
    if value is None:
        return missing("the model had too little history to score this")
    return Span(form.format_score(value), title=f"{form.one_in(value)} of the training history is stranger")


def sentence(text: str) -> list[Any]:
    """An explanation with its figures in bold."""
    return [B(part) if strong else part for part, strong in form.emphasise(text)]


def user_link(user_id: str, cls: str = "name") -> FT:
    """A user's id, leading to the user."""
    return A(user_id, href=routes.user(user_id), cls=cls)


def key_cap(key: str) -> FT:
    """A key of the keyboard."""
    return Kbd(key, cls="desk", aria_hidden="true")


def head_cell(text: Any, cls: str | None = None, *, sort: str | None = None, title: str | None = None) -> FT:
    """A column's head; ``sort`` is its aria-sort."""
    return Th(text, scope="col", role="columnheader", cls=cls, aria_sort=sort, title=title)


def cell(*content: Any, cls: str | None = None, **attributes: Any) -> FT:
    """A cell; roles are written out because phone layouts lose a table's own."""
    return Td(*content, role="cell", cls=cls, **attributes)


def table(caption: str, heads: Iterable[FT], rows: Iterable[FT], cls: str | None = None) -> FT:
    """A real table with a caption for those who do not see where it stands."""
    return Table(
        Caption(caption, cls="vh"),
        Thead(Tr(*heads, role="row"), role="rowgroup"),
        Tbody(*rows, role="rowgroup"),
        role="table",
        cls=cls,
    )


def folded_table(caption: str, heads: Iterable[FT], rows: Iterable[FT]) -> FT:
    """What a plot shows, as a table that opens below it."""
    return Details(Summary("Show as table", cls="link small"), table(caption, heads, rows, cls="as-table"))


def empty_row(columns: int, *content: Any) -> FT:
    """A table's only row when it has none: says why."""
    return Tr(cell(*content, cls="empty", colspan=str(columns)), role="row")


def facts(pairs: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> FT:
    """Labels and values, those without a value left out."""
    items = pairs.items() if isinstance(pairs, Mapping) else pairs
    content: list[FT] = []
    for label, value in items:
        if value not in (None, ""):
            content += [Dt(label), Dd(*value) if isinstance(value, tuple) else Dd(value)]
    return Dl(*content, cls="facts")


def copyable(command: str, label: str) -> FT:
    """A command in full with a button that copies it."""
    return Div(
        ft("code", command, cls="mono", tabindex="0"),
        Button(
            icon("copy"),
            cls="btn bare",
            type="button",
            data_copy=command,
            aria_label=f"Copy {label}",
            title="Copy",
        ),
        cls="copy",
    )
