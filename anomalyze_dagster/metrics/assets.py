"""An asset for each batch. The job `run_metric_batches` tells when one was made; a batch whose file is newer than this
process runs as well, and has its place in the graph when Dagster loads its definitions again."""

import re

import dagster as dg

from anomalyze.settings import Settings
from anomalyze_dagster.sources import TRANSACTIONS

__all__ = ["GROUP", "asset_key", "build_specs"]

GROUP = "metrics"
# What Dagster takes as a tag or an owner.
TAG_LENGTH_MAX = 63
NOBODY = "team:metrics"
# In the SQL of a batch over our own tables.
OURS = re.compile(r"\btransactions\b")
MAIL = re.compile(r"^[^@\s]+@[^@\s]+\.[^@\s]+$")


def asset_key(batch: str) -> dg.AssetKey:
    """The asset of a batch: apart from those of transactions, whatever it is called."""
    return dg.AssetKey([GROUP, batch])


def build_specs() -> list[dg.AssetSpec]:
    """Assets of all batches that are on and whose files have no mistake."""
    from anomalyze.metrics.library import load_batches

    specs = []
    for name, entry in load_batches(Settings().config_dir).batches.items():
        batch = entry.batch
        if not batch.enabled:
            continue
        kind = "python" if batch.python is not None or batch.source is None else batch.source.kind
        specs.append(
            dg.AssetSpec(
                asset_key(name),
                deps=[TRANSACTIONS] if kind == "anomalyze" and OURS.search(entry.statement or "") else [],
                group_name=GROUP,
                kinds={"postgres", *({"python"} if kind == "python" else {kind} - {"anomalyze"})},
                owners=[_owner(batch.owner)],
                tags={tag[:TAG_LENGTH_MAX]: "" for tag in batch.tags},
                description=batch.description or f"The batch {name}.",
                metadata={
                    "schedule": batch.schedule,
                    "timezone": batch.timezone,
                    "priority": batch.priority,
                    "file": str(entry.path),
                },
            )
        )
    return specs


def _owner(told: str) -> str:
    if MAIL.match(told):
        return told
    word = re.sub(r"[^a-z0-9]+", "-", told.lower()).strip("-")
    return f"team:{word}" if word else NOBODY
