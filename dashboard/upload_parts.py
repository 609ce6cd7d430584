"""Pieces of an upload's page, as functions of data: its first rows as they would count, the cases that came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anomalyze.ingestion.mapping import FIELDS, NEEDED
from anomalyze.storage.upload import Upload
from dashboard import formatters as form
from dashboard import routes
from dashboard.components import cell, head_cell, severity, table
from dashboard.element import FT, H2, A, Div, P, Section, Span, Tr

__all__ = ["LABELS", "cases_part", "preview_table"]

LABELS = {
    "tx_id": "Transaction id",
    "user_id": "User",
    "timestamp": "Time",
    "amount": "Amount",
    "currency": "Currency",
}


def cases_part(upload: Upload, cases: Mapping[int, int]) -> FT:
    """Cases with a transaction of a file that is done, by severity; each links to the list of them."""
    total = sum(cases.values())

    def listed(level: str | None = None) -> str:
        return routes.with_query(routes.NOW, upload=upload.upload_id, state="all", severity=level)

    said: tuple[Any, ...] = ("Nothing in it was flagged.",)
    if total:
        marks = [
            A(
                Span(form.format_count(cases[level]), cls="wm"),
                severity(level),
                href=listed(form.SEVERITIES[level]),
                cls="name",
                title=f"{cases[level]:,}",
            )
            for level in sorted(cases, reverse=True)
        ]
        said = (A(form.plural(total, "case"), href=listed(), cls="link wm"), Span(*marks, cls="counts"))
    return Section(
        Div(H2("Cases that came of it"), cls="fh"), P(*said, cls="cases-said"), cls="s", id="cases"
    )


def preview_table(shown: dict[str, Any]) -> FT | None:
    """The first rows as transactions, the refused ones with their reason."""
    rows = shown["rows"]
    if not rows:
        return None
    more = [
        f for f in FIELDS if f not in NEEDED and f != "status" and f in (shown["mapping"].get("fields") or {})
    ]
    names = [*NEEDED, *(["status"] if "status" in (shown["mapping"].get("fields") or {}) else []), *more[:4]]
    heads = [head_cell("Line", "num"), *(head_cell("Time (UTC)" if n == "timestamp" else LABELS.get(n, n), "num" if n == "amount" else "mid" if n in more else None) for n in names)]  # fmt: skip

    def value(row: dict[str, Any], name: str) -> str:
        data = row["transaction"]["data"]
        part = row["transaction"]["meta"].get(name) if name in ("user_id", "timestamp") else data.get(name)
        if name == "amount" and part is not None:
            return form.format_money(part, data["currency"])
        return form.MISSING if part is None else str(part)

    body = [
        Tr(cell(str(row["line"]), cls="num"), *(cell(value(row, n), cls="num" if n == "amount" else "mid c-id" if n in more else "c-id") for n in names), role="row")
        if row["transaction"]
        else Tr(
            cell(str(row["line"]), cls="num"),
            cell(Span("Refused. ", cls="strong"), row["error"], colspan=str(len(names)), cls="bad"),
            role="row",
        )
        for row in rows
    ]  # fmt: skip
    return Div(
        Div(H2(f"The first {len(rows)} rows as they would count"), cls="fh"),
        Div(table("The first rows as transactions", heads, body, cls="grid"), cls="sheet"),
        cls="preview",
    )
