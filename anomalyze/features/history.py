"""Users and their events in flat arrays: find, add, insert in time order, forget (compiled).

A user's events hang on a chain of chunks, newest first: ``links[chunk]`` is the next older one. All but the
newest chunk are full; the oldest may hold events that no longer count (``count`` says how many do).
"""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

import numpy as np
from numba import njit

from anomalyze.features.compiled import COMPILED
from anomalyze.features.layout import CHUNK_EVENTS, EVENTS_MAX, FRAUD_BIT, user_word

__all__ = [
    "META_WORDS",
    "M_ACCOUNTS",
    "M_APPEND_DAY",
    "M_CHUNKS",
    "M_FORGET_DAYS",
    "M_FORMAT",
    "M_FREE_CHUNK",
    "M_FREE_USER",
    "M_SWEPT_DAY",
    "M_USERS",
    "M_USERS_MAX",
    "account_slot",
    "add_user",
    "find_user",
    "find_users",
    "forget_user",
    "index_users",
    "insert_event",
    "mark_fraud",
    "sweep_users",
]

# Places in the state's ``meta`` array (int64).
M_FORMAT = 0
M_USERS = 1  # rows of ``users`` ever used
M_CHUNKS = 2  # rows of ``events`` ever used
M_FREE_USER = 3  # first of the chain of free rows, -1 when there is none
M_FREE_CHUNK = 4
M_ACCOUNTS = 5
M_APPEND_DAY = 6  # newest append day of the log so far: the state's only clock
M_SWEPT_DAY = 7
M_USERS_MAX = 8
M_FORGET_DAYS = 9
META_WORDS = 16

_FREE_USER_DAY = 0xFFFF  # marks a row without a user


@njit(**COMPILED)
def find_user(users, index, key_0, key_1):
    """Row of a user in ``users``, or -1."""
    mask = index.size - 1
    slot = key_0 & mask
    tag = (key_0 >> 56) & 255
    while True:
        entry = np.int64(index[slot])
        if entry == 0:
            return np.int64(-1)
        if entry >> 24 == tag:
            user = (entry & 0xFFFFFF) - 1
            if users[user, 0] == key_0 and users[user, 1] == key_1:
                return user
        slot = (slot + 1) & mask


@njit(**COMPILED)
def find_users(users, index, keys, first_row, end_row, found):
    """``find_user`` for rows of ``keys`` into ``found`` (int64, from 0); returns how many are unknown.

    All look-ups before the first is used: they wait for memory together instead of one after the other.
    """
    missing = 0
    for row in range(first_row, end_row):
        user = find_user(users, index, keys[row, 0], keys[row, 1])
        found[row - first_row] = user
        missing += user < 0
    return missing


@njit(**COMPILED)
def _enter(index, key_0, user):
    mask = index.size - 1
    slot = key_0 & mask
    while index[slot] != 0:
        slot = (slot + 1) & mask
    index[slot] = np.uint32((((key_0 >> 56) & 255) << 24) | (user + 1))


@njit(**COMPILED)
def index_users(users, used, index):
    """Fill an empty index from ``users[:used]``."""
    for user in range(used):
        if users[user, 2] & 0xFFFF != _FREE_USER_DAY:
            _enter(index, users[user, 0], user)


@njit(**COMPILED)
def add_user(users, index, meta, key_0, key_1, ts_ms):
    """Row for a new user, or -1 when ``meta[M_USERS_MAX]`` is reached."""
    user = meta[M_FREE_USER]
    if user >= 0:
        meta[M_FREE_USER] = users[user, 3]
    elif meta[M_USERS] < meta[M_USERS_MAX]:
        user = meta[M_USERS]
        meta[M_USERS] = user + 1
    else:
        return np.int64(-1)
    users[user, 0] = key_0
    users[user, 1] = key_1
    users[user, 2] = user_word(-1, 0, CHUNK_EVENTS, 0, meta[M_APPEND_DAY])
    users[user, 3] = ts_ms << 21
    _enter(index, key_0, user)
    return user


@njit(**COMPILED)
def forget_user(users, links, meta, user, ts_ms):
    """Free a user's events; the user stays, as new."""
    chunk = users[user, 2] >> 32
    while chunk >= 0:
        older = np.int64(links[chunk])
        links[chunk] = meta[M_FREE_CHUNK]
        meta[M_FREE_CHUNK] = chunk
        chunk = older
    users[user, 2] = user_word(-1, 0, CHUNK_EVENTS, 0, meta[M_APPEND_DAY])
    users[user, 3] = ts_ms << 21


@njit(**COMPILED)
def sweep_users(users, index, links, meta):
    """Give back the rows of users whose next record would find them forgotten anyway; returns how many."""
    meta[M_SWEPT_DAY] = meta[M_APPEND_DAY]
    swept = 0
    for user in range(meta[M_USERS]):
        day = users[user, 2] & 0xFFFF
        if day != _FREE_USER_DAY and meta[M_APPEND_DAY] - day > meta[M_FORGET_DAYS]:
            forget_user(users, links, meta, user, 0)
            users[user, 0] = 0
            users[user, 1] = 0
            users[user, 2] = user_word(-1, 0, 0, 0, _FREE_USER_DAY)
            users[user, 3] = meta[M_FREE_USER]
            meta[M_FREE_USER] = user
            swept += 1
    if swept:
        index[:] = 0
        index_users(users, meta[M_USERS], index)
    return swept


@njit(**COMPILED)
def account_slot(account_keys, meta, key):
    """Row of an account's counter, added when new; ``account_keys`` has room (0 is free)."""
    mask = account_keys.size - 1
    slot = key & mask
    while account_keys[slot] != key:
        if account_keys[slot] == 0:
            account_keys[slot] = key
            meta[M_ACCOUNTS] += 1
            return slot
        slot = (slot + 1) & mask
    return slot


@njit(**COMPILED)
def _new_chunk(links, meta, newest, full):
    """A chunk to put in front of the chain: of a full user the oldest one, when none of its events count."""
    if full:
        last = newest
        for _ in range(EVENTS_MAX // CHUNK_EVENTS - 1):
            last = np.int64(links[last])
        spare = np.int64(links[last])
        if spare >= 0:
            links[last] = -1
            return spare
    spare = meta[M_FREE_CHUNK]
    if spare >= 0:
        meta[M_FREE_CHUNK] = np.int64(links[spare])
        return spare
    spare = meta[M_CHUNKS]
    meta[M_CHUNKS] = spare + 1
    return spare


@njit(**COMPILED)
def insert_event(users, events, links, meta, user, later, word_0, word_1, word_2, word_3):
    """Put an event before the ``later`` newest ones of its user; the oldest beyond the bound goes."""
    packed = users[user, 2]
    chunk, count, fill = packed >> 32, (packed >> 21) & 2047, (packed >> 17) & 15
    if later == EVENTS_MAX:
        return
    if fill == CHUNK_EVENTS:
        fresh = _new_chunk(links, meta, chunk, count == EVENTS_MAX)
        links[fresh] = chunk
        chunk, fill = fresh, 0
    users[user, 2] = user_word(
        chunk, min(count + 1, EVENTS_MAX), fill + 1, (packed >> 16) & 1, packed & 0xFFFF
    )
    slot = fill
    for _ in range(later):
        older_chunk, older_slot = chunk, slot - 1
        if older_slot < 0:
            older_chunk, older_slot = np.int64(links[chunk]), CHUNK_EVENTS - 1
        for word in range(4):
            events[chunk, 4 * slot + word] = events[older_chunk, 4 * older_slot + word]
        chunk, slot = older_chunk, older_slot
    events[chunk, 4 * slot] = word_0
    events[chunk, 4 * slot + 1] = word_1
    events[chunk, 4 * slot + 2] = word_2
    events[chunk, 4 * slot + 3] = word_3


@njit(**COMPILED)
def mark_fraud(users, index, events, links, key_0, key_1, tx_key, fraud):
    """Set or clear an event's fraud bit; whether the event is kept."""
    user = find_user(users, index, key_0, key_1)
    if user < 0:
        return False
    packed = users[user, 2]
    chunk, left, slot = packed >> 32, (packed >> 21) & 2047, ((packed >> 17) & 15) - 1
    while left > 0:
        if (events[chunk, 4 * slot + 1] ^ tx_key) >> 16 == 0:
            word = events[chunk, 4 * slot]
            events[chunk, 4 * slot] = word | FRAUD_BIT if fraud else word & ~FRAUD_BIT
            return True
        left -= 1
        slot -= 1
        if slot < 0:
            chunk, slot = np.int64(links[chunk]), CHUNK_EVENTS - 1
    return False
