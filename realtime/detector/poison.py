"""Records that kill the process natively: found by an attempt file, then kept on a durable skip list.

Before a micro-batch is judged, its span of offsets goes into a small file of this worker; afterwards the file
says idle. A worker that starts and finds a span there knows that its predecessor died inside it. At the
third death within overlapping spans, records of that partition are judged singly up to the span's end; a record
that is then three times the last one seen goes onto the skip list in the object store, which every
worker and every replay honours. Three times, because a worker can also be killed from outside.
"""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path

from anomalyze.bus.contract import Records
from anomalyze.storage.objects import ObjectStore

__all__ = ["AttemptFile", "SkipList"]

DEATHS_MAX = 3
FILE_BYTES = 8192
SPANS_MAX = 64


class AttemptFile:
    """What this worker is judging right now, readable after its death. Written without fsync: it
    must outlive the process, not the machine."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._file, FILE_BYTES)
        self._map = mmap.mmap(self._file, FILE_BYTES)

    def left_behind(self) -> dict[int, tuple[int, int]]:
        """Spans (first, last offset) by partition inside which the predecessor died."""
        text = self._map[:].split(b"\0", 1)[0]
        try:
            return {int(p): (first, last) for p, (first, last) in json.loads(text).items()} if text else {}
        except (ValueError, TypeError):
            return {}  # it died while writing the file, not while judging

    def begin(self, records: Records) -> None:
        """Note what is about to be judged."""
        spans = {p: (records.offsets[first], records.offsets[end - 1]) for p, first, end in records.runs()}
        text = json.dumps(dict(list(spans.items())[:SPANS_MAX])).encode()
        self._map[: len(text) + 1] = text + b"\0"

    def idle(self) -> None:
        """Nothing is being judged."""
        self._map[0] = 0

    def close(self) -> None:
        """Close; the file stays."""
        self._map.close()
        os.close(self._file)


class SkipList:
    """Deaths and skipped offsets of one log, durable in the object store."""

    def __init__(self, objects: ObjectStore, log_id: str) -> None:
        self._objects = objects
        self._folder = f"poison/{log_id}/"

    def note_deaths(self, spans: dict[int, tuple[int, int]]) -> None:
        """Count one death for each span; move a record that died alone three times onto the skip list."""
        for partition, (first, last) in spans.items():
            deaths = [d for d in self._deaths(partition) if d["first"] <= last and d["last"] >= first]
            deaths.append({"first": first, "last": last})
            alone = [d for d in deaths if d["first"] == d["last"] == first]
            if first == last and len(alone) >= DEATHS_MAX:
                self._objects.put(f"{self._folder}{partition:04d}/skip/{first:020d}", b"", if_absent=True)
                deaths = []
            self._objects.put(f"{self._folder}{partition:04d}/deaths", json.dumps(deaths).encode())

    def skipped(self, partition: int) -> set[int]:
        """Offsets that must not be judged."""
        return {int(p.rsplit("/", 1)[1]) for p in self._objects.list(f"{self._folder}{partition:04d}/skip")}

    def singly_until(self, partition: int) -> int:
        """Judge one record at a time up to this offset; -1 when there is no suspicion."""
        deaths = self._deaths(partition)
        return max(int(d["last"]) for d in deaths) if len(deaths) >= DEATHS_MAX else -1

    def _deaths(self, partition: int) -> list[dict[str, int]]:
        data = self._objects.get(f"{self._folder}{partition:04d}/deaths")
        deaths: list[dict[str, int]] = json.loads(data) if data else []
        return deaths
