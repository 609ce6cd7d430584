"""What people say of alerts of metrics: confirm, dismiss, and for how long they want to hear nothing. Forms and POSTs."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Protocol

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse

from anomalyze.errors import EventError
from anomalyze.storage.cursor import FilterError
from anomalyze.storage.metrics_alerts import Alert, Snooze, add_feedback, set_snooze
from anomalyze.storage.metrics_view import find_alert
from anomalyze.storage.pool import connect
from anomalyze.storage.query import fetch_async
from dashboard import formatters as form
from dashboard import routes
from dashboard.case_row import no_permission
from dashboard.components import icon
from dashboard.element import FT, H2, Button, Details, Div, Form, Input, Label, Option, P, Select, Summary
from dashboard.page import Answer, not_found
from dashboard.security import Viewer, viewer_of

__all__ = ["feedback_form", "post_feedback", "post_snooze", "snooze_form"]

NOTE_LENGTH_MAX = 500
# Offered, by their key in the form.
SPANS = {
    "1h": ("1 hour", timedelta(hours=1)),
    "4h": ("4 hours", timedelta(hours=4)),
    "1d": ("1 day", timedelta(days=1)),
    "7d": ("7 days", timedelta(days=7)),
    "30d": ("30 days", timedelta(days=30)),
}
ID_MAX = 2**63 - 1


class Snoozable(Protocol):
    """A metric that may be snoozed, and until when it is."""

    @property
    def batch(self) -> str:
        """Its batch."""

    @property
    def metric(self) -> str:
        """Its name."""

    @property
    def snoozed_until(self) -> datetime | None:
        """The end; None or past: it is not."""


def feedback_form(
    alert: Alert,
    back: str,
    viewer: Viewer,
    *,
    keys: str | None = "data_decide",
    cls: str | None = None,
    title: str = "",
) -> FT:
    """Confirm and Dismiss of an alert, side by side and of the same weight; what was said of it before.

    Parameters
    ----------
    keys
        The attribute by which ``c`` and ``d`` find the buttons: ``data_decide`` of the page's one form, ``data_act`` of
        the row that is chosen; None: they mean others.
    """
    off = not viewer.may_decide
    why_off = no_permission(viewer) if off else None
    said = {"confirm": "Confirmed.", "dismiss": "Dismissed: those like it are told less."}.get(
        alert.feedback or ""
    )

    def button(verdict: str, state: str, word: str, sign: str) -> FT:
        return Button(
            icon(sign),
            word,
            cls="btn",
            name="verdict",
            value=verdict,
            disabled=off,
            title=why_off,
            aria_pressed="true" if alert.feedback == verdict else None,
            **({keys: state} if keys else {}),
        )

    return Form(
        *_hidden(back, viewer),
        H2(title) if title else None,
        Div(
            button("confirm", "confirmed", "Confirm", "check"),
            button("dismiss", "dismissed", "Dismiss", "x"),
            cls="pair pair-b",
        ),
        P(said, cls="muted small") if said else None,
        action=routes.alert_feedback(alert.alert_id),
        method="post",
        cls=cls,
    )


def snooze_form(row: Snoozable, back: str, viewer: Viewer, snooze: Snooze | None = None) -> FT:
    """Hear nothing of a metric for a while, with a reason; or hear of it again, whatever the snooze is of."""
    off = not viewer.may_decide
    hidden = [
        *_hidden(back, viewer),
        Input(type="hidden", name="batch", value=row.batch),
        Input(type="hidden", name="metric", value=row.metric),
    ]
    if row.snoozed_until is not None and row.snoozed_until > viewer.now:
        until = form.format_age(row.snoozed_until, viewer.now, viewer.zone)
        return Form(
            *hidden,
            P(
                f"Nobody is told of {'the whole batch' if snooze and snooze.metric is None else 'it'} until {until}"
                f"{f': “{snooze.reason}”' if snooze and snooze.reason else ''}.",
                cls="small",
            ),
            Button(
                "End the snooze",
                cls="btn",
                name="for",
                value="end",
                disabled=off,
                title="of this metric, and of its batch where that is snoozed",
            ),
            action=routes.ALERT_SNOOZE,
            method="post",
        )
    return Details(
        Summary("Snooze", cls="btn", data_snooze=True, title="Snooze (s)"),
        Form(
            *hidden,
            Label(
                "For ",
                Select(
                    *(Option(word, value=key) for key, (word, _) in SPANS.items()), name="for", cls="input"
                ),
            ),
            Label(
                "Why ", Input(name="reason", cls="input", maxlength=str(NOTE_LENGTH_MAX), autocomplete="off")
            ),
            Label(Input(type="checkbox", name="whole", value="1"), " the whole batch", cls="small"),
            Button("Tell nobody", cls="btn", disabled=off, title=no_permission(viewer) if off else None),
            action=routes.ALERT_SNOOZE,
            method="post",
            cls="snooze",
        ),
    )


def _hidden(back: str, viewer: Viewer) -> list[FT]:
    return [
        Input(type="hidden", name="csrf", value=viewer.csrf),
        Input(type="hidden", name="next", value=back),
    ]


async def post_feedback(request: Request) -> Answer:
    """POST /alerts/{alert_id}/feedback with verdict, and optionally note and next (a path of ours)."""
    viewer = viewer_of(request)
    sent = await request.form()
    if not viewer.may_decide:
        return PlainTextResponse(no_permission(viewer), 403)
    named = request.path_params["alert_id"]
    alert_id = int(named) if named.isascii() and named.isdigit() else 0
    owned = await asyncio.to_thread(request.app.state.batches.of, viewer.account_id)
    async with request.app.state.pool.connection() as connection:
        place = await fetch_async(connection, find_alert(list(owned), min(alert_id, ID_MAX)))
    if place is None:
        return await not_found(request, f"No alert with this id in {viewer.account_id}.")
    verdict, note = str(sent.get("verdict", "")), str(sent.get("note", "")).strip()

    def store() -> bool:
        with connect(request.app.state.dsn, program="anomalyze-dashboard") as connection:
            return add_feedback(connection, alert_id, verdict, viewer.principal.key_id, note or None)

    try:
        await asyncio.to_thread(store)
    except EventError as error:
        return PlainTextResponse(str(error), 422)
    return RedirectResponse(routes.own_path(sent.get("next"), routes.metric(place.batch, place.metric)), 303)


async def post_snooze(request: Request) -> Answer:
    """POST /alerts/snooze with batch, metric, for (a span, end, end-metric or end-batch), and optionally reason, whole, next."""
    viewer = viewer_of(request)
    sent = await request.form()
    if not viewer.may_decide:
        return PlainTextResponse(no_permission(viewer), 403)
    batch, metric, span = (str(sent.get(name, "")).replace("\x00", "") for name in ("batch", "metric", "for"))
    owned = await asyncio.to_thread(request.app.state.batches.of, viewer.account_id)
    if batch not in owned:
        return await not_found(request, f"No batch of this name in {viewer.account_id}.")
    # The end of whichever of them keeps it quiet, or of one.
    ends: dict[str, tuple[str | None, ...]] = {
        "end": (metric, None),
        "end-metric": (metric,),
        "end-batch": (None,),
    }
    if span not in (*SPANS, *ends):
        return PlainTextResponse(f"for: expected one of {', '.join((*SPANS, *ends))}.", 422)
    until = viewer.now + SPANS[span][1] if span in SPANS else None
    reason = str(sent.get("reason", "")).strip()

    def store() -> bool:
        with connect(request.app.state.dsn, program="anomalyze-dashboard") as connection:

            def set_of(name: str | None) -> bool:
                return set_snooze(
                    connection, batch, name, until, reason=reason or None, actor=viewer.principal.key_id
                )

            if until is not None:
                return set_of(None if sent.get("whole") else metric)
            return sum(set_of(name) for name in ends[span]) > 0

    try:
        found = await asyncio.to_thread(store)
    except (EventError, FilterError) as error:
        return PlainTextResponse(str(error), 422)
    if not found:
        return await not_found(request, f"No metric of this name in the batch {batch}.")
    return RedirectResponse(routes.own_path(sent.get("next"), routes.metric(batch, metric)), 303)
