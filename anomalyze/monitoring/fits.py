"""Where what detectors by name learned of each series lies: a small file a series and detector, beside the batch's bank.

All of it is derived: a file that is damaged, of another format or of other values is as good as none, and what it held is
learned again. Files hold numbers and nothing that could be run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from anomalyze.metrics.detectors.base import Arrays
from anomalyze.metrics.rules import BatchRules

__all__ = ["FIT_BYTES_MAX", "FitShelf", "SeriesFits", "fit_names"]

# A larger one is learned again instead: 20,000 metrics keep 40 GB at most.
FIT_BYTES_MAX = 2_000_000
_FORMAT = b"anomalyze-fit-1\n"
_DTYPES = frozenset({"float64", "float32", "int64", "int32", "int16", "int8"})


class _Array(msgspec.Struct, array_like=True, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    data: bytes


class _Kept(msgspec.Struct, array_like=True, frozen=True):
    key: bytes
    arrays: dict[str, _Array]


class FitShelf:
    """What is kept of a batch; one process writes at a time (who scores a batch has claimed it).

    Parameters
    ----------
    folder
        Of its own.
    wanted
        Names of what detectors keep now, as ``fit_names`` gives them: what else lies there is removed.
    """

    def __init__(self, folder: Path, wanted: Collection[str] = ()) -> None:
        self._folder = folder
        for old in folder.iterdir() if folder.is_dir() else ():
            if old.name not in wanted:
                shutil.rmtree(old, ignore_errors=True)

    def of(self, metric: str) -> SeriesFits:
        """The place of one series."""
        return SeriesFits(self._folder, hashlib.sha256(metric.encode()).hexdigest()[:32])


class SeriesFits:
    """What is kept of one series, by the name of a detector; see `anomalyze.metrics.detectors.base.Fits`."""

    def __init__(self, folder: Path, series: str) -> None:
        self._folder, self._series = folder, series

    def load(self, name: str, key: bytes) -> Arrays | None:
        """What was kept with this key."""
        try:
            content = (self._folder / name / self._series).read_bytes()
        except OSError:
            return None
        head, body = content[: len(_FORMAT) + 4], content[len(_FORMAT) + 4 :]
        if head != _FORMAT + zlib.crc32(body).to_bytes(4, "big"):
            return None
        kept = msgspec.msgpack.decode(body, type=_Kept)
        return {of: _array(one) for of, one in kept.arrays.items()} if kept.key == key else None

    def keep(self, name: str, key: bytes, arrays: Arrays) -> None:
        """Keep it, unless it is too large or the disk does not take it: the next run learns it again."""
        if sum(array.nbytes for array in arrays.values()) > FIT_BYTES_MAX:
            return
        body = msgspec.msgpack.encode(
            _Kept(
                key,
                {of: _Array(array.dtype.name, array.shape, array.tobytes()) for of, array in arrays.items()},
            )
        )
        path = self._folder / name / self._series
        partial = path.with_suffix(".partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(_FORMAT + zlib.crc32(body).to_bytes(4, "big") + body)
            os.replace(partial, path)
        except OSError:
            partial.unlink(missing_ok=True)


def fit_names(rules: BatchRules) -> set[str]:
    """Names under which the detectors of a batch's metrics keep what they learned."""
    every = (rules.default, *rules.named.values())
    return {name for rule in every for detector in rule.detectors for name in detector.keeps}


def _array(one: _Array) -> npt.NDArray[Any]:
    if one.dtype not in _DTYPES:
        raise ValueError(f"one of {', '.join(sorted(_DTYPES))} was expected, got {one.dtype}")
    return np.frombuffer(one.data, one.dtype).reshape(one.shape)
