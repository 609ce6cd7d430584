"""SipHash-1-3, the one hash of text in the project (users, transactions, rule literals, lists).

Columns carry hashes instead of text. The key is fixed and public, for every program and every release must
agree on it (states, bundles and lists are stored under these hashes); the hash therefore spreads well but
is no secret.

Source: Aumasson, Bernstein, "SipHash: a fast short-input PRF" (2012), with one compression and three
finalisation rounds; the 128-bit form as in the authors' reference code.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from anomalyze.events.memory import PADDING, load_u64

__all__ = [
    "HASH_KEY",
    "hash_word_rows",
    "hash_words",
    "siphash13_64",
    "siphash13_128",
    "text_key",
    "text_keys",
    "user_key",
    "user_keys",
]

# The bytes of b"anomalyze.keys.1": changing them makes every stored state and list unusable.
HASH_KEY = (
    int.from_bytes(b"anomalyz", "little"),
    int.from_bytes(b"e.keys.1", "little"),
)

# Round constants of the paper, already combined with the key.
_V0 = np.uint64(HASH_KEY[0] ^ 0x736F6D6570736575)
_V1 = np.uint64(HASH_KEY[1] ^ 0x646F72616E646F6D)
_V2 = np.uint64(HASH_KEY[0] ^ 0x6C7967656E657261)
_V3 = np.uint64(HASH_KEY[1] ^ 0x7465646279746573)
_V1_WIDE = np.uint64(HASH_KEY[1] ^ 0x646F72616E646F6D ^ 0xEE)
_FINAL = np.uint64(0xFF)
_FINAL_WIDE = np.uint64(0xEE)
_FINAL_SECOND = np.uint64(0xDD)
_ONE = np.uint64(1)
_FULL = np.uint64(0xFFFFFFFFFFFFFFFF)

_S13, _S51 = np.uint64(13), np.uint64(51)
_S16, _S48 = np.uint64(16), np.uint64(48)
_S17, _S47 = np.uint64(17), np.uint64(47)
_S21, _S43 = np.uint64(21), np.uint64(43)
_S32, _S56 = np.uint64(32), np.uint64(56)
_S64 = np.uint64(64)
_EIGHT = np.uint64(8)


@njit(cache=True, nogil=True, forceinline=True)
def _round(v0, v1, v2, v3):  # type: ignore[no-untyped-def]
    v0 = v0 + v1
    v1 = ((v1 << _S13) | (v1 >> _S51)) ^ v0
    v0 = (v0 << _S32) | (v0 >> _S32)
    v2 = v2 + v3
    v3 = ((v3 << _S16) | (v3 >> _S48)) ^ v2
    v0 = v0 + v3
    v3 = ((v3 << _S21) | (v3 >> _S43)) ^ v0
    v2 = v2 + v1
    v1 = ((v1 << _S17) | (v1 >> _S47)) ^ v2
    v2 = (v2 << _S32) | (v2 >> _S32)
    return v0, v1, v2, v3


@njit(cache=True, nogil=True, forceinline=True)
def _absorb(array, start, length, v0, v1, v2, v3):  # type: ignore[no-untyped-def]
    end = start + (length & ~7)
    i = start
    while i < end:
        word = load_u64(array, i)
        v3 ^= word
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        v0 ^= word
        i += 8
    last = np.uint64(length & 255) << _S56
    rest = np.uint64(length & 7)
    if rest != np.uint64(0):
        last |= load_u64(array, i) & (_FULL >> (_S64 - _EIGHT * rest))
    v3 ^= last
    v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    v0 ^= last
    return v0, v1, v2, v3


@njit(cache=True, nogil=True, forceinline=True)
def _finish(v0, v1, v2, v3):  # type: ignore[no-untyped-def]
    v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return _round(v0, v1, v2, v3)


@njit(cache=True, nogil=True)
def siphash13_64(array, start, length):  # type: ignore[no-untyped-def]
    """64-bit hash of ``array[start:start + length]``; 0 becomes 1, since 0 means "missing" in a column.

    ``array`` (uint8, C-contiguous) has at least 8 readable bytes past the end of the text.
    """
    v0, v1, v2, v3 = _absorb(array, start, length, _V0, _V1, _V2, _V3)
    v2 ^= _FINAL
    v0, v1, v2, v3 = _finish(v0, v1, v2, v3)
    digest = v0 ^ v1 ^ v2 ^ v3
    return digest if digest != np.uint64(0) else _ONE


@njit(cache=True, nogil=True)
def siphash13_128(array, start, length):  # type: ignore[no-untyped-def]
    """128-bit hash of ``array[start:start + length]`` as (first, second) uint64; see ``siphash13_64``."""
    v0, v1, v2, v3 = _absorb(array, start, length, _V0, _V1_WIDE, _V2, _V3)
    v2 ^= _FINAL_WIDE
    v0, v1, v2, v3 = _finish(v0, v1, v2, v3)
    first = v0 ^ v1 ^ v2 ^ v3
    v1 ^= _FINAL_SECOND
    v0, v1, v2, v3 = _finish(v0, v1, v2, v3)
    return first, v0 ^ v1 ^ v2 ^ v3


@njit(cache=True, nogil=True)
def hash_words(words, count):  # type: ignore[no-untyped-def]
    """64-bit hash of the first ``count`` uint64 words (their little-endian bytes); never 0."""
    v0, v1, v2, v3 = _V0, _V1, _V2, _V3
    for i in range(count):
        word = words[i]
        v3 ^= word
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        v0 ^= word
    last = np.uint64((8 * count) & 255) << _S56
    v3 ^= last
    v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    v0 ^= last
    v2 ^= _FINAL
    v0, v1, v2, v3 = _finish(v0, v1, v2, v3)
    digest = v0 ^ v1 ^ v2 ^ v3
    return digest if digest != np.uint64(0) else _ONE


@njit(cache=True, nogil=True)
def _hash_many(array, starts, ends, out):  # type: ignore[no-untyped-def]
    for i in range(len(starts)):
        out[i] = siphash13_64(array, starts[i], ends[i] - starts[i])


@njit(cache=True, nogil=True)
def _hash_many_wide(array, starts, ends, out):  # type: ignore[no-untyped-def]
    for i in range(len(starts)):
        out[i, 0], out[i, 1] = siphash13_128(array, starts[i], ends[i] - starts[i])


@njit(cache=True, nogil=True)
def hash_word_rows(words, out):  # type: ignore[no-untyped-def]
    """``hash_words`` of each row of ``words`` (uint64 ``[n, k]``) into ``out`` (uint64 ``[n]``)."""
    for i in range(len(words)):
        out[i] = hash_words(words[i], words.shape[1])


def _padded(data: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(bytearray(data + bytes(PADDING)), dtype=np.uint8)


def text_key(text: str) -> int:
    """Hash of a text as it stands in a column; never 0.

    >>> text_key("acct_7") == text_key("acct_7") != text_key("acct_8")
    True
    """
    data = text.encode()
    return int(siphash13_64(_padded(data), 0, len(data)))


def text_keys(texts: list[str]) -> npt.NDArray[np.uint64]:
    """``text_key`` of many texts, uint64 ``[n]``."""
    keys = np.empty(len(texts), dtype=np.uint64)
    _hash_many(*_join(texts), keys)
    return keys


def user_keys(account_ids: list[str], user_ids: list[str]) -> npt.NDArray[np.uint64]:
    """``user_key`` of many users, uint64 ``[n, 2]``."""
    keys = np.empty((len(user_ids), 2), dtype=np.uint64)
    pairs = zip(account_ids, user_ids, strict=True)
    _hash_many_wide(*_join([f"{account_id}\0{user_id}" for account_id, user_id in pairs]), keys)
    return keys


def _join(texts: list[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The texts' bytes behind each other, and where each begins and ends."""
    encoded = [text.encode() for text in texts]
    edges = np.cumsum(np.array([0, *map(len, encoded)], dtype=np.int64), dtype=np.int64)
    return _padded(b"".join(encoded)), edges[:-1], edges[1:]


def user_key(account_id: str, user_id: str) -> tuple[int, int]:
    """Key of a user's state: the 128-bit hash of ``account_id + NUL + user_id``."""
    data = f"{account_id}\0{user_id}".encode()
    first, second = siphash13_128(_padded(data), 0, len(data))
    return int(first), int(second)
