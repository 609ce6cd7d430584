"""Stored transactions as records again: what a partition's state is rebuilt from when its log has lost its beginning.

Only the state comes back this way. Verdicts that were given stand; what the rows do not tell (repeats, list entries
that came and went, places of bundle records between two rows) is not rebuilt.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from anomalyze.bus.contract import Records
from anomalyze.bus.topics import TRANSACTIONS
from anomalyze.events.batch import Status
from anomalyze.storage.pool import connect, postgres_errors

__all__ = ["History", "HistorySlice", "StoredHistory"]

HISTORY_DAYS = 30
SLICE_ROWS = 5_000
SLICES_AHEAD = 2
# Between two looks whether PostgreSQL has answered the caller polls its consumer, so that no group evicts it.
LOOK_S = 0.05

# No index leads with the place in the log: this reads the newest 30 days once, for all partitions together.
FROM = (
    "FROM transactions AS t JOIN unnest(%(partitions)s::int[], %(after)s::bigint[], %(before)s::bigint[]) "
    "AS g (p, after, before) ON t.src_partition = g.p AND t.src_offset > g.after AND t.src_offset < g.before "
)
NEWEST = f"SELECT max(t.ts) {FROM}"
ROWS = (
    "SELECT t.src_partition, t.src_offset, t.account_id, t.user_id, t.ts, t.source, t.trace_id, t.bundle, "  # noqa: S608
    "(t.data || jsonb_build_object('status', (%(statuses)s::text[])[t.status + 1]))::text, "
    f"(extract(epoch FROM t.stored_at) * 1000)::bigint {FROM} "
    f"WHERE t.ts >= %(newest)s - interval '{HISTORY_DAYS} days' ORDER BY t.src_partition, t.src_offset"
)
LISTS = (
    "SELECT account_id, list, field, value, (extract(epoch FROM expires_at) * 1000)::bigint FROM list_entries "
    "ORDER BY account_id, list, field, value"
)


@dataclass(frozen=True, slots=True)
class HistorySlice:
    """Some rows in the order of (partition, offset), and the bundle that judged each."""

    records: Records
    bundles: list[str]


class History(Protocol):
    """Where judged transactions are kept for longer than the log keeps them."""

    def read(self, gaps: Mapping[int, tuple[int, int]]) -> Iterator[HistorySlice | None]:
        """Rows between two offsets of each partition (both excluded), of the last 30 days of event time.

        None means "not yet": look again. Raises ``TransientError`` when the rows cannot be read now.
        """
        ...

    def lists(self) -> Sequence[Mapping[str, Any]]:
        """What stands on the accounts' lists, as bodies of control records."""
        ...


class StoredHistory:
    """``History`` in the table ``transactions``, where the sink writes it."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def read(self, gaps: Mapping[int, tuple[int, int]]) -> Iterator[HistorySlice | None]:
        """See ``History``. Times of append are those of storing, which are a little later."""
        slices: queue.Queue[HistorySlice | Exception | None] = queue.Queue(SLICES_AHEAD)
        unwanted = threading.Event()
        threading.Thread(
            target=self._feed, args=(gaps, slices, unwanted), name="history", daemon=True
        ).start()
        try:
            while True:
                try:
                    found = slices.get(timeout=LOOK_S)
                except queue.Empty:
                    yield None
                    continue
                if found is None:
                    return
                if isinstance(found, Exception):
                    raise found
                yield found
        finally:
            unwanted.set()

    def lists(self) -> Sequence[Mapping[str, Any]]:
        """See ``History``."""
        with (
            connect(self._dsn, program="anomalyze-detector") as connection,
            postgres_errors(),
        ):
            rows = connection.execute(LISTS).fetchall()
        names = ("account_id", "list", "field", "value", "expires_ms")
        return [{"op": "add", **dict(zip(names, row, strict=True))} for row in rows]

    def _feed(
        self,
        gaps: Mapping[int, tuple[int, int]],
        slices: queue.Queue[HistorySlice | Exception | None],
        unwanted: threading.Event,
    ) -> None:
        """Read on a thread, as far ahead as there is room."""

        def hand_over(item: HistorySlice | Exception | None) -> None:
            while not unwanted.is_set():
                with contextlib.suppress(queue.Full):
                    slices.put(item, timeout=LOOK_S)
                    return

        try:
            for part in self._select(gaps):
                hand_over(part)
                if unwanted.is_set():
                    return
            hand_over(None)
        except Exception as error:  # noqa: BLE001 - the thread's top: the reader raises it
            hand_over(error)

    def _select(self, gaps: Mapping[int, tuple[int, int]]) -> Iterator[HistorySlice]:
        parameters: dict[str, Any] = {
            "partitions": list(gaps),
            "after": [after for after, _ in gaps.values()],
            "before": [before for _, before in gaps.values()],
            "statuses": [status.name.lower() for status in Status],
        }
        with (
            postgres_errors(),
            connect(self._dsn, program="anomalyze-detector", statement_timeout_s=0) as connection,
        ):
            # Slices are asked for as fast as they are judged, beside live traffic.
            connection.execute("SET idle_in_transaction_session_timeout = 0")
            newest = connection.execute(NEWEST, parameters).fetchone()
            if newest is None or newest[0] is None:
                return
            with connection.transaction(), connection.cursor("history") as cursor:
                cursor.execute(ROWS, {**parameters, "newest": newest[0]})
                while rows := cursor.fetchmany(SLICE_ROWS):
                    yield as_slice(rows)


def as_slice(rows: Sequence[tuple[Any, ...]]) -> HistorySlice:
    """Rows of ``ROWS`` as records of `transactions`."""
    records = Records(TRANSACTIONS, [], [], [], [], [])
    bundles = []
    for partition, offset, account_id, user_id, ts, source, trace_id, bundle, data, stored_ms in rows:
        meta = {"timestamp": ts.isoformat(), "source": source, "user_id": user_id, "account_id": account_id}
        if trace_id is not None:
            meta["trace_id"] = trace_id
        records.partitions.append(partition)
        records.offsets.append(offset)
        records.append_ms.append(stored_ms)
        records.keys.append(user_id.encode())
        records.values.append(b'{"meta":%b,"data":%b}' % (msgspec.json.encode(meta), data.encode()))
        bundles.append(bundle)
    return HistorySlice(records, bundles)
