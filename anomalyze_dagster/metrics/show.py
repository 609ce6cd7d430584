"""The picture of a batch's strangest series."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np

from anomalyze.storage.metrics_strangest import Strangest
from anomalyze.storage.metrics_view import load_series_points
from anomalyze.storage.query import fetch
from anomalyze_dagster.plot import as_metadata, new_figure

if TYPE_CHECKING:
    import psycopg

__all__ = ["POINTS", "POINTS_MAX", "show_period", "show_series"]

POINTS = 336
# Of a period that somebody asks for: more cannot be told apart in a picture.
POINTS_MAX = 2_000


def show_period(
    connection: "psycopg.Connection[Any]",
    batch: str,
    metric: str,
    since: datetime,
    until: datetime,
    unit: str,
) -> dg.MarkdownMetadataValue:
    """A metric's values of a period."""
    rows = fetch(connection, load_series_points(batch, metric, since, until))
    return show_series(
        Strangest(
            metric,
            0.0,
            [row.ts for row in rows],
            [row.value for row in rows],
            [row.lower for row in rows],
            [row.upper for row in rows],
            [row.severity or 0 for row in rows],
        ),
        unit,
    )


def show_series(series: Strangest, unit: str) -> dg.MarkdownMetadataValue:
    """Values, the band that a value would have to leave, and what left it."""
    figure = new_figure()
    axes = figure.add_subplot()
    value, lower, upper = (
        np.array([np.nan if one is None else one for one in column])
        for column in (series.value, series.lower, series.upper)
    )
    ts = np.array([one.replace(tzinfo=None) for one in series.ts], "datetime64[ms]")
    axes.fill_between(ts, lower, upper, color="#1f6f8b", alpha=0.15, linewidth=0)
    axes.plot(ts, value, color="#1f6f8b", linewidth=1.2)
    strange = np.array(series.severity) > 0
    axes.plot(ts[strange], value[strange], "o", color="#b3261e", markersize=4)
    # Names come from a source: what begins with a dollar sign would be read as a formula.
    axes.set_title(series.metric[:80].replace("$", r"\$"), fontsize=10, loc="left")
    axes.set_ylabel(unit.replace("$", r"\$"))
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.2)
    inside = value[np.isfinite(value)]
    if len(inside):
        # A band that is still wide must not flatten the line.
        spread = max(float(np.ptp(inside)), 1e-9 + abs(float(inside[0])) * 0.01)
        axes.set_ylim(float(inside.min()) - 0.25 * spread, float(inside.max()) + 0.25 * spread)
    figure.autofmt_xdate()
    return as_metadata(figure, f"the newest {len(ts)} values of the batch's strangest metric")
