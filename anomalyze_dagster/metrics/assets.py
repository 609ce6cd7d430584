"""An asset for each batch, in partitions of days. The job `run_metric_batches` tells when one was made; from its own page
the days that a person chooses are read again. A batch whose file is newer than this process runs as well.
"""

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from anomalyze.settings import Settings
from anomalyze_dagster.metrics.work import FIRST_DAY, WHOLE, load_entry, show_check, work_off_days
from anomalyze_dagster.resources import PostgresResource
from anomalyze_dagster.retry import RETRY, retried
from anomalyze_dagster.sources import TRANSACTIONS

if TYPE_CHECKING:
    from anomalyze.metrics.batch import Batch
    from anomalyze.metrics.library import BatchEntry

__all__ = ["GROUP", "asset_key", "build_assets", "describe_graph"]

GROUP = "metrics"
# What Dagster takes as a tag or an owner.
TAG_LENGTH_MAX = 63
NOBODY = "team:metrics"
# In the SQL of a batch over our own tables.
OURS = re.compile(r"\btransactions\b")
MAIL = re.compile(r"^[^@\s]+@[^@\s]+\.[^@\s]+$")
# A run may wait for others and take its time before its batch counts as late, and be missed once before it is stale.
LATE = timedelta(minutes=15)


def asset_key(batch: str) -> dg.AssetKey:
    """The asset of a batch: apart from those of transactions, whatever it is called."""
    return dg.AssetKey([GROUP, batch])


def build_assets() -> list[dg.AssetsDefinition]:
    """Assets of all batches that are on and whose files have no mistake."""
    return [_build(entry) for entry in _load()]


def describe_graph() -> str:
    """What the graph shows of the batches: another text, another graph."""
    return repr([(entry.name, sorted(_attributes(entry).items(), key=str)) for entry in _load()])


def _load() -> "list[BatchEntry]":
    from anomalyze.metrics.library import load_batches

    return [entry for entry in load_batches(Settings().config_dir).batches.values() if entry.batch.enabled]


def _build(entry: "BatchEntry") -> dg.AssetsDefinition:
    name = entry.name

    @dg.asset(  # type: ignore[untyped-decorator]
        key=asset_key(name),
        group_name=GROUP,
        # A run for the days that were chosen together, not one for each.
        backfill_policy=dg.BackfillPolicy.single_run(),
        retry_policy=RETRY,
        check_specs=[
            dg.AssetCheckSpec(
                WHOLE,
                asset=asset_key(name),
                description="Every metric of the newest run was read and stored; else the check names what was not.",
            )
        ],
        **_attributes(entry),
    )
    def days(context: dg.AssetExecutionContext, postgres: PostgresResource) -> dg.MaterializeResult:  # type: ignore[type-arg]
        since, until = context.partition_time_window
        with retried():
            done = work_off_days(load_entry(name), postgres, since, until, context.log.info)
        return dg.MaterializeResult(
            metadata=done.metadata, check_results=[dg.AssetCheckResult(**show_check(done.reason))]
        )

    made: dg.AssetsDefinition = days
    return made


def _attributes(entry: "BatchEntry") -> dict[str, Any]:
    batch = entry.batch
    kind = "python" if batch.python is not None or batch.source is None else batch.source.kind
    return {
        "deps": [TRANSACTIONS] if kind == "anomalyze" and OURS.search(entry.statement or "") else [],
        "kinds": {"postgres", *({"python"} if kind == "python" else {kind} - {"anomalyze"})},
        "owners": [_owner(batch.owner)],
        "tags": {tag[:TAG_LENGTH_MAX]: "" for tag in batch.tags},
        "description": batch.description or f"The batch {entry.name}.",
        "metadata": {
            "schedule": batch.schedule,
            "timezone": batch.timezone,
            "priority": batch.priority,
            "file": str(entry.path),
        },
        "partitions_def": dg.DailyPartitionsDefinition(
            FIRST_DAY,
            timezone=batch.timezone,
            end_offset=1,  # the day that goes on
        ),
        "freshness_policy": _freshness(batch),
    }


def _freshness(batch: "Batch") -> dg.FreshnessPolicy:
    """As long as the schedule leaves between two runs, and what the source is allowed."""
    from anomalyze.monitoring.due import longest_gap

    gap = longest_gap(batch)
    late = gap + LATE + (batch.delay or timedelta(0))
    return dg.FreshnessPolicy.time_window(warn_window=late, fail_window=late + gap)


def _owner(told: str) -> str:
    if MAIL.match(told):
        return told
    word = re.sub(r"[^a-z0-9]+", "-", told.lower()).strip("-")
    return f"team:{word}" if word else NOBODY
