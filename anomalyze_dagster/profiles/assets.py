"""What labels say of merchants."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg

from anomalyze.settings import Settings
from anomalyze_dagster.owners import OWNERS
from anomalyze_dagster.resources import BusResource, ObjectsResource, PostgresResource
from anomalyze_dagster.retry import RETRY, retried
from anomalyze_dagster.sources import LABELS, TRANSACTIONS

__all__ = ["merchant_profiles"]


class ProfileRun(dg.Config):
    """How to compute profiles; the defaults are what the schedule uses."""

    delay_days: float = 45.0


@dg.asset(
    deps=[TRANSACTIONS, LABELS],
    group_name="features",
    kinds={"python", "postgres", "parquet"},
    owners=OWNERS,
    output_required=False,
    retry_policy=RETRY,
    freshness_policy=dg.FreshnessPolicy.time_window(
        fail_window=timedelta(hours=26), warn_window=timedelta(hours=13)
    ),
    description="What became known of each merchant's payments, as of the last instant of the six-hourly grid: one "
    "immutable file in the object store, announced to every partition of the log. Payments that nobody complained of "
    "count as genuine after a delay.",
)
def merchant_profiles(
    context: dg.AssetExecutionContext,
    config: ProfileRun,
    postgres: PostgresResource,
    objects: ObjectsResource,
    bus: BusResource,
) -> Iterator[dg.MaterializeResult]:  # type: ignore[type-arg]
    from anomalyze.features.snapshot import ProfileStore
    from anomalyze.features.spec import FeatureSpec
    from anomalyze.learning.labels import own_delays
    from anomalyze.learning.profiles import publish_profiles, refresh_instant, stored_labels
    from anomalyze.learning.promotion import CHAMPION

    with retried():
        spec = FeatureSpec.load(Settings().config_dir / "features.yaml")
        as_of = refresh_instant(datetime.now(UTC), spec.profile_refresh_ms)
        store = objects.bundles()
        champion = store.pointer(CHAMPION)
        delays = {} if champion is None else own_delays(store.load(champion))
        with postgres.connect() as connection:
            labels = stored_labels(connection, as_of, timedelta(days=config.delay_days), delays)
        if labels.is_empty():
            context.log.info(
                f"Skipped: before {as_of:%Y-%m-%d %H:%M} UTC no payment to a merchant has a label or is older than "
                f"{config.delay_days:g} days."
            )
            return
        with bus.open() as log:
            snapshot = publish_profiles(labels, as_of, ProfileStore(objects.open()), log)
    yield dg.MaterializeResult(
        metadata={
            "as_of": dg.MetadataValue.timestamp(as_of),
            "profiles": snapshot.id,
            "merchants": len(snapshot.keys),
            "settled_payments": labels.height,
            "frauds": int(labels["fraud"].sum()),
            "bytes": len(snapshot.data),
        }
    )
