"""Reading the embedded log as a member of a group.

A member lives as long as its session in PostgreSQL. It owns a partition by holding a session advisory lock, which
PostgreSQL frees when the session ends, however it ends. Members are numbered as they join; with P partitions and
M members each owns P // M, the first P % M one more. Who owns too many gives up (telling ``revoked`` first), who
owns too few takes what is free. A member that beats no more (a stopped process) has its session ended by another.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import psycopg
import structlog

from anomalyze.bus.contract import Rebalance, Records
from anomalyze.bus.embedded_reader import POLL_S, Fetched, Fetcher
from anomalyze.bus.embedded_session import (
    AWAY,
    CHANNEL,
    RECONNECT_S_MAX,
    RECONNECT_S_MIN,
    Signals,
    connect,
    quiet_close,
)
from anomalyze.errors import TransientError

__all__ = ["EmbeddedConsumer"]

log = structlog.get_logger(__name__)

HEARTBEAT_S = 3.0
# A member whose program has not polled for so long is stuck: it beats no more.
POLL_INTERVAL_S_MAX = 300.0
# First key of the partitions' advisory locks is this plus the group's id.
LOCK_CLASS = 0x42550000


class EmbeddedConsumer:
    """See ``contract.Consumer``."""

    def __init__(
        self,
        dsn: str,
        signals: Signals,
        topic: str,
        topic_id: int,
        partitions: int,
        group: str,
        rebalance: Rebalance,
        session_timeout_s: float,
    ) -> None:
        self._dsn = dsn
        self._signals = signals
        self._fetcher = Fetcher(topic, topic_id)
        self._partitions = partitions
        self._group = group
        self._rebalance = rebalance
        self._session_timeout_s = session_timeout_s
        self._names: tuple[str, ...] = (str(topic_id),)
        self._group_id = 0
        self._member_id = 0
        self._owned: set[int] = set()
        self._paused: set[int] = set()
        self._ends: dict[int, int] = {}
        self._session: psycopg.Connection[Any] | None = None
        self._looked = 0.0
        self._group_signals = -1
        self._reconnect_at = 0.0
        self._reconnect_pause_s = RECONNECT_S_MIN
        self._polled = time.monotonic()
        self._closed = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="bus-heartbeat", daemon=True)
        self._heart.start()

    def poll(self, records_max: int, timeout_s: float) -> Records:
        """Up to ``records_max`` records; waits up to ``timeout_s`` for the first one only."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._polled = time.monotonic()
            seen = self._signals.count(self._names)
            try:
                self._look_after_group()
                records = self._take(records_max)
            except AWAY as error:
                self._lose(str(error))
                records = Records(self._fetcher.topic, [], [], [], [], [])
            left_s = deadline - time.monotonic()
            if records or left_s <= 0:
                return records
            self._signals.wait(self._names, seen, min(left_s, POLL_S))

    def pause(self, partitions: Sequence[int]) -> None:
        """Deliver nothing of these until ``resume``; membership stays."""
        self._paused |= set(partitions)

    def resume(self, partitions: Sequence[int]) -> None:
        """Undo ``pause``."""
        self._paused -= set(partitions)

    def seek(self, partition: int, offset: int) -> None:
        """Deliver from this offset on."""
        if partition not in self._owned:
            raise TransientError(
                f"partition {partition} of {self._fetcher.topic} is not owned by this consumer now"
            )
        self._fetcher.partitions[partition] = Fetched(offset)

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        """Note the next offset to read for each partition (shows lag; the truth is in the outputs)."""
        owned = {p: o for p, o in next_offsets.items() if p in self._owned}
        if not owned or self._session is None:
            return
        try:
            # By the session that holds the locks: where it is gone, nothing is noted any more.
            self._session.execute(
                "INSERT INTO bus.committed SELECT %s, * FROM unnest(%s::integer[], %s::bigint[]) "
                "ON CONFLICT (group_id, partition) DO UPDATE SET next_offset = EXCLUDED.next_offset",
                (self._group_id, list(owned), list(owned.values())),
            )
        except AWAY as error:
            # The next poll meets the same broken session and tells that the partitions are lost.
            log.warning("commit_failed", topic=self._fetcher.topic, error=str(error))

    def assignment(self) -> frozenset[int]:
        """Partitions owned now."""
        return frozenset(self._owned)

    def lag(self) -> Mapping[int, int]:
        """Records behind the newest one, by owned partition; from watermarks of the last look at the group."""
        positions = self._fetcher.partitions
        return {p: max(0, self._ends[p] - positions[p].position) for p in self._owned if p in self._ends}

    def close(self) -> None:
        """Leave the group (after ``revoked``)."""
        try:
            if self._owned:
                self._rebalance.revoked(sorted(self._owned))
        finally:
            self._owned.clear()
            self._closed.set()
            with contextlib.suppress(*AWAY):
                if self._session is not None:
                    self._session.execute("SELECT pg_advisory_unlock_all()")
                    self._session.execute("DELETE FROM bus.member WHERE member_id = %s", [self._member_id])
                    self._signal_group()
            quiet_close(self._session)
            self._session = None
            self._heart.join(HEARTBEAT_S)

    def _take(self, records_max: int) -> Records:
        wanted = self._owned - self._paused
        records = self._fetcher.take(records_max, wanted)
        if not records and wanted and self._session is not None:
            self._fetcher.fetch(self._session, sorted(wanted))
            records = self._fetcher.take(records_max, wanted)
        return records

    def _look_after_group(self) -> None:
        """Join when outside; every 250 ms, or on a signal, give up or take partitions."""
        now = time.monotonic()
        if self._session is None:
            if now < self._reconnect_at:
                return
            self._join()
        signals = self._signals.count(self._names[1:])
        if now - self._looked < POLL_S and signals == self._group_signals:
            return
        assert self._session is not None
        self._group_signals = signals
        quota = self._quota(self._session)
        if len(self._owned) > quota:
            self._give_up(sorted(self._owned)[quota:])
        elif len(self._owned) < quota:
            self._take_free(quota - len(self._owned))
        cursor = self._session.execute(
            "SELECT partition, next_offset FROM bus.head WHERE topic_id = %s", [self._fetcher.topic_id]
        )
        self._ends = dict(cursor.fetchall())
        self._looked = time.monotonic()

    def _join(self) -> None:
        self._session = session = connect(self._dsn, f"consumer {self._group}")
        group = (self._fetcher.topic_id, self._group)
        session.execute(
            "INSERT INTO bus.consumer_group (topic_id, name) VALUES (%s, %s) ON CONFLICT DO NOTHING", group
        )
        found = session.execute(
            "SELECT group_id FROM bus.consumer_group WHERE topic_id = %s AND name = %s", group
        ).fetchone()
        assert found is not None
        self._group_id = int(found[0])
        member = session.execute(
            "INSERT INTO bus.member (group_id, session_started) "
            "SELECT %s, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid() RETURNING member_id",
            [self._group_id],
        ).fetchone()
        assert member is not None
        self._member_id = int(member[0])
        self._names = (self._names[0], f"group {self._group_id}")
        self._looked = 0.0
        self._reconnect_pause_s = RECONNECT_S_MIN
        self._signal_group()

    def _quota(self, session: psycopg.Connection[Any]) -> int:
        """How many partitions are ours, by the members that live; removes those that do not."""
        members = session.execute(
            "SELECT m.member_id, m.pid, a.pid IS NOT NULL, "
            "m.heartbeat < clock_timestamp() - make_interval(secs => %s) "
            "FROM bus.member AS m LEFT JOIN pg_stat_activity AS a "
            "ON a.pid = m.pid AND a.backend_start = m.session_started "
            "WHERE m.group_id = %s ORDER BY m.member_id",
            (self._session_timeout_s, self._group_id),
        ).fetchall()
        alive = []
        for member_id, pid, connected, silent in members:
            if not connected:
                session.execute("DELETE FROM bus.member WHERE member_id = %s", [member_id])
                continue
            if silent and member_id != self._member_id:
                log.warning("member_silent", group=self._group, member=member_id)
                session.execute("SELECT pg_terminate_backend(%s)", [pid])
            alive.append(member_id)
        if self._member_id not in alive:
            raise psycopg.OperationalError("another member has ended this membership")
        base, more = divmod(self._partitions, len(alive))
        return base + (1 if alive.index(self._member_id) < more else 0)

    def _give_up(self, partitions: list[int]) -> None:
        assert self._session is not None
        self._rebalance.revoked(partitions)
        self._forget(partitions)
        self._session.execute(
            "SELECT pg_advisory_unlock(%s, p) FROM unnest(%s::integer[]) AS p",
            (LOCK_CLASS + self._group_id, partitions),
        )
        self._signal_group()

    def _take_free(self, count: int) -> None:
        assert self._session is not None
        others = [p for p in range(self._partitions) if p not in self._owned]
        taken = self._session.execute(
            "SELECT p FROM unnest(%s::integer[]) AS p WHERE pg_try_advisory_lock(%s, p) LIMIT %s",
            (others, LOCK_CLASS + self._group_id, count),
        ).fetchall()
        partitions = sorted(int(row[0]) for row in taken)
        if not partitions:
            return
        committed = self._session.execute(
            "SELECT partition, next_offset FROM bus.committed WHERE group_id = %s", [self._group_id]
        ).fetchall()
        starts = dict(committed)
        self._fetcher.partitions |= {p: Fetched(starts.get(p, 0)) for p in partitions}
        self._owned |= set(partitions)
        for p, offset in (self._rebalance.assigned(partitions) or {}).items():
            self._fetcher.partitions[p] = Fetched(offset)

    def _lose(self, reason: str) -> None:
        """The session is gone, and with it the locks: others may own the partitions already."""
        log.warning("session_lost", topic=self._fetcher.topic, group=self._group, error=reason)
        quiet_close(self._session)
        self._session = None
        self._reconnect_at = time.monotonic() + self._reconnect_pause_s
        self._reconnect_pause_s = min(2 * self._reconnect_pause_s, RECONNECT_S_MAX)
        lost = sorted(self._owned)
        self._forget(lost)
        if lost:
            self._rebalance.lost(lost)

    def _forget(self, partitions: Iterable[int]) -> None:
        for p in partitions:
            self._owned.discard(p)
            self._paused.discard(p)
            self._ends.pop(p, None)
            self._fetcher.partitions.pop(p, None)

    def _signal_group(self) -> None:
        assert self._session is not None
        self._session.execute("SELECT pg_notify(%s, %s)", (CHANNEL, f"group {self._group_id}"))

    def _beat(self) -> None:
        """Show that this program lives, also while it works for long between two polls."""
        while not self._closed.wait(HEARTBEAT_S):
            session = self._session
            if session is None or time.monotonic() - self._polled > POLL_INTERVAL_S_MAX:
                continue
            with contextlib.suppress(*AWAY):
                session.execute(
                    "UPDATE bus.member SET heartbeat = clock_timestamp() WHERE member_id = %s",
                    [self._member_id],
                )
