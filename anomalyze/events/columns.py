"""Columns of a micro-batch under construction, shared by the compiled scanner and the plain parser."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["PAYLOAD_WORDS", "Columns", "pack_code"]

# ``payload_key`` hashes these words: amount_minor, currency, latitude, longitude, country, location, merchant,
# merchant_category, device, ip, channel (codes by ``pack_code``, coordinates by their bits, text by its hash).
PAYLOAD_WORDS = 11


def pack_code(code: str) -> int:
    """A short ASCII code as a little-endian number, 0 for none."""
    return int.from_bytes(code.encode(), "little")


class Columns(NamedTuple):
    """Columns under construction: ``MicroBatch``'s by the same names, and ``valid`` (bool ``[n]``)."""

    valid: npt.NDArray[np.bool_]
    reply_start: npt.NDArray[np.int64]
    reply_end: npt.NDArray[np.int64]
    data_end: npt.NDArray[np.int64]
    account: npt.NDArray[np.int32]
    user_key: npt.NDArray[np.uint64]
    tx_key: npt.NDArray[np.uint64]
    payload_key: npt.NDArray[np.uint64]
    ts_ms: npt.NDArray[np.int64]
    amount_minor: npt.NDArray[np.int64]
    currency: npt.NDArray[np.int16]
    status: npt.NDArray[np.int8]
    country: npt.NDArray[np.int16]
    latitude: npt.NDArray[np.float64]
    longitude: npt.NDArray[np.float64]
    radius_km: npt.NDArray[np.float64]
    merchant: npt.NDArray[np.uint64]
    merchant_category: npt.NDArray[np.uint64]
    device: npt.NDArray[np.uint64]
    ip: npt.NDArray[np.uint64]
    channel: npt.NDArray[np.uint64]

    @classmethod
    def allocate(cls, n: int) -> Columns:
        """Columns of ``n`` rows that are not valid yet."""
        whole = {
            "valid": np.bool_,
            "account": np.int32,
            "currency": np.int16,
            "status": np.int8,
            "country": np.int16,
        }
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name in cls._fields:
            if name in ("latitude", "longitude", "radius_km"):
                arrays[name] = np.full(n, np.nan)
            elif name == "user_key":
                arrays[name] = np.zeros((n, 2), dtype=np.uint64)
            elif name in ("data_end", "ts_ms", "amount_minor", "reply_start", "reply_end"):
                arrays[name] = np.zeros(n, dtype=np.int64)
            else:
                arrays[name] = np.zeros(n, dtype=whole.get(name, np.uint64))
        return cls(**arrays)

    def published(self) -> dict[str, npt.NDArray[Any]]:
        """The columns that a ``MicroBatch`` has, by name."""
        columns = self._asdict()
        for name in ("valid", "reply_start", "reply_end"):
            del columns[name]
        return columns

    def read_replies(self, buffer: npt.NDArray[np.uint8]) -> dict[int, str]:
        """Text of ``meta.reply_to`` by row, for the rows that the scanner read."""
        return {
            row: buffer[self.reply_start[row] : self.reply_end[row]].tobytes().decode()
            for row in np.flatnonzero(self.reply_end).tolist()
        }
