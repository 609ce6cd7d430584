"""The values of some metrics at the times at which one of them changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
import psycopg

from anomalyze.storage.array import TextArray

__all__ = ["load_known", "load_related"]


def load_related(
    connection: psycopg.Connection[Any], batch: str, metrics: Sequence[str], after: int, upto: int
) -> pl.DataFrame:
    """``metric``, ``timestamp``, ``value`` of these metrics wherever one changed after one number and not after another.

    Parameters
    ----------
    after, upto
        Numbers of changes, as `BatchState` counts them; values are those of now.
    """
    rows = connection.execute(
        "SELECT v.metric, v.ts, v.value FROM metric_values v WHERE v.batch = %(batch)s "
        "AND v.metric = ANY(%(metrics)s) AND v.ts IN (SELECT c.ts FROM metric_values c WHERE c.batch = %(batch)s "
        "AND c.metric = ANY(%(metrics)s) AND c.ingest > %(after)s AND c.ingest <= %(upto)s)",
        {"batch": batch, "metrics": TextArray(list(metrics)), "after": after, "upto": upto},
    ).fetchall()
    return pl.DataFrame(
        rows,
        schema={"metric": pl.String, "timestamp": pl.Datetime("us", "UTC"), "value": pl.Float64},
        orient="row",
    )


def load_known(connection: psycopg.Connection[Any], batch: str, metrics: Sequence[str]) -> pl.DataFrame:
    """``metric`` and ``timestamp`` of all stored values of these metrics that are not missing."""
    rows = connection.execute(
        "SELECT metric, ts FROM metric_values WHERE batch = %s AND metric = ANY(%s) AND value IS NOT NULL",
        [batch, TextArray(list(metrics))],
    ).fetchall()
    return pl.DataFrame(
        rows, schema={"metric": pl.String, "timestamp": pl.Datetime("us", "UTC")}, orient="row"
    )
