"""The state of Metrics as its address: filters to and from query parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from anomalyze.metrics.library import BatchEntry
from anomalyze.storage.metrics_board import SHOWN, like_pattern
from dashboard.routes import METRICS, with_query

__all__ = [
    "DEFAULT_PERIOD",
    "FAILED",
    "PERIODS",
    "PERIOD_LINKS",
    "PERIOD_WORDS",
    "MetricsView",
    "parse_metrics_view",
    "parse_period",
]

WORDS_LENGTH_MAX = 200
WORDS_MAX = 8
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
PERIOD_LINKS = {"1d": "24\u00a0h", "7d": "7\u00a0d", "30d": "30\u00a0d", "90d": "90\u00a0d"}
PERIOD_WORDS = {"1d": "24 h", "7d": "7 days", "30d": "30 days", "90d": "90 days"}
DEFAULT_PERIOD = "7d"


@dataclass(frozen=True, slots=True)
class MetricsView:
    """What the reader asked Metrics for; `at` is the (batch, metric) that the panel shows."""

    words: str = ""
    tag: str = ""
    batch: str = ""
    owner: str = ""
    shown: str = "all"
    period: str = DEFAULT_PERIOD
    page: int = 1
    at: tuple[str, str] | None = None

    def url(self, **changes: str | int | None) -> str:
        """This view with changes, each a query parameter; paging and the panel start anew."""
        return with_query(METRICS, **{**self.query, **changes})

    @property
    def query(self) -> dict[str, str | int | None]:
        """What is not as usual, by its parameter."""
        return {
            "q": self.words,
            "tag": self.tag,
            "batch": self.batch,
            "owner": self.owner,
            "show": "" if self.shown == "all" else self.shown,
            "period": self.period_query,
        }

    @property
    def period_query(self) -> str | None:
        """The period as an address has it."""
        return None if self.period == DEFAULT_PERIOD else self.period

    @property
    def narrowed(self) -> bool:
        """Whether anything filters the list."""
        return bool(self.words or self.tag or self.batch or self.owner or self.shown != "all")

    def choose(self, owned: Mapping[str, BatchEntry]) -> dict[str, BatchEntry]:
        """Those batches that can have a metric of this view."""
        return {
            name: entry
            for name, entry in owned.items()
            if (not self.batch or name == self.batch)
            and (not self.tag or self.tag in entry.batch.tags)
            and (not self.owner or self.owner == entry.batch.owner)
        }

    def patterns(self, chosen: Mapping[str, BatchEntry]) -> dict[str, list[str]]:
        """By batch, those words that its own texts do not have: its metrics' names must."""
        found: dict[str, list[str]] = {}
        words = [word for word in self.words.lower().split() if word.strip("*")][:WORDS_MAX]
        for name, entry in chosen.items():
            texts = [text.lower() for text in (name, entry.batch.description, entry.batch.owner)]
            rest = [word for word in words if not any(word in text for text in texts)]
            if rest:
                found[name] = [like_pattern(word) for word in rest]
        return found


def parse_metrics_view(query: Mapping[str, str]) -> MetricsView:
    """Query parameters as a view; what cannot be is left out, so that an old link still opens.

    >>> parse_metrics_view({"q": "visits ", "show": "nonsense", "page": "x", "period": "30d"}).url()
    '/metrics?q=visits&period=30d'
    """

    def text(name: str, length_max: int = WORDS_LENGTH_MAX) -> str:
        return query.get(name, "").replace("\x00", "")[:length_max]

    batch, _, metric = text("at", AT_LENGTH_MAX).partition("/")
    page = text("page")
    return MetricsView(
        words=text("q").strip(),
        tag=text("tag").strip(),
        batch=text("batch").strip(),
        owner=text("owner").strip(),
        shown=text("show") if text("show") in (*SHOWN, FAILED) else "all",
        period=parse_period(query),
        page=min(int(page), PAGES_MAX) if page.isascii() and page.isdigit() and int(page) else 1,
        at=(batch, metric) if batch and metric else None,
    )


def parse_period(query: Mapping[str, str]) -> str:
    """Which of `PERIODS` is shown.

    >>> parse_period({"period": "30d"}), parse_period({"period": "2y"})
    ('30d', '7d')
    """
    period = query.get("period", "")
    return period if period in PERIODS else DEFAULT_PERIOD
