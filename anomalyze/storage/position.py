"""How far each consumer has come: written in the transaction that stores what it read.

A position is the highest ``src`` offset stored of a partition of `transactions`, and the next offset to read of
the topic consumed. Nobody but the owner of a partition writes it; its row is locked while a batch is stored, so
that of two owners (one of them paused and woken too late) the second sees what the first has stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from anomalyze.storage.pool import postgres_errors

__all__ = ["Position", "advancing", "load_positions", "lock_positions", "store_positions"]


@dataclass(frozen=True, slots=True)
class Position:
    """Of one partition: highest ``src`` offset stored (-1: none) and next offset to read."""

    src_offset: int
    next_offset: int


def load_positions(
    connection: psycopg.Connection[Any], consumer: str, log_id: str, topic: str
) -> dict[int, Position]:
    """Where a consumer goes on reading, by partition; missing ones begin at the topic's beginning."""
    rows = connection.execute(
        "SELECT partition, src_offset, next_offset FROM positions "
        "WHERE consumer = %s AND log_id = %s AND topic = %s ORDER BY partition",
        [consumer, log_id, topic],
    )
    return {partition: Position(src_offset, next_offset) for partition, src_offset, next_offset in rows}


def lock_positions(
    connection: psycopg.Connection[Any], consumer: str, log_id: str, topic: str, partitions: Iterable[int]
) -> dict[int, Position]:
    """The positions of these partitions, locked until the transaction ends; made when missing."""
    wanted = sorted(partitions)
    identity = {"consumer": consumer, "log": log_id, "topic": topic, "partitions": wanted}
    select = (
        "SELECT partition, src_offset, next_offset FROM positions WHERE consumer = %(consumer)s "
        "AND log_id = %(log)s AND topic = %(topic)s AND partition = ANY(%(partitions)s) "
        "ORDER BY partition FOR UPDATE"
    )
    rows = connection.execute(select, identity).fetchall()
    if len(rows) < len(wanted):
        connection.execute(
            "INSERT INTO positions (consumer, log_id, topic, partition, src_offset, next_offset) "
            "SELECT %(consumer)s, %(log)s, %(topic)s, p, -1, 0 FROM unnest(%(partitions)s::int[]) p ORDER BY p "
            "ON CONFLICT DO NOTHING",
            identity,
        )
        rows = connection.execute(select, identity).fetchall()
    return {partition: Position(src_offset, next_offset) for partition, src_offset, next_offset in rows}


def store_positions(
    connection: psycopg.Connection[Any],
    consumer: str,
    log_id: str,
    topic: str,
    positions: Mapping[int, Position],
) -> None:
    """Note positions that `lock_positions` locked; they never go back."""
    connection.execute(
        "UPDATE positions p SET src_offset = greatest(p.src_offset, v.src_offset), "
        "next_offset = greatest(p.next_offset, v.next_offset) "
        "FROM unnest(%s::int[], %s::bigint[], %s::bigint[]) AS v (partition, src_offset, next_offset) "
        "WHERE p.consumer = %s AND p.log_id = %s AND p.topic = %s AND p.partition = v.partition",
        [
            list(positions),
            [p.src_offset for p in positions.values()],
            [p.next_offset for p in positions.values()],
            consumer,
            log_id,
            topic,
        ],
    )


@contextmanager
def advancing(
    connection: psycopg.Connection[Any],
    consumer: str,
    log_id: str,
    topic: str,
    next_offsets: Mapping[int, int],
) -> Iterator[None]:
    """A transaction to store in what was read of a topic; with it a consumer comes to ``next_offsets``.

    For topics whose records are known by themselves: no ``src`` is reached.

    Raises
    ------
    TransientError
        PostgreSQL does not answer now: nothing was stored, try again.
    """
    with postgres_errors(), connection.transaction():
        positions = lock_positions(connection, consumer, log_id, topic, next_offsets)
        yield
        store_positions(
            connection,
            consumer,
            log_id,
            topic,
            {p: Position(positions[p].src_offset, offset) for p, offset in next_offsets.items()},
        )
