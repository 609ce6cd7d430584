"""Uploads: what came, what becomes of it, and the rows that were refused. States: waiting (somebody must look at
the mapping), started (to be worked off), running, done, failed."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from anomalyze.storage.query import Query

__all__ = [
    "ATTEMPTS_MAX",
    "CASE_OF_UPLOAD",
    "ERRORS_MAX",
    "Upload",
    "add_upload",
    "claim_upload",
    "delete_abandoned",
    "delete_errors",
    "delete_upload",
    "fail_upload",
    "find_finished",
    "find_startable",
    "find_upload",
    "finish_upload",
    "forget_bytes",
    "insert_errors",
    "known_uploads",
    "list_uploads",
    "load_case_counts",
    "load_reasons",
    "load_upload",
    "new_upload_id",
    "note_lacking",
    "note_progress",
    "note_span",
    "start_upload",
    "stream_errors",
]

# Refused rows kept with their text; past it they are counted only.
ERRORS_MAX = 100_000
ATTEMPTS_MAX = 5
# Who works an upload off says so every few seconds; after this long it is taken for dead.
SILENT_S_MAX = 60
LIST_MAX = 100

COLUMNS = (
    "upload_id, account_id, name, sha256, bytes, parts, state, attempt, mapping, rows_total, rows_read, rows_accepted, "
    "rows_refused, rows_published, rows_scored, note, error, run_id, created_by, created_at, started_at, seen_at, "
    "finished_at, lacking, first_ts, last_ts"
)
# Held by who works an upload off, for as long as his connection lives.
_LOCK = "hashtextextended('upload ' || upload_id, 0)"
# Of a case `c`: it has a transaction of the upload. What came by file, of the upload's days, and was stored while it
# was worked off; a second file of the same days is told apart by when it came.
CASE_OF_UPLOAD = """
c.last_at >= (SELECT first_ts FROM uploads WHERE account_id = %(account)s AND upload_id = %(upload)s)
AND c.opened_at <= (SELECT last_ts FROM uploads WHERE account_id = %(account)s AND upload_id = %(upload)s)
AND EXISTS (
    SELECT FROM uploads u
    JOIN anomalies a ON a.account_id = u.account_id AND a.case_id = c.case_id AND a.ts BETWEEN c.opened_at AND c.last_at
        AND a.ts BETWEEN u.first_ts AND u.last_ts
        AND a.stored_at BETWEEN u.created_at AND coalesce(u.finished_at, now()) + interval '1 minute'
    JOIN transactions t ON t.account_id = a.account_id AND t.user_id = a.user_id AND t.ts = a.ts AND t.tx_id = a.tx_id
        AND t.source = 'CSV'
    WHERE u.account_id = c.account_id AND u.upload_id = %(upload)s
)"""
_PROGRESS = (
    "rows_total",
    "rows_read",
    "rows_accepted",
    "rows_refused",
    "rows_published",
    "rows_scored",
    "note",
)


@dataclass(frozen=True, slots=True)
class Upload:
    """One row of `uploads`."""

    upload_id: str
    account_id: str
    name: str
    sha256: str
    bytes: int
    parts: int
    state: str
    attempt: int
    mapping: dict[str, Any] | None
    rows_total: int | None
    rows_read: int
    rows_accepted: int
    rows_refused: int
    rows_published: int
    rows_scored: int
    note: str | None
    error: str | None
    run_id: str | None
    created_by: str
    created_at: datetime
    started_at: datetime | None
    seen_at: datetime | None
    finished_at: datetime | None
    lacking: dict[str, dict[str, str]] | None
    first_ts: datetime | None
    last_ts: datetime | None

    @property
    def seconds_left(self) -> float | None:
        """How long it will take as it went so far; None before a twentieth of it is judged."""
        if self.state != "running" or self.seen_at is None or self.started_at is None:
            return None
        if self.rows_total is None or self.rows_scored * 20 < self.rows_accepted or not self.rows_scored:
            return None
        seconds = (self.seen_at - self.started_at).total_seconds()
        return (self.rows_accepted - self.rows_scored) * seconds / self.rows_scored

    @property
    def is_open(self) -> bool:
        """Whether somebody works it off, or is to."""
        return self.state in ("started", "running")


def new_upload_id() -> str:
    """A name for an upload; also its folder in the object store."""
    return f"up_{secrets.token_hex(12)}"


def _one(rows: list[dict[str, Any]]) -> Upload | None:
    return Upload(**rows[0]) if rows else None


def _all(rows: list[dict[str, Any]]) -> list[Upload]:
    return [Upload(**row) for row in rows]


def load_upload(account_id: str, upload_id: str) -> Query[Upload | None]:
    """One upload of an account."""
    return Query(
        f"SELECT {COLUMNS} FROM uploads WHERE account_id = %(account)s AND upload_id = %(id)s",  # noqa: S608 - constants
        {"account": account_id, "id": upload_id},
        _one,
    )


def find_upload(account_id: str, sha256: str) -> Query[Upload | None]:
    """The upload of an account that has these bytes."""
    return Query(
        f"SELECT {COLUMNS} FROM uploads WHERE account_id = %(account)s AND sha256 = %(sha256)s",  # noqa: S608 - constants
        {"account": account_id, "sha256": sha256},
        _one,
    )


def list_uploads(account_id: str, limit: int = LIST_MAX) -> Query[list[Upload]]:
    """Uploads of an account, newest first."""
    return Query(
        f"SELECT {COLUMNS} FROM uploads WHERE account_id = %(account)s "  # noqa: S608 - constants
        "ORDER BY created_at DESC, upload_id LIMIT %(limit)s",
        {"account": account_id, "limit": limit},
        _all,
    )


def add_upload(
    *,
    upload_id: str,
    account_id: str,
    name: str,
    sha256: str,
    size: int,
    parts: int,
    created_by: str,
) -> Query[Upload | None]:
    """Note a file that lies in the object store; None when the account has sent the same bytes before."""
    return Query(
        "INSERT INTO uploads (upload_id, account_id, name, sha256, bytes, parts, state, created_by) VALUES "  # noqa: S608 - constants
        "(%(id)s, %(account)s, %(name)s, %(sha256)s, %(bytes)s, %(parts)s, 'waiting', %(by)s) "
        f"ON CONFLICT (account_id, sha256) DO NOTHING RETURNING {COLUMNS}",
        {
            "id": upload_id,
            "account": account_id,
            "name": name,
            "sha256": sha256,
            "bytes": size,
            "parts": parts,
            "by": created_by,
        },
        _one,
    )


def start_upload(account_id: str, upload_id: str, mapping: Mapping[str, Any]) -> Query[Upload | None]:
    """Have an upload worked off with a mapping; None when it is at work or done.

    Another mapping gives other rows in another order, so it begins anew; rows published before are known to the
    detector by their identity and count once.
    """
    return Query(
        "UPDATE uploads SET state = 'started', attempt = attempt + 1, mapping = %(mapping)s, error = NULL, note = NULL, "  # noqa: S608 - constants
        "started_at = now(), seen_at = NULL, finished_at = NULL, rows_published = "
        "CASE WHEN mapping = %(mapping)s THEN rows_published ELSE 0 END "
        "WHERE account_id = %(account)s AND upload_id = %(id)s AND state IN ('waiting', 'failed') "
        f"RETURNING {COLUMNS}",
        {"account": account_id, "id": upload_id, "mapping": Jsonb(dict(mapping))},
        _one,
    )


def delete_upload(upload_id: str) -> Query[bool]:
    """Take an upload back that nobody has started; whether it was there."""
    return Query(
        "DELETE FROM uploads WHERE upload_id = %(id)s AND state = 'waiting' RETURNING upload_id",
        {"id": upload_id},
        bool,
    )


def load_reasons(upload_id: str, limit: int = 20) -> Query[list[tuple[str, str, int]]]:
    """(column, what was expected, rows) of refused rows, most frequent first."""
    return Query(
        "SELECT column_name, split_part(reason, ', got ', 1) AS reason, count(*) AS rows FROM upload_errors "
        "WHERE upload_id = %(id)s GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT %(limit)s",
        {"id": upload_id, "limit": limit},
        lambda rows: [(row["column_name"], row["reason"], row["rows"]) for row in rows],
    )


async def stream_errors(
    connection: psycopg.AsyncConnection[Any], upload_id: str
) -> AsyncIterator[tuple[int, str, str, str]]:
    """(line, column, reason, raw) of every refused row that was kept, in the file's order."""
    async with connection.transaction(), connection.cursor(name="upload_errors") as cursor:
        cursor.itersize = 1_000
        await cursor.execute(
            "SELECT line, column_name, reason, raw FROM upload_errors WHERE upload_id = %s ORDER BY line, column_name",
            [upload_id],
        )
        async for line, column, reason, raw in cursor:
            yield line, column, reason, raw


def find_finished(connection: psycopg.Connection[Any], kept_days: int, limit: int) -> list[tuple[str, int]]:
    """(upload, parts) of uploads that were done so many days ago and whose bytes are still kept."""
    return connection.execute(
        "SELECT upload_id, parts FROM uploads WHERE state = 'done' AND parts > 0 "
        "AND finished_at < now() - make_interval(days => %s) ORDER BY finished_at LIMIT %s",
        [kept_days, limit],
    ).fetchall()


def forget_bytes(connection: psycopg.Connection[Any], upload_id: str) -> None:
    """Note that an upload's bytes are gone, and forget its refused rows with their text."""
    with connection.transaction():
        connection.execute("UPDATE uploads SET parts = 0 WHERE upload_id = %s", [upload_id])
        connection.execute("DELETE FROM upload_errors WHERE upload_id = %s", [upload_id])


def delete_abandoned(
    connection: psycopg.Connection[Any], kept_days: int, limit: int
) -> list[tuple[str, int]]:
    """Delete uploads that waited or had failed for so many days; (upload, parts) of what still lies in the store."""
    return connection.execute(
        "DELETE FROM uploads WHERE upload_id IN (SELECT upload_id FROM uploads WHERE state IN ('waiting', 'failed') "
        "AND coalesce(finished_at, created_at) < now() - make_interval(days => %s) LIMIT %s) "
        "AND state IN ('waiting', 'failed') RETURNING upload_id, parts",
        [kept_days, limit],
    ).fetchall()


def known_uploads(connection: psycopg.Connection[Any], upload_ids: Sequence[str]) -> set[str]:
    """Those of these uploads that there are."""
    rows = connection.execute("SELECT upload_id FROM uploads WHERE upload_id = ANY(%s)", [list(upload_ids)])
    return {row[0] for row in rows}


def find_startable(connection: psycopg.Connection[Any]) -> list[Upload]:
    """Uploads that wait for somebody to work them off, oldest first; those whose worker fell silent among them.

    One that fell silent and whose lock is free gets its next attempt; after the last one it has failed. A worker that
    is only slow still holds its lock, and keeps its upload.
    """
    silent = (
        "WITH silent AS MATERIALIZED (SELECT upload_id FROM uploads WHERE state = 'running' "  # noqa: S608 - constants
        "AND coalesce(seen_at, started_at) < now() - make_interval(secs => %(silent)s)), "
        f"free AS MATERIALIZED (SELECT upload_id FROM silent WHERE pg_try_advisory_xact_lock({_LOCK})) "
    )
    parameters = {"silent": SILENT_S_MAX, "most": ATTEMPTS_MAX}
    with connection.transaction(), connection.cursor(row_factory=class_row(Upload)) as cursor:
        cursor.execute(
            f"{silent} UPDATE uploads AS u SET state = 'failed', finished_at = now(), "  # noqa: S608 - constants
            "error = 'nobody could work it off in ' || attempt || ' attempts: each ended without a word' "
            "FROM free WHERE u.upload_id = free.upload_id AND attempt >= %(most)s",
            parameters,
        )
        cursor.execute(
            f"{silent} UPDATE uploads AS u SET state = 'started', attempt = attempt + 1, seen_at = NULL, "  # noqa: S608 - constants
            "started_at = now() FROM free WHERE u.upload_id = free.upload_id AND attempt < %(most)s",
            parameters,
        )
        cursor.execute(
            f"SELECT {COLUMNS} FROM uploads WHERE state = 'started' ORDER BY started_at, upload_id LIMIT 100"  # noqa: S608 - constants
        )
        return cursor.fetchall()


def claim_upload(
    connection: psycopg.Connection[Any], upload_id: str, run_id: str | None = None
) -> Upload | None:
    """Take an upload to work it off; None when it is not to be, or somebody else has it.

    Held by an advisory lock of this connection: it goes with the connection, whatever ends it.
    """
    row = connection.execute(
        f"SELECT pg_try_advisory_lock({_LOCK}) FROM uploads WHERE upload_id = %s",  # noqa: S608 - constants
        [upload_id],
    ).fetchone()
    if row != (True,):
        return None
    with connection.cursor(row_factory=class_row(Upload)) as cursor:
        return cursor.execute(
            "UPDATE uploads SET state = 'running', seen_at = now(), run_id = coalesce(%s, run_id), error = NULL "  # noqa: S608 - constants
            f"WHERE upload_id = %s AND state IN ('started', 'running') RETURNING {COLUMNS}",
            [run_id, upload_id],
        ).fetchone()


def note_progress(connection: psycopg.Connection[Any], upload_id: str, **progress: int | str | None) -> None:
    """Say how far it is (columns of `uploads`), and that somebody is at work."""
    assert progress.keys() <= {*_PROGRESS}, progress
    columns = "".join(f", {name} = %({name})s" for name in progress)
    connection.execute(
        f"UPDATE uploads SET seen_at = now(){columns} WHERE upload_id = %(id)s AND state = 'running'",  # noqa: S608 - names checked above
        {**progress, "id": upload_id},
    )


def note_lacking(
    connection: psycopg.Connection[Any], upload_id: str, lacking: Mapping[str, Mapping[str, str]]
) -> None:
    """Say what the file cannot tell: ``features`` that are NULL and ``rules`` that are off, each with what is missing."""
    connection.execute(
        "UPDATE uploads SET lacking = %s WHERE upload_id = %s", [Jsonb(dict(lacking)), upload_id]
    )


def note_span(connection: psycopg.Connection[Any], upload_id: str, first_ms: int, last_ms: int) -> None:
    """Say from when to when its good rows are (event time, ms since 1970)."""
    connection.execute(
        "UPDATE uploads SET first_ts = to_timestamp(%s / 1000.0), last_ts = to_timestamp(%s / 1000.0) "
        "WHERE upload_id = %s",
        [first_ms, last_ms, upload_id],
    )


def load_case_counts(account_id: str, upload_id: str) -> Query[dict[int, int]]:
    """Cases with a transaction of an upload, by severity: those that the list of Now filtered to it shows."""
    return Query(
        f"SELECT c.severity, count(*) AS cases FROM cases c WHERE c.account_id = %(account)s "  # noqa: S608 - constants
        f"AND {CASE_OF_UPLOAD} GROUP BY c.severity",
        {"account": account_id, "upload": upload_id},
        lambda rows: {row["severity"]: row["cases"] for row in rows},
    )


def finish_upload(connection: psycopg.Connection[Any], upload_id: str) -> None:
    """All of it was judged."""
    connection.execute(
        "UPDATE uploads SET state = 'done', finished_at = now(), seen_at = now(), note = NULL WHERE upload_id = %s",
        [upload_id],
    )


def fail_upload(
    connection: psycopg.Connection[Any], upload_id: str, error: str, *, try_again: bool = False
) -> None:
    """It could not be worked off; ``try_again``: somebody shall, from where it stopped, while attempts are left."""
    connection.execute(
        "UPDATE uploads SET error = %(error)s, note = NULL, seen_at = now(), "
        "state = CASE WHEN %(again)s AND attempt < %(most)s THEN 'started' ELSE 'failed' END, "
        "finished_at = CASE WHEN %(again)s AND attempt < %(most)s THEN NULL ELSE now() END, "
        "attempt = CASE WHEN %(again)s AND attempt < %(most)s THEN attempt + 1 ELSE attempt END "
        "WHERE upload_id = %(id)s AND state = 'running'",
        {"id": upload_id, "error": error[:1000], "again": try_again, "most": ATTEMPTS_MAX},
    )


def insert_errors(
    connection: psycopg.Connection[Any], upload_id: str, errors: Sequence[tuple[int, str, str, str]]
) -> None:
    """Keep refused rows (line, column, reason, raw); the same ones again change nothing."""
    if not errors:
        return
    lines, columns, reasons, raws = zip(*errors, strict=True)
    connection.execute(
        "INSERT INTO upload_errors (upload_id, line, column_name, reason, raw) "
        "SELECT %s, line, c, reason, raw FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[]) "
        "AS e (line, c, reason, raw) ON CONFLICT DO NOTHING",
        [
            upload_id,
            list(lines),
            *([text.replace("\0", "\ufffd") for text in part] for part in (columns, reasons, raws)),
        ],
    )


def delete_errors(connection: psycopg.Connection[Any], upload_id: str) -> None:
    """Forget the refused rows of an attempt with another mapping."""
    connection.execute("DELETE FROM upload_errors WHERE upload_id = %s", [upload_id])
