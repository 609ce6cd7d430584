"""The state of Metrics as its address: filters to and from query parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from anomalyze.metrics.library import BatchEntry
from anomalyze.storage.metrics_board import SHOWN
from dashboard.routes import METRICS, with_query

__all__ = ["FAILED", "PERIODS", "MetricsView", "parse_metrics_view", "parse_period"]

WORDS_LENGTH_MAX = 200
AT_LENGTH_MAX = 300
PAGES_MAX = 1000
# Beside what metrics are: batches whose last run failed.
FAILED = "failed"
PERIODS = {
    "1d": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
    "90d": timedelta(days=90),
}


@dataclass(frozen=True, slots=True)
class MetricsView:
    """What the reader asked Metrics for; `at` is the (batch, metric) that the panel shows."""

    words: str = ""
    tag: str = ""
    batch: str = ""
    shown: str = "all"
    page: int = 1
    at: tuple[str, str] | None = None

    def url(self, **changes: str | int | None) -> str:
        """This view with changes, each a query parameter; paging and the panel start anew."""
        kept = {
            "q": self.words,
            "tag": self.tag,
            "batch": self.batch,
            "show": "" if self.shown == "all" else self.shown,
        }
        return with_query(METRICS, **{**kept, **changes})

    @property
    def narrowed(self) -> bool:
        """Whether anything filters the list."""
        return bool(self.words or self.tag or self.batch or self.shown != "all")

    def choose(self, owned: Mapping[str, BatchEntry]) -> dict[str, BatchEntry]:
        """Those batches that can have a metric of this view."""
        return {
            name: entry
            for name, entry in owned.items()
            if (not self.batch or name == self.batch) and (not self.tag or self.tag in entry.batch.tags)
        }

    def names(self, chosen: Mapping[str, BatchEntry]) -> list[str]:
        """Batches whose own words match: all of their metrics do."""
        words = self.words.lower()
        return [
            name
            for name, entry in chosen.items()
            if words
            and any(words in text.lower() for text in (name, entry.batch.description, entry.batch.owner))
        ]


def parse_metrics_view(query: Mapping[str, str]) -> MetricsView:
    """Query parameters as a view; what cannot be is left out, so that an old link still opens.

    >>> parse_metrics_view({"q": "visits ", "show": "nonsense", "page": "x"}).url()
    '/metrics?q=visits'
    """

    def text(name: str, length_max: int = WORDS_LENGTH_MAX) -> str:
        return query.get(name, "").replace("\x00", "")[:length_max]

    batch, _, metric = text("at", AT_LENGTH_MAX).partition("/")
    page = text("page")
    return MetricsView(
        words=text("q").strip(),
        tag=text("tag").strip(),
        batch=text("batch").strip(),
        shown=text("show") if text("show") in (*SHOWN, FAILED) else "all",
        page=min(int(page), PAGES_MAX) if page.isascii() and page.isdigit() and int(page) else 1,
        at=(batch, metric) if batch and metric else None,
    )


def parse_period(query: Mapping[str, str]) -> str:
    """Which of `PERIODS` a metric's page shows.

    >>> parse_period({"period": "30d"}), parse_period({"period": "2y"})
    ('30d', '7d')
    """
    period = query.get("period", "")
    return period if period in PERIODS else "7d"
