"""Training: a candidate each week, and what it must pass."""

import dagster as dg

from anomalyze_dagster.training.assets import candidate_bundle
from anomalyze_dagster.training.checks import candidate_checks
from anomalyze_dagster.training.schedules import train, weekly
from anomalyze_dagster.training.sensors import train_on_labels

definitions = dg.Definitions(
    assets=[candidate_bundle],
    asset_checks=[candidate_checks],
    jobs=[train],
    schedules=[weekly],
    sensors=[train_on_labels],
)
