"""The columnar micro-batch: what everything after the decoder works on.

Rows are judged in the order of their log: sorted by (partition, offset). Text is carried as keyed hashes;
the text itself stays in ``buffer``, and only the few rows that are shown to somebody are parsed again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "AMOUNT_MINOR_MAX",
    "Action",
    "Control",
    "DeadLetter",
    "Decoded",
    "MicroBatch",
    "Severity",
    "Status",
]

# 48-bit signed minor units fit the feature state; 1.4e12 units of a two-decimal currency.
AMOUNT_MINOR_MAX = (1 << 47) - 1


class Status(IntEnum):
    """State of a payment, as stored in ``MicroBatch.status``."""

    APPROVED = 0
    PENDING = 1
    DECLINED = 2
    REFUNDED = 3
    REVERSED = 4


class Severity(IntEnum):
    """How much a verdict matters; an anomaly is anything above NONE."""

    NONE = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4


class Action(IntEnum):
    """What the policy asks for."""

    ALLOW = 0
    REVIEW = 1
    BLOCK = 2


@dataclass(slots=True)
class MicroBatch:
    """Valid transactions of one or more partitions as columns.

    All arrays have the shape ``[n]`` unless stated; C-contiguous.

    Attributes
    ----------
    n
        Number of rows.
    buffer, starts, ends
        The records' bytes, joined (uint8), and where each row's JSON begins and ends (int64): row i is
        ``buffer[starts[i]:ends[i]]``.
    partition, offset, append_ms
        Place in the log (int32, int64) and the broker's append time (int64, ms since 1970).
    groups
        ``(partition, first row, end row)`` for each run of rows of one partition, in row order.
    accounts
        Account ids; ``account`` (int32) indexes it.
    user_key
        uint64 ``[n, 2]``: SipHash-1-3-128 of ``account_id + NUL + user_id``.
    tx_key
        uint64: hash of ``tx_id``, its identity within the user.
    payload_key
        uint64: hash of every known field of ``data`` but ``tx_id`` and ``status``; a repeat with another
        one is a conflict.
    ts_ms
        int64: event time, ms since 1970 UTC.
    amount_minor
        int64: minor units of ``currency``; negative for a refund.
    currency
        int16: index into ``anomalyze.events.money.CURRENCIES``.
    status
        int8: ``Status``.
    country
        int16: index into ``anomalyze.events.gazetteer.COUNTRIES``, -1 when unknown.
    day_only
        bool: whether the time is known only to the day.
    latitude, longitude, radius_km
        float64: where it happened and how far off that may be; NaN when unknown.
    merchant, merchant_category, device, ip, channel
        uint64: hash of the text (``anomalyze.events.hashing.text_key``), 0 when missing.
    replies
        Row to the channel where somebody waits for the verdict (``meta.reply_to``); empty for most batches.
    data_end
        int64: index in ``buffer`` just past the record's last byte before the closing brace, where the
        encoder splices the three new sections.
    """

    n: int
    buffer: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    data_end: npt.NDArray[np.int64]
    partition: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    append_ms: npt.NDArray[np.int64]
    groups: list[tuple[int, int, int]]
    accounts: list[str]
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
    replies: dict[int, str] = field(default_factory=dict)

    def row_bytes(self, row: int) -> bytes:
        """The JSON of one row, as it came."""
        return self.buffer[self.starts[row] : self.ends[row]].tobytes()


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that cannot be judged, kept where its owner can see it."""

    partition: int
    offset: int
    reason: str  # a short fixed code: malformed, invalid, conflict, wrong_partition, too_large, poison
    field: str
    expected: str
    got: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Control:
    """A control record: bundles, lists and profiles change only by these."""

    partition: int
    offset: int
    kind: str
    body: dict[str, Any]


@dataclass(slots=True)
class Decoded:
    """What one poll of the log turned into."""

    batch: MicroBatch
    dead: list[DeadLetter] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)
