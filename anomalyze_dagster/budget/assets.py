"""Thresholds at which each account is shown as many cases a day as was promised."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from anomalyze.settings import Settings
from anomalyze_dagster.owners import OWNERS
from anomalyze_dagster.resources import BusResource, ObjectsResource, PostgresResource
from anomalyze_dagster.retry import RETRY, retried
from anomalyze_dagster.sources import CHAMPION, TRANSACTIONS

if TYPE_CHECKING:
    from anomalyze.learning.refit import Refit

__all__ = ["alert_budget"]


@dg.asset(
    deps=[TRANSACTIONS, CHAMPION],
    group_name="publishing",
    kinds={"python", "postgres", "objectstore"},
    owners=OWNERS,
    output_required=False,
    retry_policy=RETRY,
    description="The champion with thresholds of risk that keep the budget of `policy.yaml`, fitted on the rows of the "
    "last 28 days, judged again by it. Model and rules are the same. Promoted at once where a threshold moved by more "
    "than a twentieth of the budget. Without a budget, or with less than 7 whole days, the run says so.",
)
def alert_budget(
    context: dg.AssetExecutionContext, postgres: PostgresResource, objects: ObjectsResource, bus: BusResource
) -> Iterator[dg.MaterializeResult]:  # type: ignore[type-arg]
    from anomalyze.features.daily_store import DailyStore
    from anomalyze.features.snapshot import ProfileStore
    from anomalyze.learning.refit import refit_budget

    with retried(), postgres.connect() as connection, bus.open() as log:
        found = refit_budget(
            connection,
            postgres.dsn,
            objects.bundles(),
            ProfileStore(objects.open()),
            DailyStore(objects.open(), Settings().data_dir / "profiles"),
            log,
            datetime.now(UTC),
            say=context.log.info,
        )
    if found is not None:
        yield dg.MaterializeResult(
            metadata={
                "bundle": found.bundle,
                "champion_before": found.champion,
                "promoted": found.bundle != found.champion,
                "accounts": dg.MetadataValue.md(table(found)),
            }
        )


def table(found: "Refit") -> str:
    """Each account's threshold, in Markdown."""
    lines = ["| account | days | cases a day | threshold | |", "|-|-|-|-|-|"]
    for one in found.accounts:
        expected = "–" if one.fit is None else f"{one.fit.expected:.1f}"
        threshold = "–" if one.threshold is None else f"{one.threshold:.4f}"
        lines.append(f"| {one.account} | {one.days} | {expected} | {threshold} | {one.says} |")
    return "\n".join(lines)
