"""Checkpoints of one partition's state: immutable, checksummed, named by (log, partition, offset, format).

A checkpoint at offset N holds the state after every record up to and including N, and is written only after
all outputs up to N were acknowledged. The newest three are kept; an unusable one is passed over for the next.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyze.errors import ContractError
from anomalyze.storage.objects import ObjectStore

__all__ = ["CHECKPOINT_FORMAT", "Checkpoint", "CheckpointStore", "decode_checkpoint", "encode_checkpoint"]

CHECKPOINT_FORMAT = 1
MAGIC = b"AZCKPT1\n"
KEPT = 3
ALIGNMENT = 64
HEADER_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """State of one partition.

    Attributes
    ----------
    offset
        Last record of ``transactions`` that the state contains.
    emitted
        ``src`` offset of the last record written to ``scored``; -1 when none was.
    bundle
        Id of the bundle that judges what follows; None before the first.
    arrays
        ``PartitionState.snapshot()``.
    profiles
        Ids of the snapshots of profiles in force, oldest first.
    challenger
        Id of the bundle that is shadowed; None without one.
    """

    log_id: str
    partition: int
    offset: int
    emitted: int
    bundle: str | None
    arrays: dict[str, npt.NDArray[Any]]
    profiles: tuple[str, ...] = ()
    challenger: str | None = None


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """One file: magic, header (JSON), aligned arrays, SHA-256 of everything before it."""
    described, chunks, position = [], [], 0
    for name, array in sorted(checkpoint.arrays.items()):
        array = np.ascontiguousarray(array)
        position += -position % ALIGNMENT
        described.append([name, array.dtype.str, list(array.shape), position])
        chunks.append((position, array))
        position += array.nbytes
    header = json.dumps(
        {
            "format": CHECKPOINT_FORMAT,
            "log": checkpoint.log_id,
            "partition": checkpoint.partition,
            "offset": checkpoint.offset,
            "emitted": checkpoint.emitted,
            "bundle": checkpoint.bundle,
            "profiles": list(checkpoint.profiles),
            "challenger": checkpoint.challenger,
            "arrays": described,
        }
    ).encode()
    body_start = len(MAGIC) + 8 + len(header)
    body_start += -body_start % ALIGNMENT
    data = bytearray(body_start + position)
    data[: len(MAGIC)] = MAGIC
    struct.pack_into("<Q", data, len(MAGIC), len(header))
    data[len(MAGIC) + 8 : len(MAGIC) + 8 + len(header)] = header
    for start, array in chunks:
        data[body_start + start : body_start + start + array.nbytes] = array.tobytes()
    return bytes(data) + hashlib.sha256(data).digest()


def decode_checkpoint(data: bytes) -> Checkpoint:
    """Read what ``encode_checkpoint`` wrote.

    Raises
    ------
    ContractError
        Truncated, altered, or of another format.
    """
    if len(data) < len(MAGIC) + 8 + 32 or data[: len(MAGIC)] != MAGIC:
        raise ContractError(
            "checkpoint: expected the magic bytes of format 1; it is another format or truncated"
        )
    if hashlib.sha256(memoryview(data)[:-32]).digest() != data[-32:]:
        raise ContractError("checkpoint: its checksum does not match; it is truncated or was altered")
    (length,) = struct.unpack_from("<Q", data, len(MAGIC))
    if length > HEADER_BYTES_MAX:
        raise ContractError(f"checkpoint: header of {length} bytes, at most {HEADER_BYTES_MAX} expected")
    header = json.loads(data[len(MAGIC) + 8 : len(MAGIC) + 8 + length])
    if header["format"] != CHECKPOINT_FORMAT:
        raise ContractError(f"checkpoint: format {header['format']}, this version reads {CHECKPOINT_FORMAT}")
    body_start = len(MAGIC) + 8 + length
    body_start += -body_start % ALIGNMENT
    arrays = {}
    for name, dtype, shape, start in header["arrays"]:
        count = int(np.prod(shape, dtype=np.int64))
        view = np.frombuffer(data, dtype=np.dtype(dtype), count=count, offset=body_start + start)
        arrays[name] = view.reshape(shape).copy()
    return Checkpoint(
        header["log"],
        header["partition"],
        header["offset"],
        header["emitted"],
        header["bundle"],
        arrays,
        tuple(header.get("profiles", ())),
        header.get("challenger"),
    )


class CheckpointStore:
    """Checkpoints of one log in an object store."""

    def __init__(self, objects: ObjectStore, log_id: str, state_format: int) -> None:
        self._objects = objects
        self._log_id = log_id
        self._suffix = f"-{CHECKPOINT_FORMAT}.{state_format}"

    def save(self, checkpoint: Checkpoint) -> None:
        """Write one and drop all but the newest three."""
        folder = self._folder(checkpoint.partition)
        self._objects.put(
            f"{folder}/{checkpoint.offset:020d}{self._suffix}", encode_checkpoint(checkpoint), if_absent=True
        )
        for path in self._paths(checkpoint.partition)[:-KEPT]:
            self._objects.delete(path)

    def load_newest(
        self,
        partition: int,
        offset_max: int,
        restore: Callable[[Checkpoint], None] = lambda _checkpoint: None,
    ) -> tuple[Checkpoint | None, list[str]]:
        """The newest usable one at or below ``offset_max``, and why newer ones were passed over.

        ``restore`` takes it over, and raises ``ContractError`` for one that it cannot use.
        """
        refused: list[str] = []
        for path in reversed(self._paths(partition)):
            if int(path.rsplit("/", 1)[1].split("-")[0]) > offset_max:
                refused.append(f"{path}: beyond the end of the log ({offset_max})")
                continue
            try:
                data = self._objects.get(path)
                if data is None:
                    continue  # dropped since it was listed
                checkpoint = decode_checkpoint(data)
                if (checkpoint.log_id, checkpoint.partition) != (self._log_id, partition):
                    raise ContractError(f"it belongs to {checkpoint.log_id}/{checkpoint.partition}")
                restore(checkpoint)
            except ContractError as error:
                refused.append(f"{path}: {error}")
                continue
            return checkpoint, refused
        return None, refused

    def _folder(self, partition: int) -> str:
        return f"checkpoints/{self._log_id}/{partition:04d}"

    def _paths(self, partition: int) -> list[str]:
        return sorted(p for p in self._objects.list(self._folder(partition)) if p.endswith(self._suffix))
