"""What is made of a batch's rows before they are stored: one value for each step, gaps filled, as each metric wants it.

Differences and smoothing come later, when values are judged: what is stored stays what was measured.
"""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import polars as pl

from anomalyze.metrics.batch import Batch
from anomalyze.metrics.preprocess import Aggregate, Fill, fill_gaps, resample
from anomalyze.metrics.window import Window

__all__ = ["prepare"]


def prepare(frame: pl.DataFrame, batch: Batch, window: Window) -> pl.DataFrame:
    """Rows as they are stored, in the order of metric and timestamp.

    Parameters
    ----------
    frame
        Of a ``Reading``.
    window
        What was read. A step that reaches out of it is left out, as its value would change.
    """
    zone = ZoneInfo(batch.timezone)
    within = (window.start, window.end)
    ways: dict[tuple[dt.timedelta | None, Aggregate, Fill], list[str]] = {}
    for name in frame["metric"].unique(maintain_order=True):
        wanted = batch.settings(name).preprocessing if batch.metrics else batch.preprocessing
        ways.setdefault((wanted.resample, wanted.aggregate, wanted.fill), []).append(name)
    parts: list[pl.DataFrame] = []
    for (step, aggregate, fill), names in ways.items():
        part = frame if len(ways) == 1 else frame.filter(pl.col("metric").is_in(names))
        if step is not None:
            part = resample(part, step, aggregate, zone, within)
        if fill != "none":
            part = fill_gaps(part, step or batch.step, zone, within, fill)
        parts.append(part.select("metric", "timestamp", "value"))
    return pl.concat(parts).sort("metric", "timestamp") if parts else frame
