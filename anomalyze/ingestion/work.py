"""Working an upload off: unpack, parse, order, publish, and wait until all of it is judged.

It may end anywhere and be begun again: rows have one order for good, how many were published is noted after each
flush, and what a crash between the two publishes twice is known to the detector by its identity.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg

from anomalyze.bus.contract import Bus
from anomalyze.bus.topics import TRANSACTIONS
from anomalyze.detection.bundle_store import BundleStore
from anomalyze.errors import AnomalyzeError, ConfigError, ContractError, TransientError
from anomalyze.ingestion.container import free_bytes, unpack
from anomalyze.ingestion.lacking import find_lacking
from anomalyze.ingestion.mapping import FileMapping
from anomalyze.ingestion.order import OrderedRows
from anomalyze.ingestion.pace import DETECTOR_GROUP, UNJUDGED_MAX, Pace
from anomalyze.ingestion.parse import parse_file
from anomalyze.ingestion.publish import publish_rows
from anomalyze.ingestion.receive import read_parts, source_of
from anomalyze.log import get
from anomalyze.storage import upload as store
from anomalyze.storage.objects import ObjectStore
from anomalyze.storage.pool import connect, postgres_errors
from anomalyze.storage.upload import Upload

__all__ = ["Progress", "work_off"]

BATCH_ROWS = 5_000
PROGRESS_S = 0.5
LOOK_S = 0.05
FREE_BYTES_MIN = 1_000_000_000
SLOWLY = "publishing, slowly: other transactions come too, and go first"


@dataclass(frozen=True, slots=True)
class Progress:
    """Rows of a file: read, good, refused, on the log, and (at least) judged."""

    read: int = 0
    accepted: int = 0
    refused: int = 0
    published: int = 0
    scored: int = 0


class Work:
    """One upload at work, on one connection.

    Parameters
    ----------
    bus
        Where the rows go.
    folder
        For temporary files: twice the unpacked file.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        upload: Upload,
        bus: Bus,
        unjudged_max: int,
        report: Callable[[Progress], None],
        stop: threading.Event,
    ) -> None:
        self._connection = connection
        self._upload = upload
        self._bus = bus
        self._pace = Pace(bus, unjudged_max)
        self._report = report
        self._stop = stop
        self._said_at = 0.0
        # What was judged stays so; a mapping that changed begins with nothing published.
        self.progress = Progress(
            published=upload.rows_published, scored=min(upload.rows_scored, upload.rows_published)
        )

    def say(self, note: str, *, now: bool = False, total: int | None = None) -> None:
        """Write the progress down, twice a second."""
        if self._stop.is_set():
            raise TransientError("it was asked to stop")
        if not now and time.monotonic() - self._said_at < PROGRESS_S:
            return
        self._said_at = time.monotonic()
        done = self.progress
        store.note_progress(
            self._connection,
            self._upload.upload_id,
            rows_total=total,
            rows_read=done.read,
            rows_accepted=done.accepted,
            rows_refused=done.refused,
            rows_published=done.published,
            rows_scored=done.scored,
            note=note,
        )
        self._report(done)

    def note_lacking(self, objects: ObjectStore, mapping: FileMapping) -> None:
        """Say which rules cannot fire on this file by the bundle in force; no reason to stop when that is unknown."""
        try:
            bundles = BundleStore(objects)
            champion = bundles.pointer("champion")
            if champion is not None:
                lacking = find_lacking(bundles.load(champion), mapping, self._upload.account_id)
                content = {"features": lacking.features, "rules": lacking.rules}
                store.note_lacking(self._connection, self._upload.upload_id, content)
        except AnomalyzeError as error:
            get().warning("lacking_unknown", upload=self._upload.upload_id, reason=str(error))

    def parse(self, path: Path, mapping: FileMapping, ordered: OrderedRows, tolerance_s: int) -> None:
        """Read the whole file: good rows into ``ordered``, bad ones into the table."""
        store.delete_errors(self._connection, self._upload.upload_id)
        kept = 0
        span: tuple[int, int] | None = None
        for chunk in parse_file(path, mapping, source_of(self._upload, tolerance_s)):
            ordered.add(chunk.frame)
            if chunk.frame.height:
                ends = int(chunk.frame["ts"].min()), int(chunk.frame["ts"].max())  # type: ignore[arg-type]
                span = ends if span is None else (min(span[0], ends[0]), max(span[1], ends[1]))
            done = self.progress
            self.progress = replace(
                done,
                read=done.read + chunk.rows,
                accepted=done.accepted + chunk.frame.height,
                refused=done.refused + chunk.rows - chunk.frame.height,
            )
            keep = chunk.errors[: store.ERRORS_MAX - kept]
            kept += len(keep)
            store.insert_errors(
                self._connection,
                self._upload.upload_id,
                [(e.line, e.column, e.reason, e.raw) for e in keep],
            )
            self.say("reading the file")
        if span is not None:
            store.note_span(self._connection, self._upload.upload_id, *span)

    def publish(self, ordered: OrderedRows) -> None:
        """Append the rows in order, from where an attempt before came to."""
        total = self.progress.read
        self.say("publishing", now=True, total=total)
        partitions = self._bus.partitions(TRANSACTIONS)
        producer = self._bus.producer()
        try:
            for batch in ordered.read(self.progress.published, BATCH_ROWS):
                while batch.height:
                    rows = self._pace.await_room(batch.height, self._say_waiting)
                    part, batch = batch.head(rows), batch.slice(rows)
                    publish_rows(producer, partitions, part)
                    self._pace.sent(rows)
                    done = self.progress
                    published = done.published + rows
                    scored = max(done.scored, published - self._pace.unjudged, 0)
                    self.progress = replace(done, published=published, scored=scored)
                    self.say(SLOWLY if self._pace.beside_live else "publishing", total=total)
            self.say("waiting for verdicts", now=True, total=total)
        finally:
            producer.close()

    def await_verdicts(self) -> None:
        """Return when the detector has judged all that stood in the log when publishing ended."""
        total = self.progress.read
        ends = {p: end for p, (_, end) in self._bus.watermarks(TRANSACTIONS).items()}
        moved_at, before = time.monotonic(), -1
        while True:
            found = self._bus.committed(TRANSACTIONS, DETECTOR_GROUP)
            waiting = sum(max(0, end - found.get(p, 0)) for p, end in ends.items() if end)
            scored = max(self.progress.scored, self.progress.published - waiting)
            self.progress = replace(self.progress, scored=scored)
            if waiting == 0:
                return
            if waiting != before:
                moved_at, before = time.monotonic(), waiting
            self._pace.give_up_after(moved_at)
            self.say("waiting for verdicts", total=total)
            time.sleep(LOOK_S)

    def _say_waiting(self) -> None:
        scored = max(self.progress.scored, self.progress.published - self._pace.unjudged)
        self.progress = replace(self.progress, scored=scored)
        self.say("publishing: the detector has work waiting", total=self.progress.read)


def work_off(
    upload_id: str,
    *,
    dsn: str,
    objects: ObjectStore,
    bus: Bus,
    future_tolerance_s: int,
    folder: Path | None = None,
    run_id: str | None = None,
    unjudged_max: int = UNJUDGED_MAX,
    report: Callable[[Progress], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> Progress | None:
    """Work an upload off; None when it is not to be, or somebody else is at it.

    Parameters
    ----------
    folder
        For temporary files, about twice the unpacked file; the system's when None.
    unjudged_max
        Rows that may wait for the detector at once, of everybody's.
    report
        Told the progress twice a second.
    stop
        When set, it ends with ``TransientError`` and can be begun again.

    Raises
    ------
    ConfigError, ContractError
        The file cannot be read so: the upload has failed, and says why.
    TransientError
        Something does not answer now: the upload is to be begun again, and goes on where it stopped.
    """
    with connect(dsn, program="anomalyze-ingestion") as connection, postgres_errors():
        upload = store.claim_upload(connection, upload_id, run_id)
        if upload is None:
            return None
        work = Work(connection, upload, bus, unjudged_max, report, stop or threading.Event())
        try:
            _work_off(work, upload, objects, folder, future_tolerance_s)
        except (ConfigError, ContractError) as error:
            store.fail_upload(connection, upload_id, str(error))
            raise
        except TransientError as error:
            store.fail_upload(connection, upload_id, str(error), try_again=True)
            raise
        except AnomalyzeError as error:
            store.fail_upload(connection, upload_id, str(error))
            raise
        work.say("", now=True, total=work.progress.read)
        store.finish_upload(connection, upload_id)
        get().info("upload_done", upload=upload_id, accepted=work.progress.accepted)
        return work.progress


def _work_off(
    work: Work, upload: Upload, objects: ObjectStore, folder: Path | None, future_tolerance_s: int
) -> None:
    mapping = FileMapping.model_validate(upload.mapping)
    with tempfile.TemporaryDirectory(prefix="anomalyze-upload-", dir=folder) as name:
        room = free_bytes(Path(name))
        if room < FREE_BYTES_MIN + 4 * upload.bytes:
            raise TransientError(
                f"{room / 1e6:.0f} MB of disk are free, {(FREE_BYTES_MIN + 4 * upload.bytes) / 1e6:.0f} MB are needed",
                retry_after_s=60.0,
            )

        def parts() -> Any:
            for part in read_parts(objects, upload):
                work.say("fetching the file")
                yield part

        work.note_lacking(objects, mapping)
        path = unpack(parts(), Path(name))
        ordered = OrderedRows(Path(name))
        work.parse(path, mapping, ordered, future_tolerance_s)
        path.unlink()
        work.publish(ordered)
        work.await_verdicts()
