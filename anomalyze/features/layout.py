"""How a user and an event lie in memory.

An event is four int64 words (32 bytes), from the highest bit down:

====  =====================================================================================
word  fields (bits)
====  =====================================================================================
0     event time in ms, signed (43) | unused (1) | currency (8) | country + 1 (8) | fraud (1) | status (3)
1     hash of tx_id (48) | hash of the payload (16)
2     amount in minor units of the base currency, signed (48) | device hash (16)
3     grid point (31) | radius code (4) | merchant hash (21) | log ratio code (8)
====  =====================================================================================

A user is four words (32 bytes): two of key, then

====  =====================================================================================
2     newest chunk, signed (32) | events kept (11) | filled slots of it (4) | guest (1) | append day (16)
3     first seen in ms, signed (43) | transactions seen, saturating (21)
====  =====================================================================================

Signed fields are on top, so that one arithmetic shift restores their sign.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

import numpy as np
from numba import njit

from anomalyze.events.batch import Status
from anomalyze.features.compiled import COMPILED

__all__ = [
    "AMOUNT_NULL",
    "CHUNK_EVENTS",
    "EVENTS_MAX",
    "EVENT_WORDS",
    "FRAUD_BIT",
    "LOG_RATIO_STEPS",
    "TS_MS_MAX",
    "USER_TOTAL_MAX",
    "USER_WORDS",
    "classify",
    "encode_log_ratio",
    "event_time_word",
    "reduce_key",
    "user_word",
]

CHUNK_EVENTS = 4
EVENT_WORDS = 4
USER_WORDS = 4
EVENTS_MAX = 1024  # newest events kept of a user
TS_MS_MAX = (1 << 42) - 1  # the year 2109
AMOUNT_NULL = -(1 << 47)  # below every amount that the decoder admits
USER_TOTAL_MAX = (1 << 21) - 1
DEVICE_KEYS = (1 << 16) - 1
MERCHANT_KEYS = (1 << 21) - 1
FRAUD_BIT = 8  # of word 0
LOG_RATIO_STEPS = 32  # codes a unit of log ratio: 0 to 7.97 in eight bits

OTHER, PURCHASE, DECLINED, REFUND = 0, 1, 2, 3

_DECLINED = int(Status.DECLINED)
_REFUNDED = int(Status.REFUNDED)
_REVERSED = int(Status.REVERSED)


def _class_table() -> np.int64:
    """Two bits for each of 8 statuses x (amount at least zero, negative, unknown)."""
    table = 0
    for status in range(8):
        unknown = DECLINED if status == _DECLINED else OTHER
        negative = unknown if status in (_DECLINED, _REVERSED) else REFUND
        positive = negative if status in (_DECLINED, _REVERSED, _REFUNDED) else PURCHASE
        for column, kind in enumerate((positive, negative, unknown)):
            table |= kind << 2 * (8 * column + status)
    return np.int64(table)


_CLASSES = _class_table()


@njit(**COMPILED)
def classify(status, amount):
    """What a transaction counts as: PURCHASE, DECLINED, REFUND, or OTHER (reversed, amount unknown).

    By table: branches on it would be guessed wrong at every decline.

    >>> classify(0, 1250) == PURCHASE, classify(0, -1250) == REFUND, classify(2, 1250) == DECLINED
    (True, True, True)
    """
    column = np.int64(amount < 0) + np.int64(amount == AMOUNT_NULL)
    return (_CLASSES >> (2 * (8 * column + status))) & 3


@njit(**COMPILED)
def event_time_word(ts_ms, currency, country, status):
    """Word 0 of an event that nobody has called fraud yet."""
    return (ts_ms << 21) | ((currency & 255) << 12) | (((country + 1) & 255) << 4) | (status & 7)


@njit(**COMPILED)
def reduce_key(key, keys):
    """A 64-bit hash (as int64) in 1..keys; 0 stays 0, "missing".

    >>> int(reduce_key(0, 65535)), 1 <= reduce_key(-5, 65535) <= 65535
    (0, True)
    """
    if key == 0:
        return np.int64(0)
    return ((key >> 20) & 0xFFFFFFFFFFF) % keys + 1


@njit(**COMPILED)
def encode_log_ratio(log_ratio):
    """Log ratio in eight bits: steps of 1/32 from 0 to 7.97; NULL and below 0 are 0.

    >>> int(encode_log_ratio(1.0)), int(encode_log_ratio(-2.0)), int(encode_log_ratio(99.0))
    (32, 0, 255)
    """
    if not log_ratio > 0.0:
        return np.int64(0)
    return min(np.int64(log_ratio * LOG_RATIO_STEPS), 255)


@njit(**COMPILED)
def user_word(chunk, count, fill, guest, append_day):
    """Word 2 of a user."""
    return (chunk << 32) | (count << 21) | (fill << 17) | (guest << 16) | (append_day & 0xFFFF)
