"""Works uploads off as a run of Dagster does, by the same function, slowly: one is in progress for the whole run.

``python -m tests.simulation.uploader --pause S`` for ever; killed and started again like every other program.
"""

from __future__ import annotations

import argparse
import contextlib
import time

import psycopg

from anomalyze.bus import open_bus
from anomalyze.embedded.runtime import find_addresses
from anomalyze.errors import AnomalyzeError
from anomalyze.ingestion import work
from anomalyze.settings import Settings
from anomalyze.storage.objects import open_objects
from anomalyze.storage.pool import connect

IDLE_S = 0.3
BATCH_ROWS = 10


def main() -> None:
    """Until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between two batches of ten rows")
    pause_s = parser.parse_args().pause
    settings = Settings()
    dsn = find_addresses(settings).postgres_dsn
    work.BATCH_ROWS, work.PROGRESS_S = BATCH_ROWS, 0.0
    while True:
        with contextlib.suppress(AnomalyzeError, psycopg.Error, OSError):
            with connect(dsn) as connection:
                waiting = connection.execute(
                    "SELECT upload_id FROM uploads WHERE state IN ('started', 'running') ORDER BY created_at"
                ).fetchall()
            for (upload_id,) in waiting:
                bus = open_bus(settings, postgres_dsn=dsn)
                try:
                    work.work_off(
                        upload_id,
                        dsn=dsn,
                        objects=open_objects(settings.object_store),
                        bus=bus,
                        future_tolerance_s=settings.future_tolerance_s,
                        report=lambda _: time.sleep(pause_s),
                    )
                finally:
                    bus.close()
        time.sleep(IDLE_S)


if __name__ == "__main__":
    main()
