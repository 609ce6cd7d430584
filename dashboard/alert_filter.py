"""What the page of alerts shows: its whole state is its address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from anomalyze.storage.metrics_incidents import VIEWS
from dashboard import routes
from dashboard.formatters import SEVERITIES

__all__ = ["AlertsView", "parse_alerts_view"]

TEXT_LENGTH_MAX = 200


@dataclass(frozen=True, slots=True)
class AlertsView:
    """The filter; empty fields admit all."""

    view: str = ""
    batch: str = ""
    severity: str = ""
    words: str = ""
    cursor: str = ""

    @property
    def severity_min(self) -> int:
        """1 to 4; 0: any."""
        return SEVERITIES.index(self.severity) if self.severity else 0

    @property
    def is_filtered(self) -> bool:
        """Whether anything is left out."""
        return bool(self.view or self.batch or self.severity or self.words)

    def address(self, **changes: str | None) -> str:
        """The page with some fields changed; the list begins anew unless told otherwise."""
        told = {"view": self.view, "batch": self.batch, "severity": self.severity, "q": self.words}
        return routes.with_query(routes.ALERTS, **(told | changes))


def parse_alerts_view(query: Mapping[str, str]) -> AlertsView:
    """From an address; what cannot be is as if it were not there.

    >>> parse_alerts_view({"view": "open", "severity": "worst", "q": " or "})
    AlertsView(view='open', batch='', severity='', words='or', cursor='')
    """
    view, severity = query.get("view", ""), query.get("severity", "")
    return AlertsView(
        view if view in VIEWS else "",
        query.get("batch", "")[:TEXT_LENGTH_MAX].replace("\x00", ""),
        severity if severity in SEVERITIES[1:] else "",
        query.get("q", "").strip()[:TEXT_LENGTH_MAX].replace("\x00", ""),
        query.get("cursor", ""),
    )
