"""Questions about metrics."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from anomalyze.events.batch import Severity
from anomalyze.metrics.limits import METRIC_CHARACTERS_MAX
from anomalyze.metrics.rules import rules_of
from anomalyze.storage import metrics_view
from anomalyze.storage.cursor import CURSOR_LENGTH_MAX
from anomalyze.storage.metrics_alerts import Alert
from anomalyze.storage.metrics_also import what_else
from anomalyze.storage.metrics_notices import list_notices
from anomalyze.storage.metrics_ranking import MetricRank, Order, rank_batches, rank_metrics, recent_runs
from anomalyze.storage.metrics_runs import Run
from anomalyze.storage.metrics_view import POINTS_MAX, RATE_WINDOW
from realtime.api.assistant.desk import Desk, Sitting, clip, period
from realtime.api.assistant.thin import plain_point, thin_points
from realtime.api.metric_shapes import alert_shape, anomaly_rate, metric_shape, notice_shape, rank_shape
from realtime.api.shapes import time_text

__all__ = ["MetricTools"]

ROWS_MAX = 100
POINTS_SHOWN_MAX = 1_000
ANOMALIES_SHOWN = 50
FAILURES_SHOWN = 10
# Of what else was strange.
ELSE_SHOWN = 10
# Of what people were told of one alert, the newest.
TOLD_SHOWN = 20

SinceTime = Annotated[
    datetime | None, Field(description="RFC 3339, such as 2026-11-20T00:00:00Z; without an offset: UTC")
]
Batch = Annotated[
    str, Field(min_length=1, max_length=64, description="a batch's name, as list_batches gives it")
]
BatchOrAll = Annotated[
    str | None,
    Field(min_length=1, max_length=64, description="only this batch; all of the account when left out"),
]
Metric = Annotated[str, Field(min_length=1, max_length=METRIC_CHARACTERS_MAX)]
Rows = Annotated[int, Field(ge=1, le=ROWS_MAX)]
Cursor = Annotated[
    str | None,
    Field(
        max_length=CURSOR_LENGTH_MAX,
        description="from the answer before, with the same filters: the next page",
    ),
]
SeverityName = Literal["LOW", "MEDIUM", "HIGH", "CRITICAL"]


class MetricTools:
    """Each public method is a tool; its docstring is what the assistant reads."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def list_batches(
        self, since: SinceTime = None, until: SinceTime = None, limit: Rows = 50
    ) -> dict[str, Any]:
        """Batches of metrics by the share of their points that were strange in a period (the last 7 days unless said
        otherwise), with the number of open alerts, when data last came, and how the newest run ended."""
        start, end = period(since, until, RATE_WINDOW)
        with self._desk.sit() as sitting:
            ranked = sitting.run(rank_batches(sitting.chosen(None), start, end, limit=limit))
            shapes = [
                {
                    "batch": row.batch,
                    "description": clip(sitting.batches[row.batch].batch.description),
                    "owner": sitting.batches[row.batch].batch.owner,
                    "tags": list(sitting.batches[row.batch].batch.tags),
                    "enabled": sitting.batches[row.batch].batch.enabled,
                    "schedule": sitting.batches[row.batch].batch.schedule,
                    "timezone": sitting.batches[row.batch].batch.timezone,
                    "metrics": row.metrics,
                    "points": row.points,
                    "anomalies": row.anomalies,
                    "anomaly_rate": anomaly_rate(row.anomalies, row.points),
                    "open_alerts": row.alerts,
                    "newest": None if row.newest_ts is None else time_text(row.newest_ts),
                    "last_run": None
                    if row.run_at is None
                    else {
                        "at": time_text(row.run_at),
                        "error": clip(row.run_error),
                        "failed_metrics": row.run_failures,
                    },
                }
                for row in ranked
            ]
            left_out = len(sitting.batches) - len(ranked)
        return _told({"from": time_text(start), "to": time_text(end), "batches": shapes}, left_out, "batches")

    def list_metrics(
        self,
        batch: BatchOrAll = None,
        text: Annotated[
            str | None,
            Field(
                min_length=1,
                max_length=METRIC_CHARACTERS_MAX,
                description="only metrics with this in their names",
            ),
        ] = None,
        since: SinceTime = None,
        until: SinceTime = None,
        limit: Rows = 20,
    ) -> dict[str, Any]:
        """Metrics by the share of their points that were strange in a period (the last 7 days unless said otherwise),
        each with its strangest point there, the band it left, and the number of alerts open now."""
        return self._rank("anomaly_rate", batch, text, period(since, until, RATE_WINDOW), limit)

    def strangest(
        self, since: SinceTime = None, until: SinceTime = None, batch: BatchOrAll = None, limit: Rows = 10
    ) -> dict[str, Any]:
        """The metrics whose strangest point of a period (the last 24 hours unless said otherwise) is the strangest:
        severity first, then novelty (0 to 1, 1: nothing like it was ever seen). Empty: nothing was strange."""
        return self._rank("strangest", batch, None, period(since, until, timedelta(days=1)), limit)

    def metric_series(
        self,
        batch: Batch,
        metric: Metric,
        since: SinceTime = None,
        until: SinceTime = None,
        points: Annotated[
            int, Field(ge=10, le=POINTS_SHOWN_MAX, description="at most so many come back")
        ] = 200,
    ) -> dict[str, Any]:
        """One metric's values with the band that a value would have to leave, and its strange points, in a period (the
        last 7 days unless said otherwise). A long period is thinned, which the note says: neighbours become one row
        with mean, min and max; strange points are listed in full beside them."""
        start, end = period(since, until, RATE_WINDOW)
        with self._desk.sit() as sitting:
            sitting.chosen(batch)
            row = sitting.run(metrics_view.load_metric(batch, metric))
            if row is None:
                raise ToolError(
                    f"metric: expected a metric of {batch}, as list_metrics gives it, got {metric!r}"
                )
            found = sitting.run(metrics_view.load_series_points(batch, metric, start, end, POINTS_MAX))
            own = sitting.batches[batch].batch
            head = metric_shape(row, rules_of(own, [metric]).of(metric), own)
        notes = []
        if len(found) > POINTS_MAX:
            found = found[:POINTS_MAX]
            notes.append(
                f"The period has more than {POINTS_MAX:,} points: only the first {POINTS_MAX:,} are here, which end at "
                f"{time_text(found[-1].ts)}. Ask for what follows with since set to that."
            )
        shown = thin_points(found, points)
        if len(shown) < len(found):
            notes.append(
                f"Thinned: {len(found):,} points in {len(shown):,} rows, each of {-(-len(found) // points)} neighbours."
            )
        strange = [point for point in found if point.severity]
        if len(strange) > ANOMALIES_SHOWN:
            notes.append(f"{len(strange):,} points were strange; the newest {ANOMALIES_SHOWN} are listed.")
        return {
            "metric": head,
            "from": time_text(start),
            "to": time_text(end),
            "points": shown,
            "anomalies": [plain_point(point) for point in strange[-ANOMALIES_SHOWN:]],
            "note": " ".join(notes) or None,
        }

    def list_alerts(
        self,
        state: Annotated[Literal["open", "resolved"] | None, Field(description="both when left out")] = None,
        batch: BatchOrAll = None,
        metric: Annotated[str | None, Field(min_length=1, max_length=METRIC_CHARACTERS_MAX)] = None,
        severity_min: SeverityName | None = None,
        since: SinceTime = None,
        until: SinceTime = None,
        muted: Annotated[bool | None, Field(description="whether nobody was told of it")] = None,
        limit: Rows = 20,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        """Alerts of metrics, those found last first: one an incident, with a sentence that says what happened. With
        since or until only incidents that lasted into that period."""
        start, end = period(since, until, timedelta.max)
        with self._desk.sit() as sitting:
            page = sitting.run(
                metrics_view.page_alerts(
                    sitting.chosen(batch),
                    metric=metric,
                    state=state,
                    muted=muted,
                    severity_min=None if severity_min is None else int(Severity[severity_min]),
                    # An end that moves with the clock would make the cursor another list's.
                    since=start if since else None,
                    until=end if until else None,
                    limit=limit,
                    cursor=cursor,
                )
            )
        return {"alerts": [_alert(alert) for alert in page.rows], "cursor": page.cursor}

    def get_alert(self, alert_id: Annotated[int, Field(ge=1, le=2**63 - 1)]) -> dict[str, Any]:
        """One alert: its sentence, its peak, what was told of it and what people said, and what else of its batch was
        strange in the same hours."""
        with self._desk.sit() as sitting:
            alert = sitting.run(metrics_view.load_alert(sitting.chosen(None), alert_id))
            if alert is None:
                raise ToolError(f"alert_id: expected an alert of this account, got {alert_id}")
            also = sitting.run(
                what_else(alert.batch, alert.metric, alert.opened_ts, alert.last_ts, names=ELSE_SHOWN)
            )
            told = sitting.run(list_notices(alert_id))
        return {
            "alert": _alert(alert),
            "told": [notice_shape(one) | {"said": clip(one.sentence)} for one in told[-TOLD_SHOWN:]],
            "also_strange": {
                "metrics": also.count,
                "strongest": [
                    {
                        "metric": one.metric,
                        "alert_id": one.alert_id,
                        "kind": one.kind,
                        "severity": Severity(one.severity).name,
                        "first": time_text(one.opened_ts),
                        "last": time_text(one.last_ts),
                    }
                    for one in also.strongest
                ],
            },
        }

    def list_runs(
        self,
        batch: BatchOrAll = None,
        failed_only: Annotated[bool, Field(description="only runs that failed, whole or in part")] = False,
        limit: Rows = 20,
    ) -> dict[str, Any]:
        """Runs of batches, the newest first: rows read, stored, scored, the metrics that failed with the reason, and the
        error that ended a run."""
        with self._desk.sit() as sitting:
            found = sitting.run(recent_runs(sitting.chosen(batch), failed=failed_only, limit=limit))
        return {"runs": [_run(run) for run in found]}

    def _rank(
        self,
        order: Order,
        batch: str | None,
        text: str | None,
        between: tuple[datetime, datetime],
        limit: int,
    ) -> dict[str, Any]:
        with self._desk.sit() as sitting:
            query = rank_metrics(sitting.chosen(batch), *between, order=order, text=text, limit=limit + 1)
            ranked = sitting.run(query)
            shapes = _metrics(sitting, ranked[:limit])
        start, end = between
        told = {"from": time_text(start), "to": time_text(end), "metrics": shapes}
        return told | {
            "note": f"There are more than {limit}; these come first." if len(ranked) > limit else None
        }


def _metrics(sitting: Sitting, ranked: list[MetricRank]) -> list[dict[str, Any]]:
    names: dict[str, list[str]] = {}
    for row in ranked:
        names.setdefault(row.batch, []).append(row.metric)
    rules = {batch: rules_of(sitting.batches[batch].batch, metrics) for batch, metrics in names.items()}
    return [rank_shape(row, rules[row.batch].of(row.metric)) for row in ranked]


def _alert(alert: Alert) -> dict[str, Any]:
    shape = alert_shape(alert)
    return shape | {"sentence": clip(alert.sentence), "resolution": clip(alert.resolution)}


def _run(run: Run) -> dict[str, Any]:
    return {
        "batch": run.batch,
        "kind": run.kind,
        "started": time_text(run.started_at),
        "finished": None if run.finished_at is None else time_text(run.finished_at),
        "rows_read": run.rows_read,
        "rows_new": run.rows_new,
        "rows_corrected": run.rows_corrected,
        "scored": run.scored,
        "series_taken_again": run.rebuilt,
        "incidents": run.alerts,
        "failed_metrics": len(run.failures),
        "failures": [
            {name: clip(text) for name, text in one.items()} for one in run.failures[:FAILURES_SHOWN]
        ],
        "error": clip(run.error),
    }


def _told(document: dict[str, Any], left_out: int, what: str) -> dict[str, Any]:
    return document | {"note": f"{left_out} more {what} are left out." if left_out > 0 else None}
