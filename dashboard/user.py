"""One user: who, what is usual, what changed?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from starlette.requests import Request

from anomalyze.storage import board_decision, board_page, board_transactions
from anomalyze.storage.board_page import UserRow
from anomalyze.storage.board_transactions import TransactionRow
from dashboard import formatters as form
from dashboard import routes
from dashboard.amounts import (
    BASELINE_AGE,
    BASELINE_MIN,
    Usual,
    amounts_figure,
    in_one_currency,
    usual_amounts,
)
from dashboard.components import cell, folded_table, head_cell, icon, moment, severity
from dashboard.element import (
    FT,
    H1,
    H2,
    A,
    Div,
    Figcaption,
    Figure,
    Header,
    Li,
    Ol,
    P,
    Section,
    Small,
    Span,
    Tr,
    ft,
)
from dashboard.frame import frame
from dashboard.page import Answer, not_found, open_page, remember
from dashboard.plots import columns_chart, share_bar
from dashboard.security import Viewer, viewer_of
from dashboard.transaction_row import place_of

__all__ = ["user_page"]

HISTORY = timedelta(days=30)
TOP = 5


async def user_page(request: Request) -> Answer:
    """GET /users/{user_id}."""
    viewer = viewer_of(request)
    account, user_id = viewer.account_id, request.path_params["user_id"]
    channel = await request.app.state.hub.refresh(account)
    async with open_page(request) as connection:
        user = await board_page.load_user(connection, account, user_id)
        if user is None:
            return await not_found(request, f"No user with this id in {account}.")
        end = max(viewer.now, user.last_ts)
        if user.last_ts < end - HISTORY:
            # Who was last seen long ago, in a file of old days: what he did then, and all of it is his usual.
            end = user.last_ts + BASELINE_AGE
        history = await board_transactions.load_history(
            connection, account, user_id, end - HISTORY, end + timedelta(seconds=1)
        )
        cases = await board_page.load_user_cases(connection, account, user_id)
        decisions = await board_decision.load_decisions(connection, account, user_id)
    currency = Counter(row.currency for row in history).most_common(1)[0][0] if history else "USD"
    points, currency = in_one_currency(history, currency)
    usual = usual_amounts(points, end)
    content = [
        Div(
            A(icon("left"), "Users", href=routes.USERS, cls="btn bare", data_back=True, title="Back (esc)"),
            cls="crumbs",
        ),
        Header(H1(user_id), cls="head who"),
        _figures(user, usual, currency, viewer),
        Section(amounts_figure(user_id, history, currency, viewer, end=end), cls="s"),
        _habits(history, viewer),
        _timeline(cases, decisions, viewer),
    ]
    return frame(
        viewer,
        channel.state,
        title=user_id,
        active="users",
        content=remember(request, content),
        styles=("anomaly.css", "lists.css"),
        scripts=("amounts.js",),
        plots=True,
    )


def _figures(user: UserRow, usual: Usual | int, currency: str, viewer: Viewer) -> FT:
    if isinstance(usual, Usual):
        low, high = form.format_money(usual.low, currency), form.format_money(usual.high, currency)
        amount = Div(
            H2("Usual amount"),
            Div(form.format_money(usual.median, currency), Small(f" {currency}"), cls="fig"),
            P(f"{low} to {high} (90%) over {usual.n}"),
        )
    else:
        amount = Div(
            H2("Usual amount"),
            Div(form.MISSING, cls="fig"),
            P(f"{form.plural(usual, 'transaction')} of this user; usual ranges start at {BASELINE_MIN}."),
        )
    return Section(
        amount,
        Div(
            H2("Transactions"),
            Div(form.format_count(user.transactions), cls="fig"),
            P(A("All of them", href=routes.transactions(user_id=user.user_id), cls="link")),
        ),
        Div(
            H2("Anomalies, 30 days"),
            Div(
                form.format_count(user.anomalies_30d),
                " ",
                severity(user.severity_max) if user.severity_max else None,
                cls="fig",
            ),
            P(f"{form.format_count(user.anomalies)} in all"),
        ),
        Div(
            H2("Last seen"),
            Div(moment(user.last_ts, viewer.now, viewer.zone), cls="fig"),
            P("first ", moment(user.first_ts, viewer.now, viewer.zone, ticks=False)),
        ),
        cls="strip",
        aria_label="Figures",
    )


def _habits(history: Sequence[TransactionRow], viewer: Viewer) -> FT:
    def most(title: str, pick: Callable[[TransactionRow], Any]) -> FT:
        counts = Counter(str(value) for row in history if (value := pick(row)))
        total = sum(counts.values())
        rows = [
            Tr(
                ft("th", name, scope="row", role="rowheader", cls="c-id", title=name),
                cell(share_bar(count / total), cls="fb"),
                cell(form.format_count(count), cls="num"),
                role="row",
            )
            for name, count in counts.most_common(TOP)
        ]
        rest = len(counts) - len(rows)
        return Div(
            H2(title),
            ft(
                "table",
                ft("caption", f"{title}, most frequent first", cls="vh"),
                ft("tbody", *rows, role="rowgroup"),
                role="table",
                cls="habit",
            )
            if rows
            else P("None named.", cls="muted small"),
            P(f"and {rest} more", cls="muted small") if rest > 0 else None,
        )

    return Section(
        Div(H2("Usual, 30 days"), cls="fh"),
        Div(
            most("Places", place_of),
            most("Devices", lambda row: row.data.get("device_id")),
            most("Merchants", lambda row: row.data.get("merchant_id")),
            _hours(history, viewer),
            cls="habits",
        ),
        cls="s",
    )


def _hours(history: Sequence[TransactionRow], viewer: Viewer) -> FT:
    counts = Counter(row.ts.astimezone(viewer.zone).hour for row in history)
    values = [
        (
            f"{hour:02d}",
            float(counts[hour]),
            f"{hour:02d}:00 to {(hour + 1) % 24:02d}:00: {form.plural(counts[hour], 'transaction')}",
        )
        for hour in range(24)
    ]
    label = f"Transactions by hour of day, {form.zone_name(viewer.zone, viewer.now)}"
    rows = [
        Tr(
            ft("th", read.partition(": ")[0], scope="row", role="rowheader"),
            cell(f"{value:.0f}", cls="num"),
            role="row",
        )
        for _, value, read in values
    ]
    return Figure(
        Figcaption(H2("Hours")),
        P(label, cls="readout", data_default=label),
        Div(
            columns_chart(values, 300, 92, label, label_every=6),
            data_columns=True,
            tabindex="0",
            cls="plot-hours",
        ),
        folded_table(label, (head_cell("Hour"), head_cell("Transactions", "num")), rows),
    )


def _timeline(cases: Sequence[dict[str, Any]], decisions: Sequence[Any], viewer: Viewer) -> FT:
    entries: list[tuple[Any, FT]] = []
    for case in cases:
        many = f" ×{case['anomalies']}" if case["anomalies"] > 1 else ""
        what = Span(
            severity(case["severity"]),
            " ",
            A(case["headline"], href=routes.anomaly(case["headline_anomaly_id"]), cls="name"),
            Span(many, cls="muted"),
        )
        entries.append((case["last_at"], what))
        if case["decided_at"]:
            who = "you" if case["decided_by"] == viewer.principal.key_id else case["decider"] or "a colleague"
            note = f": “{case['note']}”" if case["note"] else ""
            entries.append(
                (case["decided_at"], Span(f"{case['state'].capitalize()} by {who}{note}", cls="muted"))
            )
    for tx_id, decision in decisions:
        if decision.source != "analyst" or decision.fraud is None:
            said = {True: "fraud", False: "genuine", None: "taken back"}[decision.fraud]
            entries.append(
                (decision.recorded_at, Span(f"{tx_id}: {said}, says {decision.source}", cls="muted"))
            )
    entries.sort(key=lambda entry: entry[0], reverse=True)
    lines = [Li(moment(at, viewer.now, viewer.zone, ticks=False), what) for at, what in entries]
    return Section(
        Div(H2("Timeline"), Span("cases and decisions, newest first", cls="small muted"), cls="fh"),
        Ol(*lines, cls="log timeline") if lines else P("No anomaly of this user.", cls="muted"),
        cls="s",
    )
