"""Values of metrics that clients send: parsed one by one, good ones beside bad ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from anomalyze.errors import EventError
from anomalyze.events.ingest import Rejected
from anomalyze.events.schema import parse_timestamp
from anomalyze.metrics.limits import METRIC_CHARACTERS_MAX
from realtime.api.json_body import decode_json, shown

if TYPE_CHECKING:
    import polars as pl

__all__ = ["VALUES_MAX", "Pushed", "parse_values"]

# A point of each metric of the largest batch.
VALUES_MAX = 20_000
FIELDS = frozenset({"metric", "timestamp", "value"})
_NAME = f"1 to {METRIC_CHARACTERS_MAX} characters on one line"


@dataclass(slots=True)
class Pushed:
    """Values of a request as parallel columns, and what was refused of it."""

    metrics: list[str] = field(default_factory=list)
    ts_ms: list[int] = field(default_factory=list)
    values: list[float | None] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    def frame(self) -> pl.DataFrame:
        """As ``store_values`` takes them."""
        import polars as pl

        return pl.DataFrame(
            {
                "metric": pl.Series(self.metrics, dtype=pl.String),
                "timestamp": pl.Series(self.ts_ms, dtype=pl.Int64).cast(pl.Datetime("ms", "UTC")),
                "value": pl.Series(self.values, dtype=pl.Float64),
            }
        )


def parse_values(body: bytes, since: datetime, until: datetime) -> Pushed:
    """The values of a body: one object or an array of them.

    Parameters
    ----------
    since, until
        Times that are taken, both included.

    Raises
    ------
    EventError
        The body as a whole is no list of values, or one of more than ``VALUES_MAX``.
    """
    sent = decode_json(body, "one value or an array of values, as JSON")
    items = sent if isinstance(sent, list) else [sent]
    if not 1 <= len(items) <= VALUES_MAX:
        raise EventError("", f"1 to {VALUES_MAX} values in a request", str(len(items)))
    pushed = Pushed()
    within = (int(since.timestamp() * 1000), int(until.timestamp() * 1000))
    for index, item in enumerate(items):
        try:
            metric, ts_ms, value = _value(item, within)
        except EventError as error:
            pushed.rejected.append(Rejected(index, error.field, error.expected, error.got))
            continue
        pushed.metrics.append(metric)
        pushed.ts_ms.append(ts_ms)
        pushed.values.append(value)
    return pushed


def _value(item: Any, within: tuple[int, int]) -> tuple[str, int, float | None]:
    if not isinstance(item, dict):
        raise EventError("", "an object with metric, timestamp and value", shown(item))
    if item.keys() != FIELDS:
        if unknown := sorted(item.keys() - FIELDS):
            raise EventError(unknown[0][:60], f"one of {', '.join(sorted(FIELDS))}", unknown[0][:60])
        raise EventError(min(FIELDS - item.keys()), "metric, timestamp and value", "nothing")
    metric, timestamp, value = item["metric"], item["timestamp"], item["value"]
    if not isinstance(metric, str) or not 1 <= len(metric) <= METRIC_CHARACTERS_MAX or _is_broken(metric):
        raise EventError("metric", _NAME, shown(metric))
    if not isinstance(timestamp, str):
        raise EventError("timestamp", "a time in RFC 3339 with offset", shown(timestamp))
    try:
        ts_ms = parse_timestamp(timestamp)
    except EventError as error:
        raise EventError("timestamp", error.expected, error.got) from error
    if not within[0] <= ts_ms <= within[1]:
        first, last = (datetime.fromtimestamp(ms / 1000, UTC) for ms in within)
        raise EventError(
            "timestamp",
            f"a time that has come and that the batch keeps: {first:%Y-%m-%dT%H:%MZ} to {last:%Y-%m-%dT%H:%MZ}",
            timestamp,
        )
    if value is None:
        return metric, ts_ms, None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EventError("value", "a number, or null: known to be missing", shown(value))
    try:
        return metric, ts_ms, float(value)
    except OverflowError as error:
        raise EventError("value", "a number of 64 bits", shown(value)) from error


def _is_broken(text: str) -> bool:
    """Whether a name has more than one line, or something that PostgreSQL cannot hold."""
    return "\0" in text or len(text.splitlines()) != 1 or text.splitlines()[0] != text
