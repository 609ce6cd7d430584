"""Publishing: a candidate that passed every check becomes the challenger; a challenger becomes the champion."""

import dagster as dg

from anomalyze_dagster.publishing.assets import published_challenger
from anomalyze_dagster.publishing.jobs import promote, reissue_champion, roll_back
from anomalyze_dagster.publishing.sensors import promote_automatically, reissue_proven

definitions = dg.Definitions(
    assets=[published_challenger],
    jobs=[promote, reissue_champion, roll_back],
    sensors=[promote_automatically, reissue_proven],
)
