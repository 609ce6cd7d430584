"""A user's amounts over time: usual range, this one marked, anomalies as severity marks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from anomalyze.storage.board_transactions import TransactionRow
from dashboard import formatters as form
from dashboard.components import (
    SEVERITY_WORDS,
    cell,
    folded_table,
    head_cell,
    missing,
    moment,
    money,
    severity,
)
from dashboard.element import FT, H2, Div, Figcaption, Figure, P, Span, Tr, ft
from dashboard.hours import quantile
from dashboard.security import Viewer

__all__ = [
    "BASELINE_AGE",
    "BASELINE_MIN",
    "Point",
    "Usual",
    "amounts_figure",
    "in_one_currency",
    "usual_amounts",
]

# As the features do it: the last 60 purchases older than 24 hours, and none with fewer than 10.
BASELINE_MAX, BASELINE_MIN = 60, 10
BASELINE_AGE = timedelta(hours=24)
PURCHASE_STATUSES = (0, 1)  # approved, pending
TABLE_ROWS = 100
# amount_base is published with two decimals.
BASE_ROUNDING = 0.006
HINT = "Point at a transaction, or focus the plot and use the arrow keys; drag to zoom, double-click for all."


@dataclass(frozen=True, slots=True)
class Usual:
    """Usual amounts in one currency: 5 % and 95 % quantiles and the median over `n` purchases."""

    low: float
    median: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Point:
    """A transaction with its amount in the currency of the plot."""

    row: TransactionRow
    amount: float


def in_one_currency(rows: Sequence[TransactionRow], currency: str) -> tuple[list[Point], str]:
    """What can be drawn on one scale, and in which currency.

    That is `currency`, unless most of the user's rows are in others and the detector noted their amounts in the
    account's base currency (``amount_base``): then all are in that one, "base currency" where no row names it.
    """
    own = [Point(row, float(row.amount)) for row in rows if row.currency == currency]
    if 2 * len(own) >= len(rows):
        return own, currency
    based = [Point(row, base) for row in rows if (base := _amount_base(row)) is not None]
    if len(based) <= len(own):
        return own, currency
    same = Counter(
        point.row.currency for point in based if abs(point.amount - float(point.row.amount)) < BASE_ROUNDING
    )
    return based, same.most_common(1)[0][0] if same else "base currency"


def _amount_base(row: TransactionRow) -> float | None:
    features = row.enrichment.get("features")
    value = features.get("amount_base") if isinstance(features, dict) else None
    return float(value) if isinstance(value, (int, float)) else None


def usual_amounts(points: Sequence[Point], until: datetime) -> Usual | int:
    """What this user usually pays before a moment; with too few purchases how many there are.

    Parameters
    ----------
    points
        His transactions in one currency, oldest first.
    """
    amounts = [
        point.amount
        for point in points
        if point.row.ts < until - BASELINE_AGE and point.amount > 0 and point.row.status in PURCHASE_STATUSES
    ][-BASELINE_MAX:]
    if len(amounts) < BASELINE_MIN:
        return len(amounts)
    return Usual(quantile(amounts, 0.05), quantile(amounts, 0.5), quantile(amounts, 0.95), len(amounts))


def amounts_figure(
    user_id: str,
    rows: Sequence[TransactionRow],
    currency: str,
    viewer: Viewer,
    this: str | None = None,
    end: datetime | None = None,
) -> FT:
    """The plot, its readout and its table.

    Parameters
    ----------
    rows
        Oldest first, 30 days.
    this
        tx_id of the transaction that the page is about.
    end
        Right edge: now, or the moment of this transaction.
    """
    points, currency = in_one_currency(rows, currency)
    usual = usual_amounts(points, end or viewer.now)
    shown = [point for point in points if point.amount > 0]
    others = len(rows) - len(shown)
    about = f"{currency}, log scale, 30 days, {form.plural(len(shown), 'transaction')}"
    if others:
        about += f"; {form.format_count(others)} refunds or in other currencies not drawn"
    keys: list[FT] = []
    label = f"Amounts of {user_id} over 30 days in {currency} on a log scale."
    if isinstance(usual, Usual):
        low, middle, high = (form.format_money(v, currency) for v in (usual.low, usual.median, usual.high))
        keys = [
            Span(ft("i", cls="dash"), f"median {middle}"),
            Span(ft("i", cls="sw"), f"usual, {low} to {high} (90%)"),
        ]
        label += f" Usual {low} to {high}, median {middle}."
    else:
        keys = [
            Span(f"{form.plural(usual, 'transaction')} of this user; usual ranges start at {BASELINE_MIN}.")
        ]
    marked = next((point for point in shown if point.row.tx_id == this), None)
    if marked is not None:
        label += f" This transaction {form.format_money(marked.amount, currency)}."
    return Figure(
        Figcaption(
            H2(f"Amounts of {user_id}"), Span(about, cls="small muted"), Div(*keys, cls="key end"), cls="fh"
        ),
        P(HINT, cls="readout", data_default=HINT),
        Div(
            cls="plot",
            data_plot=_plot_data(shown, currency, usual, viewer, this, end or viewer.now),
            role="img",
            tabindex="0",
            aria_label=label,
        )
        if shown
        else P("Nothing to draw yet.", cls="empty"),
        _as_table(user_id, [point.row for point in shown[-TABLE_ROWS:][::-1]], viewer),
    )


def _plot_data(
    points: Sequence[Point],
    currency: str,
    usual: Usual | int,
    viewer: Viewer,
    this: str | None,
    end: datetime,
) -> str:
    return json.dumps(
        {
            "t": [round(p.row.ts.timestamp(), 3) for p in points],
            "y": [p.amount for p in points],
            "s": [p.row.severity for p in points],
            "read": [_readout(p.row, viewer) for p in points],
            "this": next((i for i, p in enumerate(points) if p.row.tx_id == this), None),
            "usual": [usual.low, usual.median, usual.high] if isinstance(usual, Usual) else None,
            "end": end.timestamp(),
            "start": (end - timedelta(days=30)).timestamp(),
            "zone": str(viewer.zone),
            "decimals": form.currency_decimals(currency),
        },
        separators=(",", ":"),
    )


def _readout(row: TransactionRow, viewer: Viewer) -> str:
    where = row.data.get("merchant_id")
    verdict = f", {SEVERITY_WORDS[row.severity]}" if row.severity else ""
    return f"{form.format_moment(row.ts, viewer.zone)}: {form.format_money(row.amount, row.currency)} {row.currency}{f' at {where}' if where else ''}{verdict}"


def _as_table(user_id: str, rows: Sequence[TransactionRow], viewer: Viewer) -> FT:
    heads = (head_cell("Time"), head_cell("Amount", "num"), head_cell("Merchant"), head_cell("Verdict"))
    body = [
        Tr(
            cell(moment(row.ts, viewer.now, viewer.zone, ticks=False)),
            cell(*money(row.amount, row.currency), cls="num"),
            cell(row.data.get("merchant_id") or missing("the transaction names no merchant")),
            cell(severity(row.severity)),
            role="row",
        )
        for row in rows
    ]
    return folded_table(f"Amounts of {user_id}, newest first", heads, body)
