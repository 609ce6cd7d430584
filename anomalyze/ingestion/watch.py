"""Which polled tables have rows for us: a short look at each, which loads nothing that reads rows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psycopg

from anomalyze.config import ConfigProblems
from anomalyze.errors import ConfigError, TransientError
from anomalyze.ingestion.poll import look_at_source, open_table, tell_failure
from anomalyze.ingestion.source import load_sources
from anomalyze.storage import source as store
from anomalyze.storage.alarms import Alarm, raise_alarm
from anomalyze.storage.source import SourceState

__all__ = ["find_ready"]


def find_ready(connection: psycopg.Connection[Any], config_dir: Path) -> list[SourceState]:
    """The sources with rows behind their position; one that cannot be read is noted, and told by an alarm.

    Mistakes in the files are an alarm too: nothing is polled until they are mended.
    """
    try:
        sources = load_sources(config_dir)
    except ConfigProblems as error:
        said = f"No table is polled: {error}"
        raise_alarm(
            connection, Alarm("source", f"source:files:{time.strftime('%Y-%m-%d', time.gmtime())}", said)
        )
        return []
    configured = {name: (s.account, s.identity, s.table_name) for name, s in sources.items()}
    store.sync_sources(connection, configured)
    ready = []
    for due in store.find_due(connection):
        source = sources[due.name]
        try:
            with open_table(source) as table:
                state, has_rows = look_at_source(connection, due.name, source, table)
        except (ConfigError, TransientError) as error:
            tell_failure(connection, due.name, source.account, error)
            continue
        if has_rows:
            ready.append(state)
    return ready
