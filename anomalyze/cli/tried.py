"""What a try of a batch shows: its rows, its metrics as plots, and what would have alerted."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anomalyze.cli.output import print_line

if TYPE_CHECKING:
    import polars as pl

    from anomalyze.metrics.library import BatchEntry
    from anomalyze.metrics.window import Window
    from anomalyze.monitoring.preview import Foreseen

__all__ = ["Tried"]

PLOT_HEIGHT = 6
PLOT_WIDTH_MAX = 100
FORESEEN_SHOWN = 20
SEVERITIES = ("NONE", "LOW", "MEDIUM", "HIGH", "CRITICAL")


@dataclass(frozen=True, slots=True)
class Tried:
    """A batch that was read without being stored.

    Attributes
    ----------
    window
        What was read.
    notes
        What was put right of the rows, and metrics that failed.
    frame
        Rows as a run would store them, in the order of metric and time.
    foreseen
        Incidents that would have alerted, the oldest first.
    """

    entry: BatchEntry
    window: Window
    notes: Sequence[str]
    frame: pl.DataFrame
    foreseen: Sequence[Foreseen]

    def to_dict(self, rows: int) -> dict[str, Any]:
        """One document, with the newest so many rows."""
        newest = self.frame.sort("timestamp", "metric").tail(rows)
        return {
            "batch": self.entry.name,
            "from": self.window.start.isoformat(),
            "to": self.window.end.isoformat(),
            "rows": len(self.frame),
            "metrics": self.frame["metric"].n_unique(),
            "notes": list(self.notes),
            "values": [
                {"metric": metric, "timestamp": at.isoformat(), "value": value}
                for metric, at, value in newest.iter_rows()
            ],
            "alerts": [
                {
                    "metric": one.metric,
                    "kind": one.incident.kind,
                    "severity": SEVERITIES[one.incident.severity],
                    "opened": _time(one.incident.opened_ms).isoformat(),
                    "last": _time(one.incident.last_ms).isoformat(),
                    "sentence": one.sentence,
                }
                for one in self.foreseen
            ],
        }

    def print_all(self, rows: int, plots: int) -> None:
        """For people, with the newest so many rows and so many metrics drawn."""
        self._print_rows(rows)
        self._print_plots(plots)
        self._print_foreseen()

    def _print_rows(self, rows: int) -> None:
        print_line(
            f"{self.entry.name}: {len(self.frame):,} rows of {self.frame['metric'].n_unique():,} metrics, "
            f"{self.window.start:%Y-%m-%d %H:%M} to {self.window.end:%Y-%m-%d %H:%M} UTC. Nothing is stored."
        )
        for note in self.notes:
            print_line(f"  {note}")
        newest = self.frame.sort("timestamp", "metric").tail(rows)
        for metric, at, value in newest.iter_rows():
            unit = self.entry.batch.settings(metric).unit
            shown = "missing" if value is None else f"{value:,.6g}"
            print_line(f"  {at:%Y-%m-%d %H:%M}  {shown:>14} {unit:<6} {metric}")

    def _print_plots(self, plots: int) -> None:
        import polars as pl

        from anomalyze.cli.plot import plot

        width = min(PLOT_WIDTH_MAX, shutil.get_terminal_size().columns - 16)
        # A single value, as a source that tells of now gives, is no line.
        counts = self.frame.drop_nulls("value").group_by("metric", maintain_order=True).len()
        names = counts.filter(pl.col("len") > 1)["metric"].to_list()
        # Those with the most to tell come first.
        names.sort(key=lambda name: -sum(one.metric == name for one in self.foreseen))
        for name in names[:plots]:
            own = self.frame.filter(pl.col("metric") == name)
            times = own["timestamp"].dt.epoch("ms")
            peaks = [one.incident.peak_ms for one in self.foreseen if one.metric == name]
            unit = self.entry.batch.settings(name).unit
            print_line()
            print_line(f"{name}{f' ({unit})' if unit else ''}")
            marks = [int(times.search_sorted(peak)) for peak in peaks]
            for line in plot(own["value"].to_list(), width, PLOT_HEIGHT, marks):
                print_line(line)
        if len(names) > plots:
            print_line()
            more = len(names) - plots
            print_line(f"{more:,} more metric{'s' if more > 1 else ''}; --plots shows more.")

    def _print_foreseen(self) -> None:
        print_line()
        if not self.foreseen:
            print_line("Nothing would have alerted.")
            return
        count = f"{len(self.foreseen):,} incident{'s' if len(self.foreseen) > 1 else ''}"
        print_line(f"{count} would have alerted, the newest:")
        for one in self.foreseen[-FORESEEN_SHOWN:]:
            print_line(f"  {SEVERITIES[one.incident.severity]:<8} {one.sentence}")


def _time(ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC)
