"""Transactions: did it arrive, what verdict, whose? The API's filters as a form, pages by keyset, CSV."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from zoneinfo import ZoneInfo

from starlette.requests import Request
from starlette.responses import StreamingResponse

from anomalyze.storage import board_transactions
from anomalyze.storage.board import PAGE_ROWS, Connection
from anomalyze.storage.board_transactions import TransactionFilter, TransactionRow
from anomalyze.storage.csv_stream import stream_csv
from anomalyze.storage.period import load_period_end
from anomalyze.storage.query import fetch_async
from dashboard import routes
from dashboard.components import SEVERITY_WORDS, copyable, empty_row, head_cell, table
from dashboard.element import FT, A, Button, Div, Form, Input, Label, Option, P, Select
from dashboard.formatters import SEVERITIES
from dashboard.frame import frame, page_head, zone_note
from dashboard.page import Answer, open_page, remember
from dashboard.period import describe_days
from dashboard.security import viewer_of
from dashboard.transaction_row import STATUS_WORDS, list_row, place_of

__all__ = ["TransactionView", "parse_transactions", "transactions_csv", "transactions_page"]

DEFAULT_DAYS = 30
TEXT_LENGTH_MAX = 128
COLUMNS = 9
CSV_HEAD = [
    "tx_id",
    "user_id",
    "timestamp",
    "amount",
    "currency",
    "status",
    "severity",
    "score",
    "merchant_id",
    "place",
    "device_id",
    "source",
    "case_id",
]
# Spreadsheets run cells that begin with these.
CSV_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class TransactionView:
    """The form's fields as they were sent, and what they mean; `mistakes` by field."""

    fields: dict[str, str]
    filter: TransactionFilter
    mistakes: dict[str, str]


def parse_transactions(query: Mapping[str, str], end: datetime, zone: ZoneInfo) -> TransactionView:
    """Query parameters as a filter; a field that cannot be is named and left out.

    Days are the reader's; without them the 30 days until ``end``.
    """
    names = ("user_id", "from_date", "to_date", "min_amount", "max_amount", "severity")
    fields = {name: query.get(name, "").strip().replace("\x00", "")[:TEXT_LENGTH_MAX] for name in names}
    mistakes: dict[str, str] = {}

    def day(name: str) -> datetime | None:
        try:
            return datetime.strptime(fields[name], "%Y-%m-%d").replace(tzinfo=zone) if fields[name] else None
        except ValueError:
            mistakes[name] = f"{fields[name]}: expected a day such as 2025-12-20."
            return None

    def amount(name: str) -> Decimal | None:
        try:
            value = Decimal(fields[name].replace(",", "")) if fields[name] else None
        except InvalidOperation:
            value = Decimal("NaN")
        if value is not None and not value.is_finite():
            mistakes[name] = f"{fields[name]}: expected a number such as 120.00."
            return None
        return value

    start, last = day("from_date"), day("to_date")
    level = SEVERITIES.index(fields["severity"]) if fields["severity"] in SEVERITIES else None
    wanted = TransactionFilter(
        user=fields["user_id"] or None,
        start=start or (last or end) - timedelta(days=DEFAULT_DAYS),
        end=last + timedelta(days=1) if last else None,
        amount_min=amount("min_amount"),
        amount_max=amount("max_amount"),
        severity_min=level or None,
        before=_parse_cursor(query.get("cursor", "")),
    )
    return TransactionView(fields, wanted, mistakes)


async def transactions_page(request: Request) -> Answer:
    """GET /transactions."""
    viewer = viewer_of(request)
    channel = await request.app.state.hub.refresh(viewer.account_id)
    async with open_page(request) as connection:
        end = await fetch_async(connection, load_period_end(viewer.account_id, viewer.now))
        view = parse_transactions(request.query_params, end, viewer.zone)
        rows = await board_transactions.load_transactions(
            connection, viewer.account_id, view.filter, PAGE_ROWS + 1
        )
    shown = rows[:PAGE_ROWS]
    heads = (
        head_cell("Time", "t", sort="descending"),
        head_cell("User"),
        head_cell("Amount", "num"),
        head_cell("Merchant", "wide"),
        head_cell("Place", "wide"),
        head_cell("Status", "mid"),
        head_cell("Score", "num mid"),
        head_cell("Verdict"),
        head_cell("Transaction", "wide"),
    )
    body = [list_row(row, viewer) for row in shown] or [_none(view, channel.state.stream)]
    grid = table("Transactions, newest first", heads, body, cls="grid")
    grid.children[-1].attrs["id"] = "rows"
    past = end < viewer.now and not (view.fields["from_date"] or view.fields["to_date"])
    days = f"{describe_days(DEFAULT_DAYS, end, viewer.now, viewer.zone)}. " if past else ""
    content = [
        page_head("Transactions", right=(days, zone_note(viewer))),
        *([P(days, cls="small muted phone")] if days else []),
        _form(view),
        Div(grid, cls="sheet"),
        _pages(view, rows),
    ]
    return frame(
        viewer,
        channel.state,
        title="Transactions",
        active="transactions",
        content=remember(request, content),
        styles=("lists.css",),
    )


def _form(view: TransactionView) -> FT:
    def field(name: str, label: str, kind: str, **attributes: str) -> FT:
        wrong = view.mistakes.get(name)
        return Div(
            Label(label, fr=name),
            Input(
                type=kind,
                name=name,
                id=name,
                value=view.fields[name],
                cls="input",
                aria_invalid="true" if wrong else None,
                aria_describedby=f"{name}-error" if wrong else None,
                **attributes,
            ),
            P(wrong, cls="error small", id=f"{name}-error") if wrong else None,
            cls="field",
        )

    chosen = view.fields["severity"]
    options = [Option("any verdict", value="", selected=not chosen)] + [
        Option(
            f"{SEVERITY_WORDS[level]}{'' if level == 4 else ' or above'}",
            value=SEVERITIES[level],
            selected=chosen == SEVERITIES[level],
        )
        for level in (1, 2, 3, 4)
    ]
    return Form(
        field("user_id", "User", "search", placeholder="user_99", data_search="1"),
        field("from_date", "From", "date"),
        field("to_date", "To", "date"),
        field("min_amount", "Amount from", "text", inputmode="decimal", placeholder="0.00"),
        field("max_amount", "to", "text", inputmode="decimal", placeholder="any"),
        Div(
            Label("Verdict", fr="severity"),
            Select(*options, name="severity", id="severity", cls="input"),
            cls="field",
        ),
        Div(
            Button("Show", cls="btn", type="submit"),
            A("Clear", href=routes.TRANSACTIONS, cls="btn bare"),
            A(
                "CSV",
                href=routes.with_query(routes.TRANSACTIONS_CSV, **view.fields),
                cls="btn bare",
                title=f"This filter as CSV, at most {board_transactions.EXPORT_ROWS_MAX:,} rows",
                download=True,
            ),
            cls="acts-f",
        ),
        action=routes.TRANSACTIONS,
        method="get",
        cls="filters",
    )


def _none(view: TransactionView, stream: object) -> FT:
    if getattr(stream, "last_at", None) is None:
        return empty_row(
            COLUMNS,
            P("No transaction yet. Send one:"),
            copyable("anomalyze simulate --rate 50 --seconds 60 --seed 1", "the simulate command"),
        )
    asked = any(view.fields.values()) or view.filter.before
    if asked:
        return empty_row(
            COLUMNS, "No transaction matches. ", A("Clear filters", href=routes.TRANSACTIONS, cls="link")
        )
    return empty_row(COLUMNS, f"No transaction in the last {DEFAULT_DAYS} days.")


def _pages(view: TransactionView, rows: list[TransactionRow]) -> FT | None:
    links = []
    if view.filter.before:
        links.append(A("Newest", href=routes.with_query(routes.TRANSACTIONS, **view.fields), cls="btn"))
    if len(rows) > PAGE_ROWS:
        last = rows[PAGE_ROWS - 1]
        cursor = (
            base64.urlsafe_b64encode(json.dumps([last.ts.isoformat(), last.user_id, last.tx_id]).encode())
            .decode()
            .rstrip("=")
        )
        links.append(
            A(
                "Older",
                href=routes.with_query(routes.TRANSACTIONS, **view.fields, cursor=cursor),
                cls="btn",
                rel="next",
            )
        )
    return Div(*links, cls="pages") if links else None


def _parse_cursor(text: str) -> tuple[datetime, str, str] | None:
    if not 0 < len(text) < 2000:
        return None
    try:
        content = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        match content:
            case [str(ts), str(user), str(tx)] if "\x00" not in user + tx:
                moment = datetime.fromisoformat(ts)
                return (moment, user, tx) if moment.tzinfo else None
    except (binascii.Error, ValueError):
        return None
    return None


async def transactions_csv(request: Request) -> Answer:
    """GET /transactions.csv: the filter's rows, newest first, streamed."""
    viewer = viewer_of(request)

    async def read(connection: Connection) -> AsyncIterator[list[object]]:
        end = await fetch_async(connection, load_period_end(viewer.account_id, viewer.now))
        view = parse_transactions(request.query_params, end, viewer.zone)
        wanted = replace(view.filter, before=None)
        async for row in board_transactions.stream_transactions(connection, viewer.account_id, wanted):
            yield [_csv_cell(value) for value in _csv_row(row)]

    text = stream_csv(CSV_HEAD, open_page(request), read)
    headers = {"Content-Disposition": f'attachment; filename="transactions-{viewer.now:%Y-%m-%d}.csv"'}
    return StreamingResponse(text, media_type="text/csv; charset=utf-8", headers=headers)


def _csv_row(row: TransactionRow) -> list[object]:
    status = STATUS_WORDS[row.status] if 0 <= row.status < len(STATUS_WORDS) else row.status
    return [
        row.tx_id, row.user_id, row.ts.isoformat(), row.amount, row.currency, status, SEVERITIES[row.severity].upper(),
        row.score, row.data.get("merchant_id"), place_of(row), row.data.get("device_id"), row.source, row.case_id,
    ]  # fmt: skip


def _csv_cell(value: object) -> object:
    """Texts of strangers must not become formulas.

    >>> _csv_cell("=1+1"), _csv_cell(-5)
    ("'=1+1", -5)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(CSV_FORMULA) else value
