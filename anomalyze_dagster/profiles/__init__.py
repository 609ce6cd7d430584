"""Profiles: what labels say of merchants, every six hours, and what was known of everybody at the end of each day."""

import dagster as dg

from anomalyze_dagster.profiles.assets import merchant_profiles
from anomalyze_dagster.profiles.daily import every_night, profile_day, profiles_of_day

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

definitions = dg.Definitions(
    assets=[merchant_profiles, profiles_of_day],
    jobs=[refresh_profiles, profile_day],
    schedules=[every_six_hours, every_night],
)
