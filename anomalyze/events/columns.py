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


_WHOLE = ("data_end", "ts_ms", "amount_minor", "reply_start", "reply_end", "location_start", "location_end")
# What a column holds before it is written, and its type; the others are uint64.
_FILL: dict[str, Any] = {
    "valid": np.False_,
    "account": np.int32(0),
    "currency": np.int16(0),
    "status": np.int8(0),
    "country": np.int16(0),
    "day_only": np.False_,
    **dict.fromkeys(("latitude", "longitude", "radius_km"), np.float64(np.nan)),
    **dict.fromkeys(_WHOLE, np.int64(0)),
}
_HIDDEN = ("valid", "reply_start", "reply_end", "location_start", "location_end")


class Columns(NamedTuple):
    """Columns under construction: ``MicroBatch``'s by the same names, and the scanner's own.

    ``valid`` (bool ``[n]``) says which rows are written; ``reply_start`` and ``reply_end`` where the text of
    ``meta.reply_to`` lies (0 for none); ``location_start`` and ``location_end`` where a location lies that still
    has to be looked up.
    """

    valid: npt.NDArray[np.bool_]
    reply_start: npt.NDArray[np.int64]
    reply_end: npt.NDArray[np.int64]
    location_start: npt.NDArray[np.int64]
    location_end: npt.NDArray[np.int64]
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
    day_only: npt.NDArray[np.bool_]
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
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name in cls._fields:
            shape = (n, 2) if name == "user_key" else (n,)
            arrays[name] = np.full(shape, _FILL.get(name, np.uint64(0)))
        return cls(**arrays)

    def published(self) -> dict[str, npt.NDArray[Any]]:
        """The columns that a ``MicroBatch`` has, by name."""
        columns = self._asdict()
        for name in _HIDDEN:
            del columns[name]
        return columns

    def read_replies(self, buffer: npt.NDArray[np.uint8]) -> dict[int, str]:
        """Text of ``meta.reply_to`` by row, for the rows that the scanner read."""
        return {
            row: buffer[self.reply_start[row] : self.reply_end[row]].tobytes().decode()
            for row in np.flatnonzero(self.reply_end).tolist()
        }
