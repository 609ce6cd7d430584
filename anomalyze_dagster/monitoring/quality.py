"""How good the detection is, as far as labels say; and the two payments a day that make recall measurable."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from anomalyze_dagster.monitoring.drift import Day
from anomalyze_dagster.owners import OWNERS
from anomalyze_dagster.resources import ObjectsResource, PostgresResource
from anomalyze_dagster.retry import RETRY, retried
from anomalyze_dagster.sources import LABELS, TRANSACTIONS

__all__ = ["detection_quality"]

SINCE = timedelta(days=90)
ACCOUNTS_SHOWN_MAX = 20
# A night has more time than a page.
LABELS_MAX = 1_000_000


@dg.asset(
    deps=["champion", TRANSACTIONS, LABELS],
    group_name="monitoring",
    kinds={"postgres", "python"},
    owners=OWNERS,
    retry_policy=RETRY,
    description="Two payments of yesterday from below the line of each account into its queue, by lot; then precision by "
    "rule, severity and day of the last 90 days, and recall, of the accounts that labels came in for.",
)
def detection_quality(
    context: dg.AssetExecutionContext, config: Day, postgres: PostgresResource, objects: ObjectsResource
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    from anomalyze.learning.promotion import CHAMPION
    from anomalyze.learning.recall import estimate_recall
    from anomalyze.learning.sample import Dresser, draw_day
    from anomalyze.storage.period import load_period_end
    from anomalyze.storage.quality import load_outcomes, load_samples
    from anomalyze.storage.query import fetch
    from anomalyze_dagster.monitoring.show_quality import show_quality

    day = config.start()
    now = datetime.now(UTC)
    with retried(), postgres.connect() as connection:
        store = objects.bundles()
        champion = store.pointer(CHAMPION)
        drawn = [] if champion is None else draw_day(connection, day.date(), Dresser(store.load(champion)))
        accounts = connection.execute(
            "SELECT account_id FROM labels WHERE recorded_at >= %s UNION SELECT account_id FROM review_samples "
            "WHERE day >= %s ORDER BY 1 LIMIT %s",
            [now - SINCE, (now - SINCE).date(), ACCOUNTS_SHOWN_MAX],
        ).fetchall()
        found = {}
        for (account,) in accounts:
            since = fetch(connection, load_period_end(account, now)) - SINCE
            outcomes = fetch(connection, load_outcomes(account, since, LABELS_MAX))
            samples = fetch(connection, load_samples(account, since))
            found[account] = (outcomes, estimate_recall(outcomes.found, samples))
    for draw in drawn:
        context.log.info(f"{draw.account_id}: {draw.drawn} of {draw.population:,} payments below the line")
    return dg.MaterializeResult(metadata={"drawn": sum(one.drawn for one in drawn), **show_quality(found)})
