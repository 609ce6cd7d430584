"""Metrics that follow from two others: their ratio, difference or sum at equal times. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, StringConstraints, model_validator

from anomalyze.config import StrictModel
from anomalyze.metrics.limits import METRIC_CHARACTERS_MAX

if TYPE_CHECKING:
    import polars as pl

__all__ = ["RELATIONS_MAX", "MetricName", "Relation", "relate"]

RELATIONS_MAX = 1_000
MetricName = Annotated[str, StringConstraints(min_length=1, max_length=METRIC_CHARACTERS_MAX)]
Pair = Annotated[
    tuple[MetricName, MetricName],
    Field(description="two metrics of the batch, the first over, less or plus the second"),
]


class Relation(StrictModel):
    """How a metric follows from two others; a division by zero gives no value."""

    ratio: Pair | None = None
    difference: Pair | None = None
    sum: Pair | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Relation:
        told = sorted(name for name in self.model_fields_set if getattr(self, name) is not None)
        if len(told) != 1:
            raise ValueError(f"expected one of ratio, difference and sum, got {' and '.join(told) or 'none'}")
        return self

    @property
    def of(self) -> tuple[str, str]:
        """The two metrics."""
        pair = self.ratio or self.difference or self.sum
        assert pair is not None
        return pair

    def _value(self, first: pl.Expr, second: pl.Expr) -> pl.Expr:

        if self.ratio:
            return first / second
        return first - second if self.difference else first + second


def relate(frame: pl.DataFrame, relations: Mapping[str, Relation]) -> pl.DataFrame:
    """The rows that follow from a frame's, at times that both metrics have.

    Parameters
    ----------
    frame
        ``metric``, ``timestamp`` and ``value``, one row a metric and time.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> import polars as pl
    >>> at = datetime(2025, 1, 1, tzinfo=UTC)
    >>> rows = pl.DataFrame({"metric": ["orders", "visits"], "timestamp": [at, at], "value": [3.0, 60.0]})
    >>> relate(rows, {"conversion": Relation(ratio=("orders", "visits"))})["value"].to_list()
    [0.05]
    """
    # Whoever only reads the batches' files, as three long-running programs do, is spared 30 MB.
    import polars as pl

    parts = [frame.clear().select("metric", "timestamp", "value")]
    for name, relation in relations.items():
        first, second = (
            frame.filter(pl.col("metric") == one).select("timestamp", "value") for one in relation.of
        )
        both = first.join(second, on="timestamp", suffix="_second")
        value: Any = relation._value(pl.col("value"), pl.col("value_second"))
        # Neither by zero nor beyond floating point.
        value = pl.when(value.is_finite()).then(value)
        parts.append(both.select(metric=pl.lit(name), timestamp=pl.col("timestamp"), value=value))
    return pl.concat(parts).sort("metric", "timestamp")
