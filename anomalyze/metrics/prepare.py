"""What is made of a batch's rows before they are stored: one value for each step, gaps filled, a function of one's own.

Lags, differences and smoothing come later, when values are judged: they need what was stored before.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl

from anomalyze.errors import ConfigError
from anomalyze.metrics.batch import Batch
from anomalyze.metrics.call import FrameAnswer, FrameCall
from anomalyze.metrics.preprocess import Aggregate, Fill, fill_gaps, resample
from anomalyze.metrics.process import TIMEOUT_S, ask
from anomalyze.metrics.source_file import ROWS_MAX
from anomalyze.metrics.window import Window

__all__ = ["Prepared", "prepare"]

_RELATED = "expected no values of a metric that is made of others (relations), got some: left out"


@dataclass(frozen=True, slots=True)
class Prepared:
    """Rows as they are stored, in the order of metric and timestamp; and metrics that gave none, with the reason."""

    frame: pl.DataFrame
    failures: Mapping[str, str] = field(default_factory=dict)


def prepare(frame: pl.DataFrame, batch: Batch, window: Window, folder: Path) -> Prepared:
    """Resample, fill, and call the functions that metrics name.

    Parameters
    ----------
    frame
        Of a ``Reading``.
    window
        What was read. A step that reaches out of it is left out, as its value would change.
    folder
        Of the batch's file, which modules lie beside.

    Raises
    ------
    ConfigError
        Filled gaps would make more rows than any source may answer.
    """
    zone = ZoneInfo(batch.timezone)
    within = (window.start, window.end)
    failures = dict.fromkeys(set(batch.relations) & set(frame["metric"].unique()), _RELATED)
    if failures:
        frame = frame.filter(~pl.col("metric").is_in(list(failures)))
    ways: dict[tuple[dt.timedelta | None, Aggregate, Fill, str | None], list[str]] = {}
    for name in frame["metric"].unique(maintain_order=True):
        wanted = batch.settings(name).preprocessing if batch.metrics else batch.preprocessing
        ways.setdefault((wanted.resample, wanted.aggregate, wanted.fill, wanted.function), []).append(name)
    parts: list[pl.DataFrame] = []
    for (step, aggregate, fill, function), names in ways.items():
        part = frame if len(ways) == 1 else frame.filter(pl.col("metric").is_in(names))
        if step is not None:
            part = resample(part, step, aggregate, zone, within)
        if fill != "none":
            _expect_few(part["metric"].n_unique(), step or batch.step, window)
            part = fill_gaps(part, step or batch.step, zone, within, fill)
        part = part.select("metric", "timestamp", "value")
        parts += [part] if function is None else _called(part, function, batch, folder, failures)
    return Prepared(pl.concat(parts).sort("metric", "timestamp") if parts else frame.clear(), failures)


def _expect_few(metrics: int, step: dt.timedelta, window: Window) -> None:
    rows = metrics * ((window.end - window.start) // step)
    if rows > ROWS_MAX:
        raise ConfigError(
            f"preprocessing.fill: expected it to make at most {ROWS_MAX:,} rows of a read, got {rows:,}: a value each "
            f"{step} from {window.start:%Y-%m-%d %H:%M} to {window.end:%Y-%m-%d %H:%M} for {metrics:,} metrics; "
            "resample to a longer step, or fill only the metrics that need it"
        )


def _called(
    part: pl.DataFrame, told: str, batch: Batch, folder: Path, failures: dict[str, str]
) -> list[pl.DataFrame]:
    """What a function makes of each metric; one that fails is named, and its neighbours go on."""
    if part.is_empty():
        return [part]
    frame = part.write_ipc_stream(None).getvalue()
    timeout_s = batch.source.timeout_s if batch.source else TIMEOUT_S
    try:
        answer = ask(FrameCall(str(folder), told, dict(batch.params), frame), timeout_s, FrameAnswer)
    except (TimeoutError, ChildProcessError) as error:
        answer = FrameAnswer(error=f"{told} {error}")
    failed = answer.failures if answer.error is None else dict.fromkeys(part["metric"].unique(), answer.error)
    failures.update({metric: f"preprocessing: {reason}" for metric, reason in failed.items()})
    return [pl.read_ipc_stream(answer.frame)] if answer.frame else []
