"""Profiles: what labels say of merchants, refreshed every six hours."""

import dagster as dg

from anomalyze_dagster.profiles.assets import merchant_profiles

refresh_profiles = dg.define_asset_job(
    "refresh_profiles",
    selection=dg.AssetSelection.assets("merchant_profiles"),
    description="Compute what labels say of merchants and tell the log. Skips while nothing is settled.",
)

every_six_hours = dg.ScheduleDefinition(
    name="profiles_every_six_hours",
    job=refresh_profiles,
    cron_schedule="5 */6 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Five minutes past 0, 6, 12 and 18 o'clock UTC, the instants of profiles by default.",
)

definitions = dg.Definitions(assets=[merchant_profiles], jobs=[refresh_profiles], schedules=[every_six_hours])
