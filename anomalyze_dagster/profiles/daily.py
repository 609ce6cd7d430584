"""Profiles of whole days: one partition a day."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg

from anomalyze.settings import Settings
from anomalyze_dagster.owners import OWNERS
from anomalyze_dagster.resources import BusResource, ObjectsResource, PostgresResource, RedisResource
from anomalyze_dagster.retry import RETRY, retried
from anomalyze_dagster.sources import LABELS, TRANSACTIONS

__all__ = ["DAYS", "every_night", "profile_day", "profiles_of_day"]

# Before this no installation has transactions; backfill from whichever day yours begin.
DAYS = dg.DailyPartitionsDefinition(start_date="2023-01-01", timezone="UTC")


@dg.asset(
    deps=[TRANSACTIONS, LABELS],
    group_name="features",
    kinds={"python", "postgres", "parquet", "redis"},
    owners=OWNERS,
    partitions_def=DAYS,
    output_required=False,
    retry_policy=RETRY,
    freshness_policy=dg.FreshnessPolicy.time_window(
        fail_window=timedelta(hours=50), warn_window=timedelta(hours=26)
    ),
    description="What every user, merchant, device, address and country did over 1 to 90 days, and the frauds known of "
    "them, as of the end of a day: an immutable version in the object store, its rows in PostgreSQL and in Redis, "
    "announced to every partition of the log. Transactions of the next day are judged by it.",
)
def profiles_of_day(
    context: dg.AssetExecutionContext,
    postgres: PostgresResource,
    objects: ObjectsResource,
    bus: BusResource,
    redis: RedisResource,
) -> Iterator[dg.MaterializeResult]:  # type: ignore[type-arg]
    from anomalyze.events.gazetteer import Gazetteer
    from anomalyze.features.daily_store import DailyStore
    from anomalyze.learning.daily import publish_day
    from anomalyze_dagster.profiles.show import show_day

    settings = Settings()
    as_of = datetime.fromisoformat(context.partition_key).replace(tzinfo=UTC) + timedelta(days=1)
    with retried(), postgres.connect() as connection, bus.open() as log, redis.open() as client:
        published = publish_day(
            connection,
            as_of,
            store=DailyStore(objects.open(), settings.data_dir / "profiles"),
            gazetteer=Gazetteer.load(settings.config_dir),
            bus=log,
            client=client,
            now=datetime.now(UTC),
            say=context.log.info,
        )
    if published is None:
        context.log.info(f"Skipped: no transaction is stored of the 90 days until {context.partition_key}.")
        return
    yield dg.MaterializeResult(metadata=show_day(published))


profile_day = dg.define_asset_job(
    "profile_day",
    selection=dg.AssetSelection.assets("profiles_of_day"),
    partitions_def=DAYS,
    description="Compute the profiles of a day and tell the log.",
)

every_night = dg.build_schedule_from_partitioned_job(
    profile_day,
    name="profiles_every_night",
    hour_of_day=0,
    minute_of_hour=10,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Yesterday's, ten minutes past midnight UTC.",
)
