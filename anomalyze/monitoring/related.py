"""Stores what follows from changed values: metrics that are the ratio, difference or sum of two others.

Called before a turn of scoring takes the changes: killed in between, the next run does it again, and what is stored already
changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import polars as pl
import psycopg

from anomalyze.metrics.relation import Relation, relate
from anomalyze.storage.metrics_related import load_known, load_related
from anomalyze.storage.metrics_scores import BatchState
from anomalyze.storage.metrics_values import store_values

__all__ = ["store_related"]


def store_related(
    connection: psycopg.Connection[Any], batch: str, relations: Mapping[str, Relation], known: Collection[str],
    state: BatchState, now: datetime,
) -> int:  # fmt: skip
    """Bring related metrics to the changes that wait to be scored; how many values were new or are others now.

    Parameters
    ----------
    known
        Metrics that have been scored: a relation that is not among them is made of the whole history, and what is
        stored of it from elsewhere is known to be missing.
    """
    stored = 0
    for is_known in (True, False):
        some = {name: one for name, one in relations.items() if (name in known) == is_known}
        if not some:
            continue
        sources = sorted({name for one in some.values() for name in one.of})
        after = state.scored_ingest if is_known else 0
        rows = relate(load_related(connection, batch, sources, after, state.ingest), some)
        if not is_known:
            stored_before = load_known(connection, batch, sorted(some))
            left = stored_before.join(rows, on=["metric", "timestamp"], how="anti")
            rows = pl.concat([rows, left.with_columns(value=pl.lit(None, pl.Float64))])
        if len(rows):
            done = store_values(connection, batch, rows, now)
            stored += done.new + done.corrected
    return stored
