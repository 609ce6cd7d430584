"""The sink's write path: judged transactions into tables, all of a batch or nothing.

One transaction holds the rows, their anomalies and cases, the users and counters, the status updates, and how
far the topic was read. After a crash the sink reads on from there, and whatever it reads twice has a ``src`` that
was stored already. Counters count what was inserted, never what was there.

Order of the locks, the same in every sink: positions, transactions, anomalies, cases, users, hourly,
rule_hourly, challenger_differences, challenger_hourly, each in the order of its key; the hottest rows come last, so that sinks wait for each other briefly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg

from anomalyze.errors import ContractError
from anomalyze.events.batch import DeadLetter
from anomalyze.storage import statement
from anomalyze.storage.array import BigintArray, TextArray
from anomalyze.storage.challenger import store_challenges
from anomalyze.storage.counters import store_counters
from anomalyze.storage.dead_letters import insert_dead_letters
from anomalyze.storage.partition import PartitionKeeper, ts_max
from anomalyze.storage.pool import postgres_errors
from anomalyze.storage.position import Position, lock_positions, store_positions
from anomalyze.storage.scored import Rejected, ScoredRows

__all__ = ["StoredCounts", "store_scored"]

COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_END = b"\xff\xff"
# Written while PostgreSQL parses the one before.
COPY_CHUNK_ROWS = 128
DAY_US = 86_400_000_000
REASON_UNSTORABLE = "unstorable"
# What PostgreSQL says of a row that it cannot hold: text it has no characters for, numbers beyond its range,
# JSON nested too deep, a key too long for an index, a missing value.
_POISON = (
    psycopg.DataError,
    psycopg.errors.NotNullViolation,
    psycopg.errors.StatementTooComplex,
    psycopg.errors.ProgramLimitExceeded,
)


@dataclass(frozen=True, slots=True)
class StoredCounts:
    """What became of a batch of scored records.

    Attributes
    ----------
    stored, anomalies
        Transactions inserted, and anomalies among them.
    dropped
        Records whose ``src`` had been stored before: another worker's, or this batch again.
    repeated
        Transactions that were there already under another ``src``: their first verdict stays.
    status_updates, status_unmatched
        Updates of a payment's status, and those whose payment is not stored.
    dead_letters
        Records that PostgreSQL cannot hold.
    """

    stored: int = 0
    anomalies: int = 0
    dropped: int = 0
    repeated: int = 0
    status_updates: int = 0
    status_unmatched: int = 0
    dead_letters: int = 0


def store_scored(
    connection: psycopg.Connection[Any],
    rows: ScoredRows,
    *,
    consumer: str,
    log_id: str,
    topic: str,
    next_offsets: Mapping[int, int],
    partitions: PartitionKeeper | None = None,
) -> StoredCounts:
    """Store a batch of scored records and how far their topic was read, in one transaction.

    Parameters
    ----------
    connection
        In autocommit mode, outside a transaction.
    rows
        From `decode_scored`, in the order of each partition of ``topic``.
    consumer, log_id, topic
        Whose position it is.
    next_offsets
        Next offset of ``topic`` to read, for each partition that was read, also without records.
    partitions
        Remembers which table partitions exist; one for each program.

    Raises
    ------
    ContractError
        A gap: a record names a predecessor that was not stored. Something between worker and sink lost
        records; going on would hide it.
    TransientError
        PostgreSQL does not answer now: nothing was stored, try again.
    """
    keeper = partitions or PartitionKeeper()
    rejected = _reject_future(rows)
    target = (consumer, log_id, topic, next_offsets)
    is_partition_made = False
    with postgres_errors():
        while True:
            keeper.ensure(connection, _months(rows, rejected))
            try:
                return _store(connection, rows, rejected, target)
            except _POISON as error:
                found = _find_poison(connection, rows, rejected)
                if not found:
                    raise ContractError(f"a batch of scored records cannot be stored: {error}") from error
                rejected |= found
            except psycopg.errors.CheckViolation:
                # A partition went away since the keeper looked: made again once.
                if is_partition_made:
                    raise
                is_partition_made = True
                keeper.forget()


def _store(
    connection: psycopg.Connection[Any],
    rows: ScoredRows,
    rejected: Mapping[int, Rejected],
    target: tuple[str, str, str, Mapping[int, int]],
) -> StoredCounts:
    consumer, log_id, topic, next_offsets = target
    with connection.transaction():
        # 1 what was stored before, and nobody else may change now
        positions = lock_positions(connection, consumer, log_id, topic, {*rows.partition, *next_offsets})
        reached, fresh = _accept(rows, positions, topic)
        # 2 rows and all that is counted of them
        counts = _apply(connection, rows, [i for i in fresh if i not in rejected])
        # 3 what cannot be stored, where its owner sees it
        letters = [_dead_letter(rejected[i]) for i in fresh if i in rejected]
        insert_dead_letters(connection, log_id, letters)
        # 4 how far we came
        store_positions(
            connection,
            consumer,
            log_id,
            topic,
            {
                p: Position(reached.get(p, -1), next_offsets.get(p, found.next_offset))
                for p, found in positions.items()
            },
        )
    return StoredCounts(**counts, dropped=len(rows) - len(fresh), dead_letters=len(letters))


def _accept(
    rows: ScoredRows, positions: Mapping[int, Position], topic: str
) -> tuple[dict[int, int], list[int]]:
    """The offsets reached, by partition, and the rows above what was stored: of each ``src`` the first one."""
    reached = {partition: position.src_offset for partition, position in positions.items()}
    fresh = []
    for index, (partition, offset, previous) in enumerate(
        zip(rows.partition, rows.offset, rows.previous, strict=True)
    ):
        expected = reached[partition]
        if offset <= expected:
            continue
        if previous > expected >= 0:
            raise ContractError(
                f"gap in {topic}, partition {partition}: the record of src offset {offset} follows {previous}, "
                f"expected {expected}, the last one stored: records between were lost; find out why before "
                "the position is moved by hand"
            )
        reached[partition] = offset
        fresh.append(index)
    return reached, fresh


def _apply(connection: psycopg.Connection[Any], rows: ScoredRows, indices: Sequence[int]) -> dict[str, int]:
    """Write these records to every table they concern, within the caller's transaction."""
    wanted = [i for i in indices if rows.row[i]]
    inserted = _insert_transactions(connection, rows, wanted)
    anomalous = [i for i in inserted if rows.severity[i]]
    if anomalous:
        connection.execute(statement.MAKE_STAGED)
        _copy(connection, statement.COPY_STAGED, rows.row, anomalous)
        connection.execute(statement.INSERT_ANOMALIES)
        connection.execute(statement.UPSERT_CASES)
    updated, unmatched = _update_statuses(connection, rows, indices)
    store_counters(connection, rows, inserted)
    store_challenges(connection, rows, inserted)
    return {
        "stored": len(inserted),
        "anomalies": len(anomalous),
        "repeated": len(wanted) - len(inserted),
        "status_updates": updated,
        "status_unmatched": unmatched,
    }


def _insert_transactions(
    connection: psycopg.Connection[Any], rows: ScoredRows, wanted: Sequence[int]
) -> Sequence[int]:
    """Insert these rows; return those that were not there yet.

    Nearly always all are new, and COPY straight into the table costs a third less than by way of another one.
    """
    if not wanted:
        return wanted
    try:
        with connection.transaction():
            _copy(connection, statement.COPY_TRANSACTIONS, rows.row, wanted)
        return wanted
    except psycopg.errors.UniqueViolation:
        connection.execute(statement.MAKE_STAGED)
        _copy(connection, statement.COPY_STAGED, rows.row, wanted)
        there = set(connection.execute(statement.INSERT_STAGED).fetchall())
        connection.execute(statement.EMPTY_STAGED)
        return [i for i in wanted if (rows.partition[i], rows.offset[i]) not in there]


def _update_statuses(
    connection: psycopg.Connection[Any], rows: ScoredRows, indices: Sequence[int]
) -> tuple[int, int]:
    """Set what the updates among these records say; return how many found their payment, how many did not."""
    wanted = [
        (u.account_id, u.user_id, u.tx_id, u.status, rows.offset[i])
        for i in indices
        if rows.updates and (u := rows.updates.get(i)) is not None
    ]
    if not wanted:
        return 0, 0
    accounts, users, transactions, statuses, offsets = zip(*wanted, strict=True)
    found = connection.execute(
        statement.UPDATE_STATUSES,
        [
            TextArray(accounts),
            TextArray(users),
            TextArray(transactions),
            BigintArray(statuses),
            BigintArray(offsets),
        ],
    ).fetchone()
    assert found is not None
    return found[0], len(wanted) - found[0]


def _copy(
    connection: psycopg.Connection[Any], copy_into: str, row: Sequence[bytes], indices: Sequence[int]
) -> None:
    with connection.cursor() as cursor, cursor.copy(copy_into) as copy:
        copy.write(COPY_HEADER)
        for start in range(0, len(indices), COPY_CHUNK_ROWS):
            copy.write(b"".join([row[i] for i in indices[start : start + COPY_CHUNK_ROWS]]))
        copy.write(COPY_END)


def _find_poison(
    connection: psycopg.Connection[Any], rows: ScoredRows, rejected: Mapping[int, Rejected]
) -> dict[int, Rejected]:
    """Halve the batch, without keeping anything, until each row that PostgreSQL refuses stands alone."""
    found: dict[int, Rejected] = {}
    open_halves = [[i for i in range(len(rows)) if i not in rejected]]
    while open_halves:
        half = open_halves.pop()
        try:
            with connection.transaction(force_rollback=True):
                _apply(connection, rows, half)
        except _POISON as error:
            if len(half) > 1:
                middle = len(half) // 2
                open_halves += [half[middle:], half[:middle]]
                continue
            i = half[0]
            said = " ".join(str(error).split())[:120]
            found[i] = Rejected(
                rows.partition[i],
                rows.offset[i],
                "scored",
                "what PostgreSQL can hold",
                said,
                rows.values[i],
            )
    return found


def _reject_future(rows: ScoredRows) -> dict[int, Rejected]:
    """The decoder's rejects, and events so far ahead that no partition is made for them."""
    limit = ts_max(datetime.now(UTC))
    limit_us = int(limit.timestamp()) * 1_000_000
    rejected = dict(rows.rejected)
    if max(rows.ts_us, default=0) < limit_us:
        return rejected
    for i, ts_us in enumerate(rows.ts_us):
        if ts_us >= limit_us and rows.row[i]:
            rejected[i] = Rejected(
                rows.partition[i],
                rows.offset[i],
                "meta.timestamp",
                f"a time before {limit:%Y-%m-%d}",
                datetime.fromtimestamp(ts_us / 1e6, UTC).isoformat(),
                rows.values[i],
            )
    return rejected


def _months(rows: ScoredRows, rejected: Mapping[int, Rejected]) -> set[datetime]:
    """One moment of each month that has rows to insert."""
    # Days first: there are few of them, and dividing is cheaper than a calendar.
    days = {ts_us // DAY_US for i, ts_us in enumerate(rows.ts_us) if rows.row[i] and i not in rejected}
    return {datetime.fromtimestamp(day * 86_400, UTC).replace(day=1) for day in days}


def _dead_letter(rejected: Rejected) -> DeadLetter:
    return DeadLetter(
        rejected.partition,
        rejected.offset,
        REASON_UNSTORABLE,
        rejected.field,
        rejected.expected,
        rejected.got,
        rejected.value,
    )
