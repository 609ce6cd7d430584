"""One anomaly: what happened, why it was flagged, fraud or not?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from starlette.requests import Request

from anomalyze.storage import board, board_decision, board_page, board_shared, board_transactions
from anomalyze.storage.board_page import AnomalyRecord, QueuePlace
from anomalyze.storage.board_transactions import TransactionRow
from dashboard import formatters as form
from dashboard import routes
from dashboard.amounts import amounts_figure
from dashboard.case_row import decided_banner
from dashboard.components import ago, head_cell, icon, severity, table, user_link
from dashboard.element import (
    FT,
    H1,
    H2,
    A,
    Button,
    Details,
    Div,
    Header,
    Pre,
    Section,
    Span,
    Summary,
    ft,
)
from dashboard.frame import frame
from dashboard.page import Answer, not_found, open_page, remember
from dashboard.rail import rail
from dashboard.security import Viewer, viewer_of
from dashboard.transaction_row import before_row
from dashboard.why import why

__all__ = ["anomaly_page"]

HISTORY = timedelta(days=30)
BEFORE_ROWS = 7
SAME_MOMENT = timedelta(microseconds=1)


async def anomaly_page(request: Request) -> Answer:
    """GET /anomalies/{anomaly_id}."""
    viewer = viewer_of(request)
    account = viewer.account_id
    channel = await request.app.state.hub.refresh(account)
    async with open_page(request) as connection:
        record = await board_page.load_anomaly(connection, account, request.path_params["anomaly_id"])
        case = await board.load_case(connection, account, record.case_id) if record else None
        if record is None or case is None:
            return await not_found(request, f"No anomaly with this id in {account}.")
        place = await board_page.load_queue_place(connection, account, case.last_at, case.case_id)
        history = await board_transactions.load_history(
            connection, account, record.user_id, record.ts - HISTORY, record.ts + SAME_MOMENT
        )
        shared = await board_shared.load_shared_counts(
            connection, account, record.merchant_id, record.country, record.device_id
        )
        decisions = await board_decision.load_decisions(connection, account, record.user_id, record.tx_id)
        before = request.query_params.get("decided", "")
        decided = (
            await board.load_case(connection, account, before) if before and "\x00" not in before else None
        )
    content = [
        decided_banner(decided, viewer, routes.anomaly(decided.headline_anomaly_id)) if decided else None,
        _crumbs(place),
        _lede(record, case, viewer),
        Div(
            Div(
                why(record),
                Section(
                    amounts_figure(record.user_id, history, record.currency, viewer, record.tx_id, record.ts),
                    cls="s",
                ),
                _before(record, history, viewer),
                _raw(record),
            ),
            rail(record, case, place, shared, [d for _, d in decisions], viewer),
            cls="cols",
        ),
    ]
    amount = f"{form.format_money(record.amount, record.currency)} {record.currency}"
    return frame(
        viewer,
        channel.state,
        title=f"{form.SEVERITIES[record.severity].capitalize()}, {amount}, {record.user_id}",
        active="now",
        content=remember(request, [part for part in content if part is not None]),
        styles=("anomaly.css",),
        scripts=("amounts.js",),
        plots=True,
    )


def _crumbs(place: QueuePlace) -> FT:
    def step(target: str | None, symbol: str, name: str, key: str, **attributes: Any) -> FT:
        if target is None:
            return Button(
                icon(symbol), cls="btn bare", type="button", disabled=True, aria_label=f"{name}: none"
            )
        return A(
            icon(symbol),
            href=routes.anomaly(target),
            cls="btn bare",
            aria_label=f"{name} ({key})",
            title=f"{name} ({key})",
            **attributes,
        )

    return Div(
        A(icon("left"), "Now", href=routes.NOW, cls="btn bare", data_back=True, title="Back (esc)"),
        Span(
            Span(
                f"{form.format_count(place.ahead + 1)} of {form.format_count(max(place.total, place.ahead + 1))} to review",
                cls="small",
            ),
            step(place.previous, "left", "Previous", "k", data_previous=True),
            step(place.following, "right", "Next", "j", data_next=True),
            cls="end",
        ),
        cls="crumbs",
    )


def _lede(record: AnomalyRecord, case: board.Case, viewer: Viewer) -> FT:
    recent = abs(viewer.now - record.ts) < timedelta(days=1)
    state = "not reviewed" if case.state == "open" else _decided_words(case, viewer)
    return Header(
        Div(
            severity(record.severity, tint=True),
            Span(ft("b", form.format_money(record.amount, record.currency)), f"\u00a0{record.currency}"),
            user_link(record.user_id, cls="link wm"),
            Span(
                ft("time", form.format_moment(record.ts, viewer.zone), datetime=record.ts.isoformat()),
                *((", ", *ago(record.ts, viewer.now, viewer.zone)) if recent else ()),
            ),
            Span(state, id="state"),
            cls="meta",
        ),
        H1(record.explanation),
        cls="lede",
    )


def _decided_words(case: board.Case, viewer: Viewer) -> str:
    who = "you" if case.decided_by == viewer.principal.key_id else case.decider or "a colleague"
    if case.decided_at is None:
        return f"{case.state} by {who}"
    suffix = " ago" if viewer.now - case.decided_at < timedelta(days=1) else ""
    return f"{case.state} by {who}, {form.format_age(case.decided_at, viewer.now, viewer.zone)}{suffix}"


def _before(record: AnomalyRecord, history: Sequence[TransactionRow], viewer: Viewer) -> FT:
    rows = [row for row in reversed(history) if row.ts <= record.ts]
    start = next((i for i, row in enumerate(rows) if row.tx_id == record.tx_id), 0)
    heads = (
        head_cell(f"Time, {form.zone_name(viewer.zone, record.ts)}", "t"),
        head_cell("Amount", "num"),
        head_cell("Merchant"),
        head_cell("Place"),
        head_cell("From last", "num"),
        head_cell("Device"),
        head_cell("Verdict"),
    )
    shown = rows[start : start + BEFORE_ROWS]
    return Section(
        Div(
            H2("Just before"),
            Span(
                A(f"All of {record.user_id}", href=routes.transactions(user_id=record.user_id), cls="link"),
                cls="end",
            ),
            cls="fh",
        ),
        Div(
            table(
                "This user's transactions, newest first",
                heads,
                [before_row(row, viewer, this=row.tx_id == record.tx_id) for row in shown],
                cls="around",
            ),
            cls=f"scroll level-{record.severity}",
        ),
        cls="s",
    )


def _raw(record: AnomalyRecord) -> FT:
    event = {
        "meta": {
            "trace_id": record.trace_id,
            "timestamp": record.ts.isoformat(),
            "source": record.source,
            "user_id": record.user_id,
        },
        "data": record.data,
        "enrichment": record.enrichment,
        "analysis": record.analysis,
        "verdict": record.verdict,
        "src": {"partition": record.src_partition, "offset": record.src_offset},
    }
    text = json.dumps(event, indent=2, ensure_ascii=False)
    size = len(json.dumps(event, ensure_ascii=False).encode())
    return Section(
        Details(
            Summary(
                icon("right"),
                "Event as received and judged ",
                Span(f"JSON, {form.format_bytes(size)}", cls="muted size"),
            ),
            Pre(text, cls="mono small raw", tabindex="0"),
        ),
        cls="s",
    )
