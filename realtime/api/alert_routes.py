"""Alerts of metrics: one an incident; what people say of them, and for how long they want to hear nothing."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from starlette.responses import Response

from anomalyze.access.keys import Principal
from anomalyze.errors import EventError
from anomalyze.events.schema import parse_timestamp
from anomalyze.metrics.limits import METRIC_CHARACTERS_MAX
from anomalyze.metrics.picture import draw_picture
from anomalyze.metrics.picture_png import draw_png
from anomalyze.storage import metrics_view
from anomalyze.storage.metrics_alerts import add_feedback, set_snooze
from anomalyze.storage.metrics_notices import list_notices
from anomalyze.storage.metrics_picture import build_picture, find_pictured, load_pictured_points
from anomalyze.storage.metrics_view import AlertPlace
from anomalyze.storage.pool import connect
from anomalyze.storage.query import LIMIT_MAX
from realtime.api.json_body import decode_json, shown
from realtime.api.metric_routes import batch_of
from realtime.api.metric_schemas import FEEDBACK_BODY, SNOOZE_BODY
from realtime.api.metric_shapes import alert_shape, notice_shape
from realtime.api.problems import Problem, problem_responses
from realtime.api.read_routes import Cursor, answer, run
from realtime.api.schemas import json_answer
from realtime.api.security import require
from realtime.api.shapes import time_text
from realtime.api.state import state_of

__all__ = ["router"]

router = APIRouter(tags=["metrics"])

SNOOZE_MAX = timedelta(days=366)

Reader = Annotated[Principal, Depends(require("read", public=True))]
Admin = Annotated[Principal, Depends(require("admin"))]
AlertId = Annotated[int, Path(ge=1, le=2**63 - 1)]


@router.get("/v1/alerts", responses={200: json_answer("Alerts", "One page."), **problem_responses(404)})
async def list_alerts(
    request: Request,
    principal: Reader,
    state: Annotated[str | None, Query(pattern="^(open|resolved)$")] = None,
    batch: Annotated[str | None, Query(min_length=1, max_length=64)] = None,
    metric: Annotated[str | None, Query(min_length=1, max_length=METRIC_CHARACTERS_MAX)] = None,
    muted: Annotated[bool | None, Query(description="whether nobody was told of it")] = None,
    limit: Annotated[int, Query(ge=1, le=LIMIT_MAX)] = 100,
    cursor: Cursor = None,
) -> Response:
    """Alerts of metrics, those that were found last first: one an incident, however many points it has."""
    owned = await asyncio.to_thread(state_of(request).batches.of, principal.account_id)
    if batch is not None:
        await batch_of(request, principal, batch)
    page = await run(
        request,
        metrics_view.page_alerts(
            list(owned) if batch is None else [batch],
            metric=metric,
            state=state,
            muted=muted,
            limit=limit,
            cursor=cursor,
        ),
    )
    return answer({"alerts": [alert_shape(alert) for alert in page.rows], "cursor": page.cursor})


@router.get(
    "/v1/alerts/{alert_id}",
    responses={
        200: json_answer("AlertTold", "The alert, and what was said of it."),
        **problem_responses(404),
    },
)
async def get_alert(request: Request, principal: Reader, alert_id: AlertId) -> Response:
    """One alert, with what people were told of it: opened, grown, reminders, resolved; the newest 200, the oldest first."""
    owned = await asyncio.to_thread(state_of(request).batches.of, principal.account_id)
    alert = await run(request, metrics_view.load_alert(list(owned), alert_id))
    if alert is None:
        raise _no_alert(alert_id)
    told = await run(request, list_notices(alert_id))
    return answer({"alert": alert_shape(alert), "notices": [notice_shape(one) for one in told]})


@router.get(
    "/v1/alerts/{alert_id}/image",
    responses={
        200: {
            "description": "The values around it with band and marks. `ETag` changes when the picture may have.",
            "content": {
                "image/svg+xml": {"schema": {"type": "string"}},
                "image/png": {"schema": {"type": "string", "format": "binary"}},
            },
        },
        304: {"description": "As `If-None-Match` has it."},
        **problem_responses(404),
    },
    response_class=Response,
)
async def get_image(
    request: Request,
    principal: Reader,
    alert_id: AlertId,
    image_format: Annotated[
        Literal["svg", "png"], Query(alias="format", description="PNG is 1440 by 520")
    ] = "svg",
    if_none_match: Annotated[str | None, Header(max_length=200)] = None,
) -> Response:
    """The picture of an alert, 720 by 260, as SVG or as PNG of twice as many pixels."""
    owned = await asyncio.to_thread(state_of(request).batches.of, principal.account_id)
    alert = await run(request, find_pictured(list(owned), alert_id))
    if alert is None:
        raise _no_alert(alert_id)
    # What is another account's must not stay where others may ask for it.
    headers = {
        "ETag": f'"{alert.revision}{"-png" if image_format == "png" else ""}"',
        "Cache-Control": "private, no-cache",
    }
    if if_none_match is not None and headers["ETag"] in [tag.strip() for tag in if_none_match.split(",")]:
        return Response(status_code=304, headers=headers)
    points = await run(request, load_pictured_points(alert))

    def draw() -> str | bytes:
        unit = owned[alert.batch].batch.settings(alert.metric).unit
        drawn = draw_picture(build_picture(alert, points, unit))
        return draw_png(drawn) if image_format == "png" else drawn

    media_type = "image/png" if image_format == "png" else "image/svg+xml"
    return Response(await asyncio.to_thread(draw), media_type=media_type, headers=headers)


@router.post(
    "/v1/alerts/{alert_id}/feedback",
    responses={200: json_answer("FeedbackKept", "Kept."), **problem_responses(404, 413)},
    openapi_extra=FEEDBACK_BODY,
)
async def post_feedback(request: Request, principal: Admin, alert_id: AlertId) -> Response:
    """Say of an alert that it is one (`confirm`) or none (`dismiss`): those like a dismissed one are not told.

    The newest word counts; a confirmed one ends what was dismissed of its kind.
    """
    place = await _place(request, principal, alert_id)
    sent = _object(await request.body(), frozenset({"verdict"}), frozenset({"note"}))
    verdict, note = sent["verdict"], sent.get("note")
    if not isinstance(verdict, str):
        raise EventError("verdict", "confirm or dismiss", shown(verdict))
    if note is not None and not isinstance(note, str):
        raise EventError("note", "text", shown(note))

    def store() -> bool:
        with connect(state_of(request).dsn, program="anomalyze-api") as connection:
            return add_feedback(connection, alert_id, verdict, principal.key_id, note)

    if not await asyncio.to_thread(store):
        raise _no_alert(alert_id)
    return answer({"id": alert_id, "batch": place.batch, "metric": place.metric, "feedback": verdict})


@router.post(
    "/v1/alerts/{alert_id}/snooze",
    responses={200: json_answer("Snoozed", "Set."), **problem_responses(404, 413)},
    openapi_extra=SNOOZE_BODY,
)
async def post_snooze(request: Request, principal: Admin, alert_id: AlertId) -> Response:
    """Tell nobody of this alert's metric, or of its whole batch, until a moment; null ends that."""
    place = await _place(request, principal, alert_id)
    sent = _object(await request.body(), frozenset({"until"}), frozenset({"whole_batch", "reason"}))
    whole = sent.get("whole_batch", False)
    if not isinstance(whole, bool):
        raise EventError("whole_batch", "true or false", shown(whole))
    reason = sent.get("reason")
    if reason is not None and not isinstance(reason, str):
        raise EventError("reason", "text", shown(reason))
    until = _until(sent["until"], datetime.now(UTC))
    metric = None if whole else place.metric

    def store() -> bool:
        with connect(state_of(request).dsn, program="anomalyze-api") as connection:
            return set_snooze(connection, place.batch, metric, until, reason, principal.key_id)

    if not await asyncio.to_thread(store):
        raise _no_alert(alert_id)
    return answer(
        {"batch": place.batch, "metric": metric, "snoozed_until": None if until is None else time_text(until)}
    )


async def _place(request: Request, principal: Principal, alert_id: int) -> AlertPlace:
    owned = await asyncio.to_thread(state_of(request).batches.of, principal.account_id)
    place = await run(request, metrics_view.find_alert(list(owned), alert_id))
    if place is None:
        raise _no_alert(alert_id)
    return place


def _no_alert(alert_id: int) -> Problem:
    return Problem(404, "no alert with this id in this account", field="alert_id", got=str(alert_id))


def _until(sent: Any, now: datetime) -> datetime | None:
    if sent is None:
        return None
    expected = f"a time to come within {SNOOZE_MAX.days} days, RFC 3339 with offset, or null"
    if not isinstance(sent, str):
        raise EventError("until", expected, shown(sent))
    try:
        until_ms = parse_timestamp(sent)
    except EventError as error:
        raise EventError("until", expected, sent) from error
    if not now.timestamp() * 1000 < until_ms <= (now + SNOOZE_MAX).timestamp() * 1000:
        raise EventError("until", expected, sent)
    return datetime.fromtimestamp(until_ms / 1000, UTC)


def _object(body: bytes, needed: frozenset[str], allowed: frozenset[str]) -> dict[str, Any]:
    sent = decode_json(body, "a JSON object")
    if not isinstance(sent, dict):
        raise EventError("", "a JSON object", shown(sent))
    if missing := sorted(needed - sent.keys()):
        raise EventError(missing[0], "to be there", "nothing")
    if unknown := sorted(sent.keys() - needed - allowed):
        raise EventError(unknown[0][:60], f"one of {', '.join(sorted(needed | allowed))}", unknown[0][:60])
    return sent
