"""Plots in the metadata of runs: PNG within Markdown, because Dagster's UI shows no files."""

import base64
import io
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PLOT_BYTES_MAX", "as_metadata", "new_figure"]

DPI = 90
# Metadata lie in Dagster's event table: a page of plots stays below a megabyte.
PLOT_BYTES_MAX = 600_000


def new_figure(width: float = 7.0, height: float = 3.0) -> "Figure":
    """A figure that needs no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def as_metadata(figure: "Figure", alternative: str) -> dg.MarkdownMetadataValue:
    """The figure as an image; a sentence instead when it would be too large."""
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=DPI)
    content = target.getvalue()
    if len(content) > PLOT_BYTES_MAX:
        return dg.MetadataValue.md(f"{alternative} (the plot has {len(content):,} bytes, too many to keep)")
    return dg.MetadataValue.md(
        f"![{alternative}](data:image/png;base64,{base64.b64encode(content).decode()})"
    )
