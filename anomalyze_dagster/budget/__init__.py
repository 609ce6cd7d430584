"""The alert budget: thresholds refitted each night."""

import dagster as dg

from anomalyze_dagster.budget.assets import alert_budget

refit_budget = dg.define_asset_job(
    "refit_budget",
    selection=dg.AssetSelection.assets("alert_budget"),
    description="Fit the thresholds of the alert budget; skips without one.",
)

nightly = dg.ScheduleDefinition(
    name="refit_budget_nightly",
    job=refit_budget,
    cron_schedule="45 0 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="At 00:45 UTC, over the 28 days before.",
)

definitions = dg.Definitions(assets=[alert_budget], jobs=[refit_budget], schedules=[nightly])
