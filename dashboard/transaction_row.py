"""Transactions as rows: before an anomaly, and in the list."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from anomalyze.storage.board_transactions import TransactionRow
from dashboard import formatters as form
from dashboard import routes
from dashboard.components import cell, missing, money, score, severity, user_link
from dashboard.element import FT, A, Span, Tr, ft
from dashboard.security import Viewer

__all__ = ["STATUS_WORDS", "before_row", "list_row", "place_of"]

STATUS_WORDS = ("approved", "pending", "declined", "refunded", "reversed")


def place_of(row: TransactionRow) -> str:
    """Place and country."""
    location = str(row.data.get("location") or "")
    country = str(row.enrichment.get("country") or row.data.get("country") or "")
    return location if country in ("", location) else f"{location} {country}".strip()


def before_row(row: TransactionRow, viewer: Viewer, *, this: bool) -> FT:
    """A row of "Just before"."""
    km = row.enrichment.get("distance_from_last_tx")
    features = row.enrichment.get("features")
    new_device = isinstance(features, dict) and features.get("is_new_device") == 1
    category = ", ".join(
        str(row.data[name]).replace("_", " ")
        for name in ("merchant_category", "channel")
        if row.data.get(name)
    )
    return Tr(
        cell(_time(row.ts, viewer), cls="t"),
        cell(*money(row.amount, row.currency), cls="num"),
        cell(_merchant(row), Span(f" {category}", cls="muted cat") if category else None),
        cell(place_of(row) or missing("the transaction names no place")),
        cell(
            *(
                (f"{km:,.0f}", Span("km", cls="cur"))
                if isinstance(km, (int, float))
                else (missing("no place now or before"),)
            ),
            cls="num",
        ),
        cell(
            row.data.get("device_id") or missing("the transaction names no device"),
            Span(" first time", cls="new") if new_device else None,
        ),
        cell(_verdict(row)),
        role="row",
        cls="this" if this else None,
        aria_current="true" if this else None,
    )


def list_row(row: TransactionRow, viewer: Viewer) -> FT:
    """A row of the list of transactions."""
    link = routes.anomaly(row.anomaly_id) if row.anomaly_id else routes.transactions(user_id=row.user_id)
    return Tr(
        cell(A(*_time(row.ts, viewer), href=link, cls="name"), cls="t"),
        cell(user_link(row.user_id, cls="link"), cls="c-id"),
        cell(*money(row.amount, row.currency), cls="num"),
        cell(_merchant(row), cls="wide"),
        cell(place_of(row) or missing("the transaction names no place"), cls="wide"),
        cell(
            STATUS_WORDS[row.status] if 0 <= row.status < len(STATUS_WORDS) else form.MISSING, cls="muted mid"
        ),
        cell(score(row.score), cls="num muted mid"),
        cell(_verdict(row)),
        cell(row.tx_id, cls="mono c-id muted wide", title=row.tx_id),
        role="row",
        id=f"tx-{row.user_id}-{row.tx_id}",
    )


def _merchant(row: TransactionRow) -> Any:
    merchant = row.data.get("merchant_id")
    if not merchant:
        return missing("the transaction names no merchant")
    return (
        A(merchant, href=routes.with_query(routes.NOW, state="all", merchant=str(merchant)), cls="name")
        if row.severity
        else merchant
    )


def _verdict(row: TransactionRow) -> Any:
    found = severity(row.severity)
    return A(found, href=routes.anomaly(row.anomaly_id)) if row.anomaly_id else found


def _time(ts: datetime, viewer: Viewer) -> tuple[FT]:
    local, today = ts.astimezone(viewer.zone), viewer.now.astimezone(viewer.zone)
    clock = f"{local:%H:%M:%S}"
    if today - local > timedelta(days=1) or local.date() != today.date():
        clock = f"{form.format_day(ts, viewer.zone)} {local:%H:%M}"
    return (ft("time", clock, datetime=ts.isoformat(), title=form.format_moment(ts, viewer.zone)),)
