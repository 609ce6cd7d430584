"""The state of Now as its address: filters to and from query parameters."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from anomalyze.storage.board import CASE_STATES, Case, CaseFilter
from anomalyze.storage.board_feed import FeedEntry
from dashboard.formatters import SEVERITIES
from dashboard.routes import NOW, with_query

__all__ = ["NowView", "parse_view"]

TEXT_LENGTH_MAX = 200


@dataclass(frozen=True, slots=True)
class NowView:
    """What the reader asked Now for. `filter` holds what PostgreSQL is asked; `follow` shows new ones by itself."""

    filter: CaseFilter = field(default_factory=CaseFilter)
    follow: bool = False

    def url(self, path: str = NOW, /, **changes: str | None) -> str:
        """This view with changes, each a query parameter (None takes it away); paging starts anew."""
        return with_query(path, **{**self.parameters(), **changes})

    def rows_after(self, last: Case) -> str:
        """This view's next page."""
        cursor = json.dumps([last.severity, last.last_at.isoformat(), last.case_id]).encode()
        return self.url(before=base64.urlsafe_b64encode(cursor).decode().rstrip("="))

    def toggled(self, level: int) -> str:
        """This view with one severity more or less."""
        levels = set(self.filter.severities) ^ {level}
        return self.url(severity=_severity_text(tuple(levels)))

    @property
    def narrowed(self) -> bool:
        """Whether anything beside the review state filters the list."""
        f = self.filter
        return bool(
            f.severities
            or f.words
            or f.rule
            or f.merchant
            or f.country
            or f.device
            or f.user
            or f.hour
            or f.upload
        )

    def admits(self, entry: FeedEntry, values: set[tuple[str, str]]) -> bool:
        """Whether a case of the live feed belongs in this list; the same predicate as the query's.

        Parameters
        ----------
        values
            The case's (kind, value) of merchants, countries, devices.
        """
        f = self.filter
        words = f.words.lower()
        return (
            not f.upload  # the feed does not say what came with a file; the list does when it is asked for again
            and (f.state == "all" or entry.state == f.state)
            and (not f.severities or entry.severity in f.severities)
            and (not f.user or entry.user_id == f.user)
            and (not f.rule or f.rule in entry.rule_flags)
            and (f.hour is None or 0 <= (entry.last_at - f.hour).total_seconds() < 3600)
            and all(
                not v or (k, v) in values
                for k, v in (("merchant", f.merchant), ("country", f.country), ("device", f.device))
            )
            and (
                not words
                or any(
                    words in text.lower()
                    for text in (entry.user_id, entry.headline, " ".join(entry.rule_flags))
                )
                or any(kind == "merchant" and words in value.lower() for kind, value in values)
            )
        )

    def parameters(self) -> dict[str, str]:
        """The view as query parameters; what is not asked for is empty."""
        f = self.filter
        return {
            "state": "" if f.state == "open" else f.state,
            "severity": _severity_text(f.severities),
            "q": f.words,
            "rule": f.rule,
            "merchant": f.merchant,
            "country": f.country,
            "device": f.device,
            "user": f.user,
            "hour": f.hour.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if f.hour else "",
            "upload": f.upload,
            "sort": "worst" if f.worst_first else "",
            "follow": "1" if self.follow else "",
        }


def parse_view(query: Mapping[str, str]) -> NowView:
    """Query parameters as a view; what cannot be is left out, so that an old link still opens.

    >>> parse_view({"severity": "critical,high", "state": "nonsense"}).url()
    '/now?severity=critical%2Chigh'
    """

    def text(name: str) -> str:
        return query.get(name, "").strip().replace("\x00", "")[:TEXT_LENGTH_MAX]

    levels = tuple(
        level
        for level in range(4, 0, -1)
        if SEVERITIES[level] in query.get("severity", "").lower().split(",")
    )
    state = text("state")
    wanted = CaseFilter(
        state=state if state in (*CASE_STATES, "all") else "open",
        severities=levels,
        words=text("q"),
        rule=text("rule"),
        merchant=text("merchant"),
        country=text("country"),
        device=text("device"),
        user=text("user"),
        hour=_parse_moment(text("hour")),
        upload=text("upload"),
        worst_first=text("sort") == "worst",
        before=_parse_cursor(query.get("before", "")),
    )
    return NowView(wanted, follow=text("follow") == "1")


def _severity_text(levels: tuple[int, ...]) -> str:
    return ",".join(SEVERITIES[level] for level in sorted(levels, reverse=True))


def _parse_moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def _parse_cursor(text: str) -> tuple[int, datetime, str] | None:
    if not 0 < len(text) < 1000:
        return None
    try:
        content = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError):
        return None
    match content:
        case [int(severity), str(last_at), str(case_id)]:
            moment = _parse_moment(last_at)
            return (severity, moment, case_id) if moment and "\x00" not in case_id else None
    return None
