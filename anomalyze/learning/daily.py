"""Profiles of whole days from what is stored: read, computed, published, loaded and told to the log."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import psycopg
import redis

from anomalyze.bus.contract import Bus
from anomalyze.bus.control import announce
from anomalyze.errors import ContractError, TransientError
from anomalyze.events.gazetteer import COUNTRIES, COUNTRY_INDEX, Gazetteer
from anomalyze.events.hashing import text_keys, user_keys
from anomalyze.features.catalogue import DAILY_MEASURES, DAILY_WINDOWS_DAYS, ENTITIES
from anomalyze.features.daily import (
    COUNTRY_KEYS,
    NO_AMOUNT,
    DailyRows,
    DailyTable,
    compute_daily_profiles,
    entity_keys,
)
from anomalyze.features.daily_store import DAILY_KEPT_MAX, DailyNote, DailySnapshot, DailyStore, TableRows
from anomalyze.features.snapshot import Profiles
from anomalyze.storage.daily_profiles import (
    ROW_MEASURES,
    find_version_before,
    forget_versions,
    list_versions,
    store_version,
)
from anomalyze.storage.pool import postgres_errors
from anomalyze.storage.profile_rows import load_rows

__all__ = ["FILE_DAYS", "ROWS_MAX", "PublishedDay", "load_profiles_of", "publish_day", "read_days"]

# Training reads half a year at most, and each day's profiles with it.
FILE_DAYS = 200
# 57 bytes each in memory, three times that while they are sorted.
ROWS_MAX = 20_000_000
CHUNK_BYTES = 16 << 20
CSV_ROWS = 50_000
# Versions that a replay has open at a time; it goes through the days in order.
OPEN_MAX = 3

# What confirms a fraud: of each source its newest label, of several sources the one known last; a label that names
# the user before one that names only the transaction. As `anomalyze.learning.profiles` has it.
_STORED = """
COPY (
WITH newest AS (
    SELECT DISTINCT ON (account_id, user_id, tx_id, source)
        account_id, user_id, tx_id, source, fraud, known_at, label_id
    FROM labels WHERE known_at < %(as_of)s
    ORDER BY account_id, user_id, tx_id, source, recorded_at DESC, label_id DESC
), known AS (
    SELECT DISTINCT ON (account_id, user_id, tx_id) account_id, user_id, tx_id, fraud
    FROM newest WHERE fraud IS NOT NULL
    ORDER BY account_id, user_id, tx_id, known_at DESC, label_id DESC
)
SELECT t.account_id, t.user_id, t.data ->> 'merchant_id', t.data ->> 'device_id', t.data ->> 'ip',
    t.data ->> 'country', CASE WHEN coalesce(t.data ->> 'country', '') = '' THEN t.data ->> 'location' END, t.currency,
    (extract(epoch FROM t.ts) * 1000)::bigint,
    CASE WHEN t.status IN (0, 1) THEN t.enrichment -> 'features' ->> 'amount_base' END,
    coalesce(own.fraud, anyone.fraud, false)::int
FROM transactions t
LEFT JOIN known own ON own.account_id = t.account_id AND own.user_id = t.user_id AND own.tx_id = t.tx_id
LEFT JOIN known anyone ON anyone.account_id = t.account_id AND anyone.user_id = '' AND anyone.tx_id = t.tx_id
WHERE t.ts >= %(start)s AND t.ts < %(as_of)s
) TO STDOUT (FORMAT csv)
"""
_COLUMNS = {
    "account": pl.String,
    "user": pl.String,
    "merchant": pl.String,
    "device": pl.String,
    "ip": pl.String,
    "country": pl.String,
    "location": pl.String,
    "currency": pl.String,
    "ts_ms": pl.Int64,
    "amount": pl.Float64,
    "fraud": pl.Int8,
}
_PLACE = ["country", "location", "currency"]


@dataclass(frozen=True, slots=True)
class StoredDays:
    """Transactions of the longest window as profiles read them, and what the keys stand for.

    Attributes
    ----------
    names
        Columns ``key``, ``account``, ``id``: each key once, ascending.
    """

    rows: DailyRows
    names: pl.DataFrame


@dataclass(frozen=True, slots=True)
class PublishedDay:
    """A version of one day, and what it took.

    Attributes
    ----------
    seconds
        By step: ``read``, ``compute``, ``file``, ``postgres``, ``redis``, ``log``.
    redis
        Empty when the version was loaded, else why not.
    """

    note: DailyNote
    table: DailyTable
    names: pl.DataFrame
    transactions: int
    frauds: int
    redis: str
    forgotten: int
    seconds: dict[str, float] = field(default_factory=dict)


def publish_day(
    connection: psycopg.Connection[Any],
    as_of: datetime,
    *,
    store: DailyStore,
    gazetteer: Gazetteer,
    bus: Bus,
    client: redis.Redis | None,
    now: datetime,
    say: Callable[[str], None] = lambda text: None,
) -> PublishedDay | None:
    """Compute the profiles as of an instant, keep them, load them, and tell every partition of the log.

    Done again with the same transactions and labels it changes nothing. None when no transaction is stored.

    1. The file, which verdicts are made from. 2. PostgreSQL. 3. Redis: when it is away the file serves.
    4. The log, unless so many newer days are in force that this one would not be.

    Parameters
    ----------
    as_of
        The first moment of the day after (UTC).
    say
        Told what is being done.

    Raises
    ------
    TransientError
        PostgreSQL, the store or the log does not answer: do it again.
    ContractError
        More transactions than ``ROWS_MAX``.
    """
    clock = _Clock()
    stored = read_days(connection, as_of, gazetteer)
    clock.note("read")
    if not len(stored.rows.ts_ms):
        return None
    say(f"{len(stored.rows.ts_ms):,} transactions in {DAILY_WINDOWS_DAYS[-1]} days")
    older = find_version_before(connection, as_of)
    before = None if older is None else store.find(older)
    table = compute_daily_profiles(
        stored.rows, int(as_of.timestamp() * 1000), None if before is None else store.read(before)
    )
    clock.note("compute")
    note = store.publish(table, "" if before is None or older is None else older).note
    clock.note("file")
    say(f"{len(table.keys):,} entities, {note.bytes:,} bytes: {note.id}")
    store_version(
        connection,
        note.id,
        as_of,
        transactions=len(stored.rows.ts_ms),
        entities=len(table.keys),
        file_bytes=note.bytes,
        rows=_csv(note.id, table, stored.names),
    )
    forgotten = forget_versions(connection, as_of - timedelta(days=FILE_DAYS))
    for version in forgotten:
        store.delete(version)
    clock.note("postgres")
    refusal = _load(client, note, table)
    if refusal:
        say(f"Not in Redis: {refusal} Workers read the file.")
    clock.note("redis")
    if as_of > now - timedelta(days=DAILY_KEPT_MAX):
        announce(bus, "profiles", {"profiles": note.id})
    clock.note("log")
    return PublishedDay(
        note,
        table,
        stored.names,
        len(stored.rows.ts_ms),
        int(stored.rows.fraud.sum()),
        refusal,
        len(forgotten),
        clock.seconds,
    )


class _Clock:
    """Seconds between notes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last_s = time.perf_counter()

    def note(self, step: str) -> None:
        now_s = time.perf_counter()
        self.seconds[step] = round(now_s - self._last_s, 3)
        self._last_s = now_s


def _load(client: redis.Redis | None, note: DailyNote, table: DailyTable) -> str:
    if client is None:
        return "no Redis."
    try:
        loaded = load_rows(client, note.id, table.keys, table.values)
    except TransientError as error:
        return f"{error}."
    return "" if loaded else f"{len(table.keys):,} rows would take too much of its memory."


def read_days(connection: psycopg.Connection[Any], as_of: datetime, gazetteer: Gazetteer) -> StoredDays:
    """The stored transactions of the longest window before an instant, with what was known of them by then.

    Parameters
    ----------
    gazetteer
        Finds the country of a transaction that names a location only, as the detector does.

    Raises
    ------
    TransientError
        PostgreSQL does not answer now.
    ContractError
        There are more than ``ROWS_MAX``.
    """
    start = as_of - timedelta(days=DAILY_WINDOWS_DAYS[-1])
    parts: list[StoredDays] = []
    total = 0
    with (
        postgres_errors(),
        connection.cursor() as cursor,
        cursor.copy(_STORED, {"as_of": as_of, "start": start}) as copy,
    ):
        for content in _pieces(copy):
            part = _read_part(content, gazetteer)
            total += len(part.rows.ts_ms)
            if total > ROWS_MAX:
                raise ContractError(
                    f"daily profiles: expected at most {ROWS_MAX:,} transactions in {DAILY_WINDOWS_DAYS[-1]} days, got "
                    "more: keep fewer accounts in one installation"
                )
            parts.append(part)
    return _join(parts)


def _pieces(copy: psycopg.Copy) -> Iterator[bytes]:
    """What COPY gives, a row at a time, in larger pieces."""
    rows: list[bytes] = []
    size = 0
    for row in copy:
        rows.append(bytes(row))
        size += len(row)
        if size >= CHUNK_BYTES:
            yield b"".join(rows)
            rows, size = [], 0
    if rows:
        yield b"".join(rows)


def _read_part(content: bytes, gazetteer: Gazetteer) -> StoredDays:
    frame = pl.read_csv(io.BytesIO(content), has_header=False, schema=_COLUMNS).with_columns(
        pl.col(pl.String).fill_null("")
    )
    account = frame["account"].to_list()
    account_key = text_keys(account)
    own: dict[str, npt.NDArray[np.uint64]] = {"user": user_keys(account, frame["user"].to_list())[:, 0]}
    for entity in ("merchant", "device", "ip"):
        texts = frame[entity]
        own[entity] = np.where((texts == "").to_numpy(), np.uint64(0), text_keys(texts.to_list()))
    country = _countries(frame, gazetteer)
    own["country"] = COUNTRY_KEYS[country]
    frame = frame.with_columns(pl.Series("country", np.array([*COUNTRIES, ""])[country], dtype=pl.String))
    keys = {entity: entity_keys(entity, account_key, own[entity]) for entity in ENTITIES}
    fraud = frame["fraud"].to_numpy() == 1
    units = frame["amount"].fill_null(NO_AMOUNT).to_numpy()
    counted = (units >= 0) & ~fraud
    amount = np.where(counted, np.rint(np.where(counted, units, 0.0) * 100), NO_AMOUNT).astype(np.int64)
    return StoredDays(
        DailyRows(frame["ts_ms"].to_numpy(), amount, fraud, keys),
        pl.concat(_names(frame, entity, keys[entity]) for entity in ENTITIES),
    )


def _countries(frame: pl.DataFrame, gazetteer: Gazetteer) -> npt.NDArray[np.int64]:
    """Index into ``COUNTRIES`` of each row, -1 where there is none: what the decoder finds."""
    places = frame.select(_PLACE).unique()
    found = []
    for code, location, currency in places.rows():
        country = COUNTRY_INDEX.get(code, -1)
        if country < 0 and location:
            place = gazetteer.lookup(location, None, currency)
            country = int(gazetteer.country[place]) if place >= 0 else -1
        found.append(country)
    places = places.with_columns(pl.Series("found", found, dtype=pl.Int64))
    joined = frame.select(_PLACE).join(places, on=_PLACE, how="left", maintain_order="left")
    return joined["found"].to_numpy()


def _names(frame: pl.DataFrame, entity: str, key: npt.NDArray[np.uint64]) -> pl.DataFrame:
    distinct, row = np.unique(key, return_index=True)
    row = row[distinct != 0]
    return pl.DataFrame({"key": key[row], "account": frame["account"][row], "id": frame[entity][row]})


def _join(parts: list[StoredDays]) -> StoredDays:
    if not parts:
        nothing = np.empty(0, np.int64)
        keys = {entity: np.empty(0, np.uint64) for entity in ENTITIES}
        names = pl.DataFrame(schema={"key": pl.UInt64, "account": pl.String, "id": pl.String})
        return StoredDays(DailyRows(nothing, nothing, np.empty(0, np.bool_), keys), names)
    rows = [part.rows for part in parts]
    return StoredDays(
        DailyRows(
            np.concatenate([row.ts_ms for row in rows]),
            np.concatenate([row.amount_minor for row in rows]),
            np.concatenate([row.fraud for row in rows]),
            {entity: np.concatenate([row.keys[entity] for row in rows]) for entity in ENTITIES},
        ),
        pl.concat([part.names for part in parts]).unique("key", keep="any").sort("key"),
    )


def _csv(version: str, table: DailyTable, names: pl.DataFrame) -> Iterator[bytes]:
    """Rows for PostgreSQL."""
    # Both have each key once, ascending.
    for first in range(0, len(table.keys), CSV_ROWS):
        part = slice(first, first + CSV_ROWS)
        columns: dict[str, Any] = {
            "entity": np.array(ENTITIES)[table.entity[part]],
            "account": names["account"][part],
            "id": names["id"][part],
            "first_seen": pl.Series(table.first_ms[part]).cast(pl.Datetime("ms", "UTC")),
        }
        for i, name in enumerate(DAILY_MEASURES):
            if name in ROW_MEASURES:
                columns[name] = table.values[part, i]
        yield (
            pl.DataFrame(columns)
            .select(
                pl.lit(version).alias("version"),
                "account",
                "entity",
                "id",
                pl.col("first_seen").dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"),
                *(pl.col(name).fill_nan(None) for name in ROW_MEASURES),
            )
            .write_csv(include_header=False, quote_style="non_numeric")
            .encode()
        )


def load_profiles_of(
    connection: psycopg.Connection[Any], store: DailyStore, first_ms: int, end_ms: int
) -> Profiles:
    """The profiles of days that transactions in ``[first_ms, end_ms)`` are judged by, for a replay of them.

    Rows are read when they are first looked at, and few versions are open at a time. A version whose file is gone
    leaves its day to the one before.
    """
    first, end = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (first_ms, end_ms))

    @lru_cache(maxsize=OPEN_MAX)
    def open_rows(note: DailyNote) -> TableRows:
        return store.open_rows(note)

    notes = [store.find(version) for version in list_versions(connection, first, end)]
    return Profiles(
        DailySnapshot(note, lambda note=note: open_rows(note), keep=False)  # type: ignore[misc]
        for note in notes
        if note is not None
    )
