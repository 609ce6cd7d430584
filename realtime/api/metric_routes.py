"""Metrics: what is watched, one series with its band, values that are sent. Names may have slashes and any sign."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from anomalyze.access.keys import Principal
from anomalyze.metrics.detectors.setting import PLAIN
from anomalyze.metrics.library import BatchEntry
from anomalyze.metrics.limits import METRIC_CHARACTERS_MAX
from anomalyze.metrics.rules import rules_of
from anomalyze.metrics.source_file import PushSource
from anomalyze.storage import metrics_view
from anomalyze.storage.metrics_scores import load_batch
from anomalyze.storage.metrics_values import store_values
from anomalyze.storage.metrics_view import METRICS_LIMIT_MAX, POINTS_MAX, RATE_WINDOW
from anomalyze.storage.pool import connect
from realtime.api.metric_schemas import VALUES_BODY
from realtime.api.metric_shapes import metric_shape, point_shape
from realtime.api.metric_values import Pushed, parse_values
from realtime.api.problems import Problem, problem_responses
from realtime.api.read_routes import MOMENT, Cursor, answer, aware, run
from realtime.api.schemas import json_answer
from realtime.api.security import require
from realtime.api.shapes import time_text
from realtime.api.state import State, state_of

__all__ = ["batch_of", "router"]

BAND_OF = "Whose `expected`, `lower` and `upper`: a detector by name, as incidents call it; the default detector's else."
router = APIRouter(tags=["metrics"])

Reader = Annotated[Principal, Depends(require("read", public=True))]
BatchName = Annotated[str, Path(min_length=1, max_length=64, description="its file's name, without .yaml")]
MetricName = Annotated[
    str, Path(min_length=1, max_length=METRIC_CHARACTERS_MAX, description="slashes as they are or as %2F")
]
FIRST = datetime(1970, 1, 1, tzinfo=UTC)
# Beyond what `store_values` takes.
AHEAD_MAX = timedelta(days=400)
JSON_TYPES = frozenset({"", "application/json", "application/x-www-form-urlencoded"})


@router.get("/v1/metrics", responses={200: json_answer("Metrics", "One page."), **problem_responses(404)})
async def list_metrics(
    request: Request,
    principal: Reader,
    batch: Annotated[str | None, Query(min_length=1, max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=METRICS_LIMIT_MAX)] = 100,
    cursor: Cursor = None,
) -> Response:
    """What is watched, in the order of batch and name: newest value and band, share of anomalies of 7 days, open alert."""
    owned = await asyncio.to_thread(state_of(request).batches.of, principal.account_id)
    if batch is not None:
        owned = {batch: await batch_of(request, principal, batch)}
    page = await run(request, metrics_view.list_metrics(list(owned), limit=limit, cursor=cursor))
    shapes = await asyncio.to_thread(_shapes, dict(owned), page.rows)
    return answer({"metrics": shapes, "cursor": page.cursor})


@router.get(
    "/v1/metrics/{batch}/{metric:path}",
    responses={200: json_answer("Series", "The metric and its points."), **problem_responses(404)},
)
async def get_metric(
    request: Request,
    principal: Reader,
    batch: BatchName,
    metric: MetricName,
    from_date: Annotated[datetime | None, Query(alias="from", description=MOMENT)] = None,
    to_date: Annotated[datetime | None, Query(alias="to", description=MOMENT)] = None,
    detector: Annotated[str | None, Query(max_length=100, description=BAND_OF)] = None,
) -> Response:
    """One metric with values, bands, scores and anomalies; of the last 7 days unless `from` and `to` say otherwise.

    A range of more than 20,000 points is refused with 422, which says how far they reach.
    """
    entry = await batch_of(request, principal, batch)
    now = datetime.now(UTC)
    # No value lies outside; times at the ends of the calendar have no UTC.
    until = max(FIRST, min(aware("to", to_date) or now, now + AHEAD_MAX))
    since = max(FIRST, min(aware("from", from_date) or _before(until, RATE_WINDOW), now + AHEAD_MAX))
    row = await run(request, metrics_view.load_metric(batch, metric))
    if row is None:
        raise Problem(404, f"no metric of this name in the batch {batch}", field="metric", got=metric)
    known = [one.kind for one in entry.batch.settings(metric).detectors if one.key not in PLAIN]
    if detector is not None and detector not in known:
        expected = f"a detector that this metric names ({', '.join(known) or 'it names none'})"
        raise Problem(
            422,
            f"detector: expected {expected}, got {detector!r}",
            field="detector",
            expected=expected,
            got=detector,
        )
    asked = metrics_view.load_series_points(batch, metric, since, until, POINTS_MAX, detector)
    points = await run(request, asked)
    if len(points) > POINTS_MAX:
        last = time_text(points[POINTS_MAX - 1].ts)
        raise Problem(
            422,
            f"from: expected a range of at most {POINTS_MAX:,} points, got more; the first {POINTS_MAX:,} end at "
            f"{last}: ask with to={last}, then from there on",
            field="from",
            expected=f"a range of at most {POINTS_MAX:,} points",
            got="more",
        )
    (shape,) = await asyncio.to_thread(_shapes, {batch: entry}, [row])
    return answer(
        {
            "metric": shape,
            "from": time_text(since),
            "to": time_text(until),
            "band_of": detector or "novelty",
            "points": [point_shape(point) for point in points],
        }
    )


@router.post(
    "/v1/metrics/{batch}",
    status_code=202,
    responses={
        202: json_answer("ValuesTaken", "Stored; scored with the batch's next run."),
        **problem_responses(404, 405, 409, 413, 415, 429),
    },
    openapi_extra=VALUES_BODY,
)
async def post_values(
    request: Request, principal: Annotated[Principal, Depends(require("ingest"))], batch: BatchName
) -> Response:
    """Take values of a batch: one, or an array of up to 20,000. Bad ones are named, the others taken.

    A value sent again changes nothing; another value for its time corrects it, `null` says that it is missing.
    """
    state = state_of(request)
    state.disk.check()
    entry = await batch_of(request, principal, batch)
    if not entry.batch.enabled:
        raise Problem(
            409,
            f"the batch {batch} has 'enabled: false': nothing would score its values; take that line out of its file",
            field="batch",
            got=batch,
        )
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in JSON_TYPES:
        raise Problem(
            415, "send application/json", field="Content-Type", expected="application/json", got=kind
        )
    now = datetime.now(UTC)
    pushed = await asyncio.to_thread(
        parse_values,
        await request.body(),
        _before(now, entry.batch.retention),
        now + timedelta(seconds=state.settings.future_tolerance_s),
    )
    if not pushed.metrics:
        first = pushed.rejected[0]
        problem = Problem(
            422,
            f"{first.field or 'body'}: expected {first.expected}, got {first.got}",
            field=first.field or "body",
            expected=first.expected,
            got=first.got,
        )
        problem.document["rejected"] = pushed.rejected
        raise problem
    state.rate.take(principal.key_id, len(pushed.metrics))
    return await asyncio.to_thread(_store, state, entry, pushed, now)


async def batch_of(request: Request, principal: Principal, name: str) -> BatchEntry:
    """A batch of the account; 404 that names what to write when there is none."""
    owned = await asyncio.to_thread(state_of(request).batches.of, principal.account_id)
    if name not in owned:
        raise Problem(
            404,
            f"no batch of this name in {principal.account_id}: one is a file of that name, such as "
            f"metrics_config/metrics/visits.yaml with 'account: {principal.account_id}' and 'source: {{kind: push}}'",
            field="batch",
            expected=", ".join(list(owned)[:3]) or "a batch that has a file",
            got=name,
        )
    return owned[name]


def _store(state: State, entry: BatchEntry, pushed: Pushed, now: datetime) -> Response:
    with connect(state.dsn, program="anomalyze-api") as connection:
        if load_batch(connection, entry.name) is None and not isinstance(entry.batch.source, PushSource):
            # Its first run reads a batch's history when nothing of it is stored.
            raise Problem(
                409,
                f"the batch {entry.name} reads a source and has not been read yet: send this again after its first run",
                field="batch",
                got=entry.name,
            )
        stored = store_values(connection, entry.name, pushed.frame(), now)
    taken = {
        "new": stored.new,
        "corrected": stored.corrected,
        "repeated": stored.repeated,
        "rejected": pushed.rejected,
    }
    return Response(msgspec.json.encode(taken), 202, media_type="application/json")


def _shapes(owned: dict[str, BatchEntry], rows: list[metrics_view.MetricRow]) -> list[dict[str, Any]]:
    """Rows with what their files say of them; compiled once a batch."""
    names: dict[str, list[str]] = {}
    for row in rows:
        names.setdefault(row.batch, []).append(row.metric)
    rules = {batch: rules_of(owned[batch].batch, metrics) for batch, metrics in names.items()}
    return [metric_shape(row, rules[row.batch].of(row.metric), owned[row.batch].batch) for row in rows]


def _before(moment: datetime, span: timedelta) -> datetime:
    """A moment earlier, not before 1970."""
    return FIRST if moment - FIRST < span else moment - span
