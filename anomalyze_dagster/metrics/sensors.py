"""Starts runs of the batches that are due. It reads their folder, so that a new or changed file runs without a restart."""

import json
from dataclasses import astuple
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import dagster as dg

from anomalyze_dagster.metrics.jobs import run_metric_batches
from anomalyze_dagster.resources import PostgresResource

if TYPE_CHECKING:
    from pathlib import Path

    from anomalyze.config import Problem
    from anomalyze.monitoring.due import Watch

__all__ = ["metric_batches"]

INTERVAL_S = 15
# Most batches are due at the same minute of the hour, and each process holds 200 MB.
RUNS_MAX = 2
BATCHES_A_RUN = 20
PROBLEMS_TOLD = 20
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@lru_cache(maxsize=1)
def _watch(config_dir: "Path") -> "Watch":
    """It lasts as long as this process: the last good form of a file that is broken now is in it."""
    from anomalyze.monitoring.due import Watch

    return Watch(config_dir)


@dg.sensor(
    job=run_metric_batches,
    name="metric_batches",
    minimum_interval_seconds=INTERVAL_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Runs the batches of metrics (metrics_config/metrics) that are due by their schedules, and new and "
    "changed ones at once.",
)
def metric_batches(
    context: dg.SensorEvaluationContext, postgres: PostgresResource
) -> dg.SensorResult | dg.SkipReason:
    from anomalyze.metrics.library import FOLDER
    from anomalyze.monitoring.due import Asked, describe_entry
    from anomalyze.settings import Settings

    config_dir = Settings().config_dir
    if not (config_dir / FOLDER).is_dir():
        return dg.SkipReason("no batch is configured")
    watch = _watch(config_dir)
    _tell(postgres, watch.refresh())
    asked = {name: Asked(*told) for name, told in json.loads(context.cursor or "{}").items()}
    asked = {name: told for name, told in asked.items() if name in watch.names}
    due = watch.find_due(asked, datetime.now(UTC))
    if not due:
        return dg.SkipReason("no batch is due")
    running = context.instance.get_runs(dg.RunsFilter(job_name=run_metric_batches.name, statuses=UNFINISHED))
    at_work: set[str] = set()
    for run in running:
        of_run: Any = run.run_config
        at_work.update(of_run["ops"]["run_batches"]["config"]["batches"])
    free = [name for name in due if name not in at_work]
    stale = watch.stale
    requests = []
    for place in range(max(0, RUNS_MAX - len(running))):
        names = free[place * BATCHES_A_RUN : (place + 1) * BATCHES_A_RUN]
        if not names:
            break
        config = {"batches": names, "kept": {n: describe_entry(stale[n]) for n in names if n in stale}}
        requests.append(dg.RunRequest(run_config={"ops": {"run_batches": {"config": config}}}))
        asked |= {name: due[name] for name in names}
    if not requests:
        return dg.SkipReason(f"{len(due)} batches wait for {len(running)} runs")
    return dg.SensorResult(
        run_requests=requests, cursor=json.dumps({name: astuple(told) for name, told in asked.items()})
    )


def _tell(postgres: PostgresResource, problems: "tuple[Problem, ...]") -> None:
    """An alarm for each mistake, once a day."""
    if not problems:
        return
    import hashlib

    from anomalyze.storage.alarms import Alarm, raise_alarm

    today = datetime.now(UTC).date()
    with postgres.connect() as connection:
        for problem in problems[:PROBLEMS_TOLD]:
            digest = hashlib.sha256(str(problem).encode()).hexdigest()[:16]
            raise_alarm(connection, Alarm("metrics", f"metrics:{digest}:{today}", str(problem)))
