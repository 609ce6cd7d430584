"""The form that says what an upload's columns are taken for, and what it said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anomalyze.ingestion.mapping import FIELDS, NEEDED, FileMapping
from anomalyze.storage.upload import Upload
from dashboard import routes
from dashboard.element import FT, Button, Div, Form, Input, Label, Option, Select, Span, ft
from dashboard.security import Viewer
from dashboard.upload_parts import LABELS

__all__ = ["mapping_form", "mapping_of_form"]

TEXT_LENGTH_MAX = 256

# Other settings of a mapping than columns: name, label.
_CHOICES: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "delimiter": ("Between columns", ((",", "comma"), (";", "semicolon"), ("\t", "tab"), ("|", "bar"))),
    "decimal": ("Decimals after", ((".", "point"), (",", "comma"))),
    "refunds": ("Refunds are", (("negative", "negative"), ("positive", "positive"))),
}
_CHOICES["time_resolution"] = ("Times are known to the", (("second", "second"), ("day", "day")))
_TEXTS = {"time_format": "Times are written", "time_zone": "Zone of times without one"}


def mapping_of_form(fields: Mapping[str, str], before: Mapping[str, Any]) -> dict[str, Any]:
    """What the form says, over what was there before.

    >>> mapping_of_form({"f.amount": "AMT", "c.currency": "EUR"}, {"fields": {"amount": "x", "ip": "y"}})
    {'fields': {'amount': 'AMT'}, 'constants': {'currency': 'EUR'}}
    """
    made: dict[str, Any] = {**before, "fields": {}, "constants": dict(before.get("constants") or {})}
    for field in FIELDS:
        if column := fields.get(f"f.{field}", "")[:TEXT_LENGTH_MAX]:
            made["fields"][field] = column
            made["constants"].pop(field, None)
    if "currency" not in made["fields"] and (code := fields.get("c.currency", "").strip().upper()[:8]):
        made["constants"]["currency"] = code
    for name in (*_CHOICES, *_TEXTS):
        if value := fields.get(name, "")[:TEXT_LENGTH_MAX]:
            made[name] = value
    return made


def mapping_form(upload: Upload, shown: dict[str, Any], viewer: Viewer) -> FT:
    """The form, filled with a mapping; ``shown`` is what a preview found in the file."""
    mapping, columns = shown["mapping"], shown["columns"]
    fields, constants = mapping.get("fields") or {}, mapping.get("constants") or {}
    sample = shown["sample"][0] if shown["sample"] else []
    first = dict(zip(columns, sample, strict=False))
    off = not viewer.may_upload

    def choose(field: str) -> FT:
        chosen = fields.get(field)
        options = [Option("–", value="", selected=chosen is None)] + [
            Option(
                f"{column}  ({(first.get(column) or 'empty')[:24]})",
                value=column,
                selected=column == chosen,
            )
            for column in columns
        ]
        name = f"f.{field}"
        label = LABELS.get(field, field.replace("_", " ").capitalize())
        return Div(
            Label(label, Span(" needed", cls="faint") if field in NEEDED[1:4] else None, fr=name),
            Select(*options, name=name, id=name, cls="input", disabled=off),
            cls="field",
        )

    def text(name: str, label: str, value: str) -> FT:
        return Div(
            Label(label, fr=name),
            Input(
                type="text", name=name, id=name, value=value, cls="input", disabled=off, autocomplete="off"
            ),
            cls="field",
        )

    def choice(name: str) -> FT:
        label, values = _CHOICES[name]
        chosen = mapping.get(name) or FileMapping.model_fields[name].default
        options = [Option(word, value=value, selected=value == chosen) for value, word in values]
        return Div(
            Label(label, fr=name),
            Select(*options, name=name, id=name, cls="input", disabled=off),
            cls="field",
        )

    return Form(
        Input(type="hidden", name="csrf", value=viewer.csrf),
        Div(*(choose(field) for field in NEEDED), cls="filters"),
        Div(
            text("c.currency", "Currency of all rows", str(constants.get("currency", ""))),
            *(text(name, label, str(mapping.get(name) or FileMapping.model_fields[name].default)) for name, label in _TEXTS.items()),
            *(choice(name) for name in _CHOICES),
            cls="filters",
        ),
        ft(
            "details",
            ft("summary", "Further columns"),
            Div(*(choose(field) for field in FIELDS if field not in NEEDED), cls="filters"),
        ),
        Div(
            Button(
                "Start",
                cls="btn primary",
                type="submit",
                disabled=off,
                formaction=f"{routes.upload(upload.upload_id)}/start",
                formmethod="post",
            ),
            Button("Preview", cls="btn", type="submit", disabled=off),
            Span(f"Starting needs a key with the scope ingest. Ask an admin of {viewer.account_id}.", cls="muted")
            if off
            else None,
            cls="acts-f",
        ),
        action=routes.upload(upload.upload_id),
        method="get",
        cls="mapping",
    )  # fmt: skip
