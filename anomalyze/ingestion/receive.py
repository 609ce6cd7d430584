"""A file on its way into the object store: in parts as it comes, so that nobody ever holds it whole.

An upload is the objects ``uploads/<id>/part-00000`` and so on. They are written before the row of `uploads`
names them, and deleted when that row never comes to be.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from anomalyze.errors import AnomalyzeError, ConfigError, ContractError, TransientError
from anomalyze.ingestion.container import unpack
from anomalyze.ingestion.mapping import HEAD_BYTES, FileMapping
from anomalyze.storage import upload as store
from anomalyze.storage.objects import ObjectStore
from anomalyze.storage.pool import AsyncPool
from anomalyze.storage.query import fetch_async
from anomalyze.storage.upload import Upload

# What reads files brings polars with it, 40 MB: programs that only take them import it at the first look.
if TYPE_CHECKING:
    from anomalyze.ingestion.guess import Guess
    from anomalyze.ingestion.records import Source

__all__ = [
    "NAME_CHARACTERS_MAX",
    "PART_BYTES",
    "PREVIEW_ROWS",
    "Received",
    "Taken",
    "TooLarge",
    "delete_parts",
    "guess_upload",
    "preview_upload",
    "read_parts",
    "receive",
    "source_of",
    "take_file",
]

PART_BYTES = 8 * 1024 * 1024
PREVIEW_ROWS = 20
NAME_CHARACTERS_MAX = 200


class TooLarge(AnomalyzeError):
    """A file has more bytes than a setting allows."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        super().__init__(f"a file may have {bytes_max} bytes: compress it, or send it in several files")


@dataclass(frozen=True, slots=True)
class Received:
    """What lies in the object store."""

    sha256: str
    bytes: int
    parts: int


def part_path(upload_id: str, number: int) -> str:
    """Where a part lies."""
    return f"uploads/{upload_id}/part-{number:05d}"


async def receive(
    stream: AsyncIterator[bytes], objects: ObjectStore, upload_id: str, bytes_max: int
) -> Received:
    """Write what a stream brings into the store; it holds one part in memory.

    Whatever ends it early (a limit, a client that went away, a store that does not answer) leaves nothing behind.

    Raises
    ------
    TooLarge
        More than ``bytes_max`` came.
    TransientError
        The store does not take it now.
    """
    digest = hashlib.sha256()
    held, size, parts = bytearray(), 0, 0
    try:
        async for data in stream:
            size += len(data)
            if size > bytes_max:
                raise TooLarge(bytes_max)
            digest.update(data)
            held += data
            while len(held) >= PART_BYTES:
                await asyncio.to_thread(objects.put, part_path(upload_id, parts), bytes(held[:PART_BYTES]))
                del held[:PART_BYTES]
                parts += 1
        if held:
            await asyncio.to_thread(objects.put, part_path(upload_id, parts), bytes(held))
            parts += 1
    except BaseException:
        # Shielded: the request may be cancelled while this runs.
        await asyncio.shield(asyncio.to_thread(delete_parts, objects, upload_id, parts + 1))
        raise
    return Received(digest.hexdigest(), size, parts)


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a file that came: its upload, whether it had come before, and what it seems to be."""

    upload: Upload
    repeated: bool
    guess: Guess | None


async def take_file(
    stream: AsyncIterator[bytes],
    objects: ObjectStore,
    pool: AsyncPool,
    *,
    account_id: str,
    created_by: str,
    name: Callable[[], str],
    bytes_max: int,
) -> Taken:
    """Take a file in: into the store, into the table, and a look at what it is. The same bytes count once.

    Parameters
    ----------
    created_by
        The key that sends it.
    name
        Asked when the stream has ended: a form names its file in passing.

    Raises
    ------
    TooLarge, ConfigError
        More than ``bytes_max``, or no table: nothing of it is kept.
    TransientError
        A store does not answer now: nothing is known to be kept, send it again.
    """
    upload_id = store.new_upload_id()
    received = await receive(stream, objects, upload_id, bytes_max)
    try:
        if received.bytes == 0:
            raise ConfigError("expected a CSV or parquet file, got nothing")
        shown = "".join(c for c in name() if c.isprintable())[:NAME_CHARACTERS_MAX]
        async with pool.connection() as connection:
            upload = await fetch_async(
                connection,
                store.add_upload(
                    upload_id=upload_id,
                    account_id=account_id,
                    name=shown or "upload",
                    sha256=received.sha256,
                    size=received.bytes,
                    parts=received.parts,
                    created_by=created_by,
                ),
            )
    except BaseException:
        await asyncio.shield(asyncio.to_thread(delete_parts, objects, upload_id, received.parts))
        raise
    if upload is None:
        await asyncio.to_thread(delete_parts, objects, upload_id, received.parts)
        async with pool.connection() as connection:
            first = await fetch_async(connection, store.find_upload(account_id, received.sha256))
        if first is None:
            raise TransientError("the first upload of this file was taken back meanwhile")
        return Taken(first, True, None)
    try:
        return Taken(upload, False, await asyncio.to_thread(guess_upload, objects, upload))
    except ConfigError:
        async with pool.connection() as connection:
            await fetch_async(connection, store.delete_upload(upload_id))
        await asyncio.to_thread(delete_parts, objects, upload_id, upload.parts)
        raise


def delete_parts(objects: ObjectStore, upload_id: str, parts: int) -> None:
    """Remove the first ``parts`` parts."""
    for number in range(parts):
        objects.delete(part_path(upload_id, number))


def read_parts(objects: ObjectStore, upload: Upload) -> Iterator[bytes]:
    """A file's bytes as they came.

    Raises
    ------
    ContractError
        The store holds something else than was received.
    """
    digest = hashlib.sha256()
    for number in range(upload.parts):
        data = objects.get(part_path(upload.upload_id, number), bytes_max=PART_BYTES)
        if data is None:
            raise ContractError(
                f"upload {upload.upload_id}: part {number} of {upload.parts} is gone from the object store: "
                "send the file again under another name of its own, changed by a byte"
            )
        digest.update(data)
        yield data
    if digest.hexdigest() != upload.sha256:
        raise ContractError(f"upload {upload.upload_id}: the object store holds other bytes than came")


def source_of(upload: Upload, future_tolerance_s: int) -> Source:
    """How rows of an upload are judged: as of when it came."""
    from anomalyze.ingestion.records import Source

    received_ms = int(upload.created_at.timestamp() * 1000)
    return Source(upload.account_id, upload.sha256, received_ms, future_tolerance_s * 1000)


def _unpack_head(objects: ObjectStore, upload: Upload, folder: Path) -> Path:
    """The beginning of a file; all of it where the beginning says nothing (zip, parquet)."""
    first = objects.get(part_path(upload.upload_id, 0), bytes_max=PART_BYTES) or b""
    if first[:4] in (b"PK\x03\x04", b"PAR1") or first[:2] == b"PK":
        return unpack(read_parts(objects, upload), folder)
    if first[:2] != b"\x1f\x8b":
        first = first[: 2 * HEAD_BYTES]
    return unpack([first], folder, bytes_max=2 * HEAD_BYTES)


def guess_upload(objects: ObjectStore, upload: Upload) -> Guess:
    """What an upload seems to be. Raises ``ConfigError`` when it holds no table."""
    from anomalyze.ingestion.guess import guess_file

    with tempfile.TemporaryDirectory(prefix="anomalyze-") as folder:
        return guess_file(_unpack_head(objects, upload, Path(folder)))


def preview_upload(
    objects: ObjectStore, upload: Upload, mapping: FileMapping | None, future_tolerance_s: int
) -> dict[str, Any]:
    """The guess, and what the first rows become with a mapping (else the upload's, else the guess)."""
    from anomalyze.ingestion.guess import guess_file
    from anomalyze.ingestion.parse import parse_file

    if upload.parts == 0:
        raise ConfigError(
            "expected a file that is still kept, got one that was removed some time after it was done"
        )
    with tempfile.TemporaryDirectory(prefix="anomalyze-") as folder:
        path = _unpack_head(objects, upload, Path(folder))
        guess = guess_file(path)
        if mapping is None:
            mapping = FileMapping.model_validate(upload.mapping) if upload.mapping else guess.complete()
        rows: list[dict[str, Any]] = []
        if mapping is not None:
            chunk = next(parse_file(path, mapping, source_of(upload, future_tolerance_s)), None)
            if chunk is not None:
                rows = [
                    {"line": line, "transaction": msgspec.json.decode(value), "error": None}
                    for line, value in chunk.frame.select("line", "value").head(PREVIEW_ROWS).iter_rows()
                ]
                rows += [
                    {"line": e.line, "transaction": None, "error": e.reason, "column": e.column, "raw": e.raw}
                    for e in chunk.errors[:PREVIEW_ROWS]
                ]
        return {
            "columns": guess.columns,
            "sample": guess.rows[:PREVIEW_ROWS],
            "mapping": mapping.model_dump() if mapping else guess.mapping,
            "complete": mapping is not None,
            "doubts": guess.doubts,
            "rows": sorted(rows, key=lambda row: row["line"])[:PREVIEW_ROWS],
        }
