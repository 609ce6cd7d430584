"""When to train: every Monday before work, and by hand."""

import dagster as dg

__all__ = ["train", "weekly"]

train = dg.define_asset_job(
    "train",
    selection=dg.AssetSelection.assets("candidate_bundle", "published_challenger")
    | dg.AssetSelection.checks_for_assets("candidate_bundle"),
    description="Train a candidate, check it, publish it as challenger. Skips when too little is stored.",
)

weekly = dg.ScheduleDefinition(
    name="train_weekly",
    job=train,
    cron_schedule="0 3 * * 1",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="A candidate every Monday at 03:00 UTC.",
)
