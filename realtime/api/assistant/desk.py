"""Where every question of an assistant goes through: its key is asked for, and PostgreSQL only reads.

The key is looked up with each question, so that a revoked one opens nothing more. What it reads lies in one read-only
transaction with a statement timeout: several statements of one answer see the same moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import psycopg
from mcp.server.mcpserver.exceptions import ToolError

from anomalyze.access.keys import Principal
from anomalyze.access.verify import KeyVerifier
from anomalyze.errors import AnomalyzeError, ConfigError
from anomalyze.metrics.library import BatchEntry
from anomalyze.metrics.ownership import OwnedBatches
from anomalyze.settings import Settings
from anomalyze.storage.pool import Pool
from anomalyze.storage.query import Query, fetch

__all__ = ["TEXT_MAX", "Desk", "Sitting", "clip", "period"]

# An assistant asks one thing after another; what takes longer is too much to ask.
STATEMENT_TIMEOUT_S = 10.0
CONNECTIONS_MAX = 4
# Of a text that comes from data: sentences are shorter.
TEXT_MAX = 600
FIRST = datetime(1970, 1, 1, tzinfo=UTC)
# No value lies further ahead.
AHEAD_MAX = timedelta(days=400)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Sitting:
    """One question: whose it is, his batches, and a transaction that reads."""

    account_id: str
    batches: Mapping[str, BatchEntry]
    connection: psycopg.Connection[Any]

    def run(self, query: Query[Result]) -> Result:
        """The answer of one statement."""
        return fetch(self.connection, query)

    def chosen(self, batch: str | None) -> list[str]:
        """The names of all batches, or this one's. Raises ``ToolError`` when the account has none such."""
        if batch is None:
            return sorted(self.batches)
        if batch not in self.batches:
            known = ", ".join(sorted(self.batches)[:20]) or "none"
            raise ToolError(f"batch: expected one of this account's batches ({known}), got {batch[:64]!r}")
        return [batch]


class Desk:
    """Answers for the holder of one key.

    Parameters
    ----------
    settings
        Where the batches' files are.
    dsn, secret
        Of PostgreSQL, and the key: neither is ever shown.

    Raises
    ------
    ConfigError
        Nobody holds the key, it was revoked, or it has no scope ``read``.
    TransientError
        PostgreSQL does not answer now.
    """

    def __init__(self, settings: Settings, dsn: str, secret: str) -> None:
        self._secret = secret
        # Looking up a key notes when it was last used: that connection writes, and reads nothing else.
        self._keys = Pool(dsn, program="anomalyze mcp", size_max=1)
        self._reads = Pool(
            dsn, program="anomalyze mcp", size_max=CONNECTIONS_MAX, statement_timeout_s=STATEMENT_TIMEOUT_S
        )
        self._verifier = KeyVerifier(self._keys)
        self._batches = OwnedBatches(settings.config_dir)
        try:
            self.principal()
        except BaseException:
            self.close()
            raise

    def principal(self) -> Principal:
        """Who asks, as of now."""
        found = self._verifier.verify_key(self._secret)
        if found is None:
            raise ConfigError(
                "expected an API key that is not revoked, got another: anomalyze keys create assistant --scopes read"
            )
        if not found.allows("read"):
            raise ConfigError(
                f"expected a key with the scope read, got {found.key_id} with {', '.join(sorted(found.scopes))}"
            )
        return found

    @contextmanager
    def sit(self) -> Iterator[Sitting]:
        """Read for one answer. What goes wrong is said to the assistant in our words, never in PostgreSQL's."""
        try:
            principal = self.principal()
            with self._reads.connection() as connection:
                connection.read_only = True
                connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                with connection.transaction():
                    yield Sitting(principal.account_id, self._batches.of(principal.account_id), connection)
        except AnomalyzeError as error:
            raise ToolError(str(error)) from error

    def close(self) -> None:
        """Close the connections."""
        self._keys.close()
        self._reads.close()


def period(since: datetime | None, until: datetime | None, span: timedelta) -> tuple[datetime, datetime]:
    """From when until when: now and ``span`` before unless said otherwise; a time without an offset is UTC.

    Raises
    ------
    ToolError
        It ends before it begins.
    """
    now = datetime.now(UTC)
    end = now if until is None else _moment(until, now)
    start = max(FIRST, end - min(span, end - FIRST)) if since is None else _moment(since, now)
    if start > end:
        raise ToolError(f"since: expected a time before until ({end.isoformat()}), got {start.isoformat()}")
    return start, end


def clip(text: str | None, length_max: int = TEXT_MAX) -> str | None:
    """A text that came from data, cut where it is longer than an answer needs."""
    if text is None or len(text) <= length_max:
        return text
    return text[: length_max - 1] + "…"


def _moment(told: datetime, now: datetime) -> datetime:
    # Times at the ends of the calendar have no UTC.
    aware = told if told.tzinfo is not None else told.replace(tzinfo=UTC)
    return max(FIRST, min(aware, now + AHEAD_MAX)).astimezone(UTC)
