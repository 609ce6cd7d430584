"""What a polled table holds behind its position, onto the log: in batches, until nothing is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psycopg

from anomalyze.bus.contract import Bus
from anomalyze.bus.topics import TRANSACTIONS
from anomalyze.errors import ConfigError, TransientError
from anomalyze.ingestion.pace import Pace
from anomalyze.ingestion.poll import PolledTable, look_at_source, open_table, raw_of, tell_failure, text_of
from anomalyze.ingestion.publish import publish_rows
from anomalyze.ingestion.records import Source, build_records
from anomalyze.ingestion.source import SourceFile, load_sources
from anomalyze.storage import source as store
from anomalyze.storage.pool import connect, postgres_errors
from anomalyze.storage.source import SourceState

__all__ = ["Drained", "poll_source"]


@dataclass(frozen=True, slots=True)
class Drained:
    """Rows of one run: read, put on the log, refused."""

    read: int = 0
    published: int = 0
    refused: int = 0


def poll_source(
    name: str,
    *,
    dsn: str,
    config_dir: Path,
    bus: Bus,
    future_tolerance_s: int,
    run_id: str | None = None,
    report: Callable[[Drained], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> Drained | None:
    """Put what a source has behind its position onto the log; None when it is no source, or somebody is at it.

    Parameters
    ----------
    report
        Told after each batch.
    stop
        When set, it ends after the batch at hand.

    Raises
    ------
    ConfigError, TransientError
        It cannot be read (now): noted, told by an alarm, and tried again later.
    """
    with connect(dsn, program="anomalyze-ingestion") as connection, postgres_errors():
        source = load_sources(config_dir).get(name)
        if source is None:
            return None
        state = store.claim_source(connection, name)
        if state is None:
            return None
        try:
            with open_table(source) as table:
                drain = _Drain(connection, source, table, bus, future_tolerance_s * 1000, run_id)
                return drain.run(name, report, stop or threading.Event())
        except (ConfigError, TransientError) as error:
            tell_failure(connection, name, source.account, error)
            raise


class _Drain:
    """One run over one table."""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        source: SourceFile,
        table: PolledTable,
        bus: Bus,
        tolerance_ms: int,
        run_id: str | None,
    ) -> None:
        self._connection = connection
        self._source = source
        self._table = table
        self._bus = bus
        self._tolerance_ms = tolerance_ms
        self._run_id = run_id

    def run(self, name: str, report: Callable[[Drained], None], stop: threading.Event) -> Drained:
        """Batch after batch; each is noted once the log has it."""
        done = Drained()
        state, more = look_at_source(self._connection, name, self._source, self._table)
        partitions, pace = self._bus.partitions(TRANSACTIONS), Pace(self._bus)
        producer = self._bus.producer()
        try:
            while more and not stop.is_set() and state.safe is not None:
                rows = self._table.read(state.position, state.safe, self._source.batch_rows)
                if not rows:
                    state, more = look_at_source(self._connection, name, self._source, self._table)
                    continue
                good, refused = self._convert(rows)
                while good.height:
                    part = good.head(pace.await_room(good.height, lambda: None))
                    publish_rows(producer, partitions, part)
                    pace.sent(part.height)
                    good = good.slice(part.height)
                state = self._note(state, rows, refused)
                done = Drained(
                    done.read + len(rows),
                    done.published + len(rows) - len(refused),
                    done.refused + len(refused),
                )
                report(done)
        finally:
            producer.close()
        return done

    def _convert(self, rows: list[tuple[Any, ...]]) -> tuple[pl.DataFrame, list[tuple[str, str, str]]]:
        """The rows as records in their order, and those that are none."""
        mapping = self._source.mapping
        wanted = dict.fromkeys(mapping.fields.values())
        frame = pl.DataFrame(
            {
                column: [text_of(row[at]) for row in rows]
                for at, column in enumerate(self._table.columns)
                if column in wanted
            },
            schema=dict.fromkeys((c for c in self._table.columns if c in wanted), pl.String),
        )
        # Rows come as they are now: what was refused by the clock is not read again.
        source = Source(self._source.account, "", int(time.time() * 1000), self._tolerance_ms, "POLL")
        made = build_records(frame, np.arange(len(rows), dtype=np.int64), mapping, source)
        refused = [
            (one.column, one.reason, raw_of(self._table.columns, rows[one.index])) for one in made.refused
        ]
        return made.frame, refused

    def _note(
        self, state: SourceState, rows: list[tuple[Any, ...]], refused: list[tuple[str, str, str]]
    ) -> SourceState:
        position = self._table.position_of(rows[-1])
        store.move_on(
            self._connection,
            state,
            position,
            read=len(rows),
            published=len(rows) - len(refused),
            refused=refused,
            run_id=self._run_id,
        )
        return replace(state, position=position)
