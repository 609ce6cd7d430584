"""The candidate: a bundle trained on what is stored."""

from collections.abc import Iterator

import dagster as dg

from anomalyze.settings import Settings
from anomalyze_dagster.owners import OWNERS
from anomalyze_dagster.resources import ObjectsResource, PostgresResource
from anomalyze_dagster.retry import RETRY, retried
from anomalyze_dagster.sources import LABELS, TRANSACTIONS

__all__ = ["candidate_bundle"]


class Training(dg.Config):
    """How to train; the defaults are what the schedule uses."""

    seed: int = 0
    rows_min: int = 10_000
    days_min: float = 7.0
    # A payment that nobody complained of counts as genuine after so long.
    delay_days: float = 45.0


@dg.asset(
    deps=[TRANSACTIONS, LABELS, "merchant_profiles"],
    group_name="training",
    kinds={"python", "onnx"},
    owners=OWNERS,
    output_required=False,
    retry_policy=RETRY,
    description="A bundle with a model trained on the stored transactions, replayed through the detector in the order "
    "of the log (no open case at HIGH or above, at most 50 rows a user and day): learned on the oldest 60 %, calibrated on the next 20 %, judged beside the champion on the newest "
    "20 %. With too little history the run says so and ends without one.",
)
def candidate_bundle(
    context: dg.AssetExecutionContext, config: Training, postgres: PostgresResource, objects: ObjectsResource
) -> Iterator[dg.MaterializeResult]:  # type: ignore[type-arg]
    from anomalyze.features.daily_store import DailyStore
    from anomalyze.learning.candidate import base_bundle, train_candidate
    from anomalyze.learning.daily import load_profiles_of
    from anomalyze.learning.history import TooLittle, choose_history
    from anomalyze.learning.labels import own_delays
    from anomalyze.learning.promotion import CHAMPION
    from anomalyze.learning.shelf import store_candidate
    from anomalyze.storage.label import newest_label
    from anomalyze_dagster.training.show import show_candidate

    with retried():
        with postgres.connect() as connection:
            newest = newest_label(connection)
            history = choose_history(connection, rows_min=config.rows_min, days_min=config.days_min)
        if isinstance(history, TooLittle):
            context.log.info(f"Skipped: {history.reason}.")
            return
        with postgres.connect() as connection:
            versions = DailyStore(objects.open(), Settings().data_dir / "profiles")
            days = load_profiles_of(
                connection, versions, history.train.bounds_ms[0], history.evaluate.bounds_ms[1]
            )
        store = objects.bundles()
        champion_id = store.pointer(CHAMPION)
        champion = None if champion_id is None else store.load(champion_id)
        base = base_bundle(Settings().config_dir, champion)
        bundle, evaluation = train_candidate(
            postgres.dsn,
            history,
            base,
            champion,
            delay_days=config.delay_days,
            account_delay_days=own_delays(base),
            days=days,
            seed=config.seed,
            say=context.log.info,
        )
        store_candidate(objects.open(), bundle, evaluation)
    yield dg.MaterializeResult(metadata={**show_candidate(bundle, evaluation), "newest_label": newest})
