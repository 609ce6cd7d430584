"""Quality: how much of what is shown is fraud, how much of the fraud is shown, and how that is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from html import escape

from starlette.requests import Request

from anomalyze.learning.recall import Recall, estimate_recall, share_interval
from anomalyze.storage.account_version import load_version
from anomalyze.storage.period import load_period_end
from anomalyze.storage.quality import (
    LABELS_MAX,
    NOTHING,
    Outcomes,
    Reviewed,
    load_outcomes,
    load_samples,
    load_waiting,
)
from anomalyze.storage.query import fetch_async
from dashboard import formatters as form
from dashboard import routes
from dashboard.components import cell, copyable, empty_row, folded_table, head_cell, missing, severity, table
from dashboard.element import (
    FT,
    H2,
    A,
    Div,
    Figcaption,
    Figure,
    Li,
    NotStr,
    Ol,
    P,
    Section,
    Small,
    Span,
    Tr,
    ft,
)
from dashboard.frame import frame, page_head
from dashboard.page import Answer, open_page, remember
from dashboard.period import describe_days
from dashboard.plots import share_bar, ticks
from dashboard.security import Viewer, viewer_of

__all__ = ["quality_page"]

PERIOD = timedelta(days=90)
DAYS_SHOWN = 30
# After so long a payment that nobody complained of counts as genuine, unless the account says otherwise.
DELAY_DAYS = 45.0
# Below, a share says nothing yet; it stands there with its interval, in grey.
ENOUGH = 10


async def quality_page(request: Request) -> Answer:
    """GET /quality."""
    viewer = viewer_of(request)
    channel = await request.app.state.hub.refresh(viewer.account_id)
    async with open_page(request) as connection:
        end = await fetch_async(connection, load_period_end(viewer.account_id, viewer.now))
        since = end - PERIOD
        outcomes = await fetch_async(connection, load_outcomes(viewer.account_id, since))
        samples = await fetch_async(connection, load_samples(viewer.account_id, since))
        own = await fetch_async(connection, load_version(viewer.account_id))
        delay_days = float((own.document.get("label_delay_days") if own else None) or DELAY_DAYS)
        waiting = await fetch_async(
            connection, load_waiting(viewer.account_id, end - timedelta(days=delay_days))
        )
    recall = estimate_recall(outcomes.found, samples)
    shown = describe_days(PERIOD.days, end, viewer.now)
    head = page_head("Quality", right=(f"{shown}, by labels and decisions. Days in UTC.",))
    narrow = P(f"{shown}.", cls="small muted phone") if end < viewer.now else None
    content = [head, *([narrow] if narrow else []), _strip(outcomes, recall, waiting, delay_days)]
    if outcomes.truncated:
        content.append(
            P(
                f"Of the newest {LABELS_MAX:,} labels; Dagster's asset detection_quality reads more.",
                cls="after muted",
            )
        )
    if outcomes.labels.reviewed:
        content += [
            _days(outcomes, end, viewer),
            _rates("By rule", "Precision by rule", "Rule", _rule_rows(outcomes.rules)),
            _rates("By severity", "Precision by severity", "Severity", _severity_rows(outcomes)),
        ]
    content += [_recall(recall, outcomes), _teach(viewer)]
    return frame(
        viewer,
        channel.state,
        title="Quality",
        active="quality",
        content=remember(request, content),
        styles=("lists.css", "quality.css"),
    )


def _strip(outcomes: Outcomes, recall: Recall, waiting: int, delay_days: float) -> FT:
    cases, labels = outcomes.cases, outcomes.labels
    if cases.reviewed:
        low, high = share_interval(cases.fraud, cases.reviewed)
        precision = [
            Div(form.format_percent(cases.fraud / cases.reviewed, 0), cls="fig"),
            P(
                f"{form.format_count(cases.fraud)} of {form.plural(cases.reviewed, 'case')} known; "
                f"{_interval(low, high)}"
            ),
        ]
    else:
        precision = [Div(missing("no flagged case has a label yet"), cls="fig"), P("no case is known yet")]
    if recall.share is None or recall.low is None or recall.high is None:
        found = [
            Div(missing("too few drawn payments are reviewed"), cls="fig"),
            P(f"{recall.reviewed} of {recall.drawn} drawn payments reviewed"),
        ]
    else:
        found = [
            Div(form.format_percent(recall.share, 0), cls="fig"),
            P(f"{_interval(recall.low, recall.high)}; {recall.reviewed} of {recall.drawn} drawn reviewed"),
        ]
    return Section(
        Div(H2("Precision"), *precision),
        Div(H2("Recall, estimated"), *found),
        Div(
            H2("Labels"),
            Div(form.format_count(labels.reviewed), " ", Small("payments"), cls="fig"),
            P(
                f"{form.format_count(labels.fraud)} fraud, {form.format_count(labels.reviewed - labels.fraud)} verified"
            ),
        ),
        Div(
            H2("Waiting to mature"),
            Div(form.format_count(max(waiting - labels.reviewed, 0)), " ", Small("payments"), cls="fig"),
            P(f"no complaint in {delay_days:g} days makes them genuine"),
        ),
        cls="strip",
        aria_label="Figures",
    )


def _interval(low: float, high: float) -> str:
    return f"{form.format_percent(low, 0)} to {form.format_percent(high, 0)}"


def _days(outcomes: Outcomes, end: datetime, viewer: Viewer) -> FT:
    newest = (end - timedelta(microseconds=1)).date()
    days = [newest - timedelta(days=back) for back in range(DAYS_SHOWN - 1, -1, -1)]
    known = [(day, outcomes.days.get(day, NOTHING)) for day in days]
    past = f" to {newest:%-d %b %Y}" if end < viewer.now else ""
    label = f"Cases known by day, and those that were fraud, over {DAYS_SHOWN} days{past}"
    rows = [
        Tr(
            ft("th", f"{day:%-d %b}", scope="row", role="rowheader"),
            cell(form.format_count(one.reviewed), cls="num"),
            cell(form.format_count(one.fraud), cls="num"),
            role="row",
        )
        for day, one in known
        if one.reviewed
    ]
    return Figure(
        Figcaption(
            H2("By day"),
            Span(past.strip().replace(" ", form.NO_BREAK) or f"{DAYS_SHOWN} days", cls="small muted"),
            Div(
                Span(ft("i", cls="sw fraud"), "fraud"),
                Span(ft("i", cls="sw"), "known, no fraud"),
                cls="key",
            ),
            cls="fh",
        ),
        P(label, cls="readout", data_default=label),
        Div(_stacked(known, 1000, 132, label), cls="desk", data_columns=True, tabindex="0"),
        Div(_stacked(known, 348, 96, label), cls="phone", data_columns=True, tabindex="0"),
        folded_table(label, (head_cell("Day"), head_cell("Known", "num"), head_cell("Fraud", "num")), rows),
        cls="quality-days",
    )


def _stacked(known: Sequence[tuple[date, Reviewed]], width: int, height: int, label: str) -> NotStr:
    """Bars of known cases by day from zero, fraud at their foot."""
    left, floor = 28.0, height - 20.0
    marks = ticks(max([one.reviewed for _, one in known] + [1]), 3)
    scale, step = (floor - 6) / marks[-1], (width - left) / len(known)
    parts = []
    for value in marks:
        y = floor - value * scale
        parts.append(f'<path class="{"grid" if value else "base"}" d="M{left:.0f} {y:.1f}H{width}"/>')
        parts.append(
            f'<text class="axis" x="{left - 7:.0f}" y="{y + 4:.1f}" text-anchor="end">{value:,}</text>'
        )
    bar = min(18.0, step * 0.6)
    every = 5 if width > 600 else 10
    for index, (day, one) in enumerate(known):
        x = left + step * (index + 0.5)
        read = (
            f"{day:%-d %b}: {one.fraud} of {one.reviewed} known cases were fraud"
            if one.reviewed
            else (f"{day:%-d %b}: no case is known")
        )
        parts.append(
            f'<g class="col" data-read="{escape(read)}"><rect class="hit" x="{x - step / 2:.1f}" y="0" '
            f'width="{step:.1f}" height="{floor:.1f}"/>'
        )
        top = floor
        for css, count in (("fraud", one.fraud), ("known", one.reviewed - one.fraud)):
            if count:
                top -= count * scale
                parts.append(
                    f'<rect class="{css}" x="{x - bar / 2:.1f}" y="{top + 0.5:.1f}" width="{bar:.1f}" '
                    f'height="{max(count * scale - 1, 0.8):.1f}"/>'
                )
        parts.append("</g>")
        if (len(known) - 1 - index) % every == 0:
            anchor = "end" if index == len(known) - 1 else "middle"
            at = float(width) if index == len(known) - 1 else x
            parts.append(
                f'<text class="axis" x="{at:.1f}" y="{floor + 15:.1f}" text-anchor="{anchor}">{day:%-d %b}</text>'
            )
    return NotStr(
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _rule_rows(rules: Mapping[str, Reviewed]) -> list[FT]:
    ordered = sorted(rules.items(), key=lambda item: (-item[1].reviewed, item[0]))
    return [
        _row(
            Span(rule, cls="mono")
            if rule
            else Span("no rule", cls="muted", title="flagged by a model or a statistic"),
            one,
        )
        for rule, one in ordered
    ]


def _severity_rows(outcomes: Outcomes) -> list[FT]:
    return [_row(severity(level), outcomes.severities[level]) for level in sorted(outcomes.severities)[::-1]]


def _row(name: FT, one: Reviewed) -> FT:
    low, high = share_interval(one.fraud, one.reviewed)
    share = one.fraud / one.reviewed
    return Tr(
        cell(name, cls="wm"),
        cell(form.format_count(one.reviewed), cls="num"),
        cell(form.format_count(one.fraud), cls="num mid"),
        cell(form.format_percent(share, 0), cls="num" if one.reviewed >= ENOUGH else "num faint"),
        cell(share_bar(share), cls="c-bar mid"),
        cell(_interval(low, high), cls="num muted"),
        role="row",
    )


def _rates(title: str, caption: str, first: str, rows: Sequence[FT]) -> FT:
    heads = (
        head_cell(first),
        head_cell("Known", "num", title="cases of which it is known whether they were fraud"),
        head_cell("Fraud", "num mid"),
        head_cell("Precision", "num"),
        head_cell("", "c-bar mid"),
        head_cell("95% interval", "num"),
    )
    shown = rows or [empty_row(6, "No flagged case has a label yet.")]
    return Section(
        Div(H2(title), cls="fh"), Div(table(caption, heads, shown, cls="grid"), cls="sheet"), cls="s"
    )


def _recall(recall: Recall, outcomes: Outcomes) -> FT:
    parts = [
        P(
            "Each night two payments of the day before that nothing flagged are drawn by lot and put among the cases to "
            "review. They look like the others, so that they are judged like them. Each stands for all payments of its "
            "day; so what is missed can be estimated. Decide them as any case."
        )
    ]
    if recall.share is not None and recall.low is not None and recall.high is not None:
        missed = form.plural(round(recall.missed), "payment")
        parts.append(
            P(
                f"On those days {form.plural(recall.found, 'fraud')} were flagged; an estimated {missed} were not. "
                f"Recall is {form.format_percent(recall.share, 0)}, {_interval(recall.low, recall.high)}."
            )
        )
    if outcomes.unseen:
        parts.append(
            P(f"Labels name {form.plural(outcomes.unseen, 'fraud')} that nothing flagged, drawn or not.")
        )
    return Section(Div(H2("What is missed"), cls="fh"), Div(*parts, cls="teach"), cls="s")


def _teach(viewer: Viewer) -> FT:
    command = (
        f"curl -X POST http://localhost:{viewer.api_port}/v1/labels -H 'Authorization: Bearer YOUR_KEY' "
        "-H 'Content-Type: application/json' "
        '-d \'[{"tx_id": "tx_555", "user_id": "user_99", "fraud": true, "source": "chargeback"}]\''
    )
    return Section(
        Div(H2("Where labels come from"), cls="fh"),
        Div(
            Ol(
                Li(
                    A("Decide cases", href=routes.NOW, cls="link"),
                    ": confirmed is fraud. Dismissed counts as no fraud only with the reason ",
                    Span("Verified legitimate", cls="wm"),
                    "; other dismissals say nothing.",
                ),
                Li("Send chargebacks and what support found out, as JSON or CSV, as late as they come:"),
            ),
            copyable(command, "the command that sends a label"),
            P(
                "Labels also teach the next model; a payment without one counts as genuine only after the delay."
            ),
            cls="teach",
        ),
        cls="s",
    )
