"""Tables of the settings page that are no form: values on lists, and the history of versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from anomalyze.rules.column import TEXT_COLUMNS
from anomalyze.storage.account_version import StoredVersion
from anomalyze.storage.list_change import ListedValue
from dashboard import formatters as form
from dashboard import routes
from dashboard.components import ago, cell, empty_row, head_cell, missing, table
from dashboard.element import (  # fmt: skip
    FT,
    H2,
    Button,
    Div,
    Form,
    Input,
    Label,
    Li,
    Option,
    P,
    Section,
    Select,
    Small,
    Span,
    Tr,
    Ul,
)
from dashboard.security import Viewer
from dashboard.settings_parts import text_field

__all__ = ["history_part", "lists_part"]

LISTED_FIELDS = tuple(sorted(TEXT_COLUMNS))


def lists_part(
    entries: Sequence[ListedValue], viewer: Viewer, error: str, sent: Mapping[str, str], *, off: bool
) -> FT:
    """What is on the lists, and a form to put more on."""
    heads = (
        head_cell("List"),
        head_cell("Field"),
        head_cell("Value"),
        head_cell("Until", "num"),
        head_cell("Why", "wide"),
        head_cell("Since", "num mid"),
        head_cell("", "num"),
    )
    rows = [
        Tr(
            cell(one.list, cls="wm"),
            cell(one.field),
            cell(one.value, cls="mono c-id", title=one.value),
            cell(
                form.format_moment(one.expires_at, viewer.zone)
                if one.expires_at
                else missing("until it is taken off"),
                cls="num",
            ),
            cell(one.note or form.MISSING, cls="muted wide"),
            cell(*ago(one.changed_at, viewer.now, viewer.zone), cls="num mid"),
            cell(_take_off(one, viewer, off=off), cls="num"),
            role="row",
        )
        for one in entries
    ] or [
        empty_row(7, "Nothing is on a list. What is on block is blocked, what is on allow passes every rule.")
    ]
    choose = [
        Option(name, value=name, selected=name == sent.get("field", "device_id")) for name in LISTED_FIELDS
    ]
    add = Form(
        Input(type="hidden", name="csrf", value=viewer.csrf),
        Div(
            Div(Label("List", fr="list"), text_field("list", sent.get("list", "block"), "block", "", off=off), cls="field"),
            Div(Label("Field", fr="field"), Select(*choose, name="field", id="field", cls="input", disabled=off), cls="field"),
            Div(Label("Value", fr="value"), text_field("value", sent.get("value", ""), "", error, off=off), cls="field"),
            Div(Label("Days", fr="days"), text_field("days", sent.get("days", ""), "for good", "", off=off, inputmode="decimal"), cls="field"),
            Div(Label("Why", fr="why"), text_field("why", sent.get("why", ""), "", "", off=off), cls="field"),
            Button("Put on the list", cls="btn", type="submit", disabled=off),
            cls="filters",
        ),
        P(error, cls="error small", id="value-error", role="alert") if error else None,
        action=routes.SETTINGS_LISTS,
        method="post",
    )  # fmt: skip
    return Section(
        Div(H2("Lists"), cls="fh"),
        add,
        Div(table("Values on lists", heads, rows, cls="grid"), cls="sheet"),
        cls="s",
        id="lists",
    )


def _take_off(one: ListedValue, viewer: Viewer, *, off: bool) -> FT:
    hidden = {"csrf": viewer.csrf, "op": "remove", "list": one.list, "field": one.field, "value": one.value}
    return Form(
        *(Input(type="hidden", name=name, value=value) for name, value in hidden.items()),
        Button("Take off", cls="btn bare low", type="submit", disabled=off, aria_label=f"Take {one.value} off {one.list}"),
        action=routes.SETTINGS_LISTS,
        method="post",
    )  # fmt: skip


def history_part(versions: Sequence[StoredVersion], viewer: Viewer, *, off: bool) -> FT:
    """Who changed what, when and why."""
    heads = (
        head_cell("Version", "num"),
        head_cell("What changed"),
        head_cell("Why", "wide"),
        head_cell("By", "mid"),
        head_cell("When", "num"),
        head_cell("", "num"),
    )
    rows = [
        Tr(
            cell(str(one.version), cls="num wm"),
            cell(
                Ul(*(Li(line) for line in one.changes[:12]), cls="small mono lines")
                if one.changes
                else "nothing",
                Small(f"and {len(one.changes) - 12} more") if len(one.changes) > 12 else None,
                None if one.bundle else Span(" not in force yet", cls="late small"),
            ),
            cell(one.note or form.MISSING, cls="muted wide why"),
            cell(one.saved_by, cls="mono mid"),
            cell(*ago(one.saved_at, viewer.now, viewer.zone), cls="num"),
            cell(
                Span("newest", cls="faint")
                if place == 0
                else _restore(one, versions[0].version, viewer, off=off),
                cls="num",
            ),
            role="row",
        )
        for place, one in enumerate(versions)
    ] or [empty_row(6, "Nobody has saved settings here yet: the platform's files say it all.")]
    return Section(
        Div(H2("History"), cls="fh"),
        Div(table("Versions of the settings, newest first", heads, rows, cls="grid history"), cls="sheet"),
        cls="s",
        id="history",
    )


def _restore(one: StoredVersion, newest: int, viewer: Viewer, *, off: bool) -> FT:
    return Form(
        Input(type="hidden", name="csrf", value=viewer.csrf),
        Input(type="hidden", name="restore", value=str(one.version)),
        Input(type="hidden", name="version", value=str(newest)),
        Button(
            "Restore",
            cls="btn bare low",
            type="submit",
            disabled=off,
            aria_label=f"Restore version {one.version}",
        ),
        action=routes.SETTINGS,
        method="post",
    )
