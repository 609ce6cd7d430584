"""What lies before and behind Dagster's own assets, so that the graph shows where everything comes from and goes to."""

import dagster as dg

from anomalyze_dagster.owners import OWNERS

__all__ = ["CHAMPION", "LABELS", "TRANSACTIONS", "UPLOADED_FILES", "definitions"]

UPLOADED_FILES = dg.AssetSpec(
    "uploaded_files",
    group_name="stored",
    kinds={"csv", "objectstore"},
    owners=OWNERS,
    description="Files of transactions, sent over REST, dropped in the dashboard or put into the landing folder. The "
    "job `work_off_upload` puts their rows onto the log.",
)
TRANSACTIONS = dg.AssetSpec(
    "transactions",
    deps=[UPLOADED_FILES],
    group_name="stored",
    kinds={"kafka", "postgres"},
    owners=OWNERS,
    description="Every judged transaction with its features and verdict: what came by REST, files and Kafka went "
    "through the detector onto `scored`, and the sink stored it.",
)
LABELS = dg.AssetSpec(
    "labels",
    group_name="stored",
    kinds={"postgres"},
    owners=OWNERS,
    description="What became known of transactions: chargebacks and decisions of analysts, with when and from where.",
)
CHAMPION = dg.AssetSpec(
    "champion",
    deps=["published_challenger"],
    group_name="publishing",
    kinds={"objectstore", "kafka"},
    owners=OWNERS,
    description="The bundle that judges. The jobs `promote` and `roll_back` move the pointer and tell the log; the "
    "detector swaps where it meets the record.",
)

definitions = dg.Definitions(assets=[UPLOADED_FILES, TRANSACTIONS, LABELS, CHAMPION])
