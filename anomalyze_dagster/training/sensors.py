"""Training when enough became known: not more than once a day, however much comes."""

import json
from datetime import UTC, datetime, timedelta

import dagster as dg

from anomalyze_dagster.resources import PostgresResource
from anomalyze_dagster.training.schedules import train

__all__ = ["LABELS_MIN", "train_on_labels"]

# New labels since the last candidate: as many as a supervised model needs frauds at all.
LABELS_MIN = 50
PAUSE = timedelta(days=1)

# The primary key finds them; no more are counted than matter.
_NEW = (
    "SELECT count(*) FROM (SELECT FROM labels WHERE label_id > %(after)s AND fraud IS NOT NULL "
    "ORDER BY label_id LIMIT %(most)s) n"
)


@dg.sensor(
    job=train,
    minimum_interval_seconds=600,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=f"Trains when {LABELS_MIN} labels are new since the last candidate, at most once a day. Its cursor is "
    "the last label that a run was asked for with.",
)
def train_on_labels(
    context: dg.SensorEvaluationContext, postgres: PostgresResource
) -> dg.RunRequest | dg.SkipReason:
    from anomalyze.storage.label import newest_label

    now = datetime.now(UTC)
    cursor = json.loads(context.cursor) if context.cursor else {}
    after = int(cursor.get("label_id", 0))
    event = context.instance.get_latest_materialization_event(dg.AssetKey("candidate_bundle"))
    materialization = None if event is None else event.asset_materialization
    if event is not None and materialization is not None:
        if now - datetime.fromtimestamp(event.timestamp, UTC) < PAUSE:
            return dg.SkipReason("the last candidate is less than a day old")
        seen = materialization.metadata.get("newest_label")
        after = max(after, int(str(seen.value))) if seen is not None else after
    if "asked_at" in cursor and now - datetime.fromisoformat(cursor["asked_at"]) < PAUSE:
        return dg.SkipReason("a run was asked for less than a day ago")
    with postgres.connect() as connection:
        row = connection.execute(_NEW, {"after": after, "most": LABELS_MIN}).fetchone()
        newest = newest_label(connection)
    count = 0 if row is None else int(row[0])
    if count < LABELS_MIN:
        return dg.SkipReason(f"{count} of {LABELS_MIN} new labels since the last candidate")
    context.update_cursor(json.dumps({"label_id": newest, "asked_at": now.isoformat()}))
    return dg.RunRequest(run_key=f"labels-{newest}", tags={"why": f"{LABELS_MIN} or more new labels"})
