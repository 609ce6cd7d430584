"""The daily look at inputs, scores, rules and the stream. It raises alarms and trains nothing: attacks are drift too."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg

from anomalyze_dagster.owners import OWNERS
from anomalyze_dagster.resources import ObjectsResource, PostgresResource
from anomalyze_dagster.retry import RETRY, retried
from anomalyze_dagster.sources import CHAMPION, TRANSACTIONS

__all__ = ["daily", "drift_report", "watch"]

WHAT = {
    "features_steady": "No published feature is distributed very differently.",
    "scores_steady": "The scores are distributed as before.",
    "nulls_steady": "No feature is missing much more often.",
    "rules_steady": "No rule fires three times as often, or as seldom.",
    "stream_alive": "Programs speak and keep up; accounts that send daily still do.",
}


class Day(dg.Config):
    """Which day, as YYYY-MM-DD in UTC; empty: yesterday."""

    day: str = ""

    def start(self) -> datetime:
        """Its first moment."""
        if self.day:
            return datetime.fromisoformat(self.day).replace(tzinfo=UTC)
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return today - timedelta(days=1)


@dg.asset(
    deps=[TRANSACTIONS, CHAMPION],
    group_name="monitoring",
    kinds={"postgres", "python"},
    owners=OWNERS,
    retry_policy=RETRY,
    freshness_policy=dg.FreshnessPolicy.time_window(
        fail_window=timedelta(hours=50), warn_window=timedelta(hours=26)
    ),
    check_specs=[
        dg.AssetCheckSpec(name, asset="drift_report", description=text) for name, text in WHAT.items()
    ],
    description="Published features, scores and hit rates of rules of one day against what the champion was trained "
    "on (or the 7 days before); lag of the stream and age of the newest transaction. A failed check is an alarm.",
)
def drift_report(
    context: dg.AssetExecutionContext, config: Day, postgres: PostgresResource, objects: ObjectsResource
) -> Iterator[dg.MaterializeResult]:  # type: ignore[type-arg]
    from anomalyze.learning.promotion import CHAMPION
    from anomalyze.learning.watch import load_stream_health, report_day
    from anomalyze.storage.alarms import raise_alarm
    from anomalyze_dagster.monitoring.show import find_alarms, show_day

    day = config.start()
    with retried(), postgres.connect() as connection:
        store = objects.bundles()
        champion = store.pointer(CHAMPION)
        reports = report_day(connection, day, None if champion is None else store.load(champion))
        health = load_stream_health(connection, datetime.now(UTC))
        found = find_alarms(day, reports, health, context.run_id)
        for alarms in found.values():
            for alarm in alarms:
                raise_alarm(connection, alarm)
    if not reports:
        context.log.info(f"No account has enough transactions on {day:%Y-%m-%d} and before to compare.")
    yield dg.MaterializeResult(
        metadata=show_day(day, reports, health),
        check_results=[
            dg.AssetCheckResult(
                check_name=name,
                passed=not found[name],
                severity=dg.AssetCheckSeverity.WARN,
                description=" ".join(alarm.summary for alarm in found[name][:5]) or "As before.",
                metadata={"alarms": len(found[name])},
            )
            for name in WHAT
        ],
    )


watch = dg.define_asset_job(
    "watch",
    selection=dg.AssetSelection.assets("drift_report", "detection_quality"),
    description="The daily look for drift, and at how good detection is.",
)

daily = dg.ScheduleDefinition(
    name="watch_daily",
    job=watch,
    cron_schedule="15 2 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Yesterday, at 02:15 UTC.",
)
