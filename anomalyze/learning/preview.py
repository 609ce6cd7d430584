"""What an account's new settings would have said of its newest stored transactions.

Run as ``python -m anomalyze.learning.preview`` it reads one JSON object (``account_id``, ``document``) on standard
input and prints one a line: how many transactions it has read of how many, then what it found. In a process of its
own, because it takes processor and memory that a program which answers people has not to spare.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg

from anomalyze.backtest.difference import Difference, compare_bundles
from anomalyze.backtest.mapping import SourceChunk
from anomalyze.backtest.stored import newest_stored_ms, read_stored
from anomalyze.detection.account import AccountDocument, Versioned
from anomalyze.detection.account_overlay import version_of, with_documents
from anomalyze.detection.bundle_store import BundleStore
from anomalyze.errors import AnomalyzeError, ConfigError
from anomalyze.learning.promotion import CHAMPION, open_bundles
from anomalyze.settings import Settings

__all__ = ["ROWS_MAX", "preview_settings"]

DAY_MS = 86_400_000
# What people wait for: a few seconds. The newest half of them at least is compared, the others make the history.
ROWS_MAX = 30_000
DAYS = 7
HISTORY_DAYS = 31


def preview_settings(
    dsn: str,
    store: BundleStore,
    account_id: str,
    document: AccountDocument,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Compare the champion with itself under other settings of an account.

    Parameters
    ----------
    progress
        Told how many transactions were read, and of how many.

    Returns
    -------
    dict
        ``rows`` compared, ``from`` and ``to`` (RFC 3339), counts of what appears, goes, is raised and lowered, and
        ``sentences``.

    Raises
    ------
    ConfigError
        Nothing judges yet.
    ContractError
        The champion is damaged.
    """
    champion = store.pointer(CHAMPION)
    if champion is None:
        raise ConfigError("there is no bundle that judges yet")
    before = store.load(champion)
    after = with_documents(before, {account_id: Versioned(version_of(before, account_id) + 1, document)})
    span = _span(dsn, account_id)
    if span is None:
        return _told(Difference(), 0, 0)
    first_ms, start_ms, end_ms, total = span
    done = 0

    def chunks() -> Iterator[SourceChunk]:
        nonlocal done
        for chunk in read_stored(dsn, account_id, first_ms, end_ms):
            yield chunk
            done += len(chunk.users)
            progress(done, total)

    return _told(compare_bundles(chunks(), before, after, start_ms), start_ms, end_ms)


def _span(dsn: str, account_id: str) -> tuple[int, int, int, int] | None:
    """Where reading and comparing begin and end, and how many transactions that are; None where none is stored."""
    newest_ms = newest_stored_ms(dsn, account_id)
    if newest_ms is None:
        return None
    end_ms = newest_ms + 1
    first_ms = end_ms - (HISTORY_DAYS + DAYS) * DAY_MS
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "SELECT ts FROM transactions WHERE account_id = %s AND ts >= %s ORDER BY ts DESC LIMIT %s",
            [account_id, datetime.fromtimestamp(first_ms / 1000, UTC), ROWS_MAX],
        ).fetchall()
    total = len(rows)
    half_ms = int(rows[total // 2][0].timestamp() * 1000)
    if total == ROWS_MAX:
        first_ms = int(rows[-1][0].timestamp() * 1000)
    start_ms = max(end_ms - DAYS * DAY_MS, half_ms if total == ROWS_MAX else first_ms)
    return first_ms, start_ms, end_ms, total


def _told(found: Difference, start_ms: int, end_ms: int) -> dict[str, Any]:
    return {
        "rows": found.rows,
        "from": _instant(start_ms),
        "to": _instant(end_ms),
        "before": found.first.alerts,
        "after": found.second.alerts,
        "appear": found.second.alone,
        "go": found.first.alone,
        "raised": found.raised,
        "lowered": found.lowered,
        "causes": {
            cause: [found.second.causes[cause], found.first.causes[cause]]
            for cause in sorted(found.first.causes.keys() | found.second.causes.keys())
        },
        "appearing": found.second.examples,
        "going": found.first.examples,
        "sentences": found.sentences(),
    }


def _instant(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat()


def main() -> int:
    """Compare, and tell so on standard output; 1 after an error, which is told too."""

    def tell(**said: Any) -> None:
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()

    settings = Settings()
    try:
        asked = json.loads(sys.stdin.readline())
        if settings.postgres_dsn is None:
            raise ConfigError("expected the setting POSTGRES_DSN from whoever asks for a preview, got none")
        found = preview_settings(
            settings.postgres_dsn.get_secret_value(),
            open_bundles(settings),
            str(asked["account_id"]),
            AccountDocument.model_validate(asked["document"]),
            lambda done, total: tell(done=done, total=total),
        )
    except (AnomalyzeError, psycopg.Error, ValueError, KeyError) as error:
        tell(error=str(error)[:500])
        return 1
    tell(found=found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
