"""The compiled SipHash-1-3 against a slow one that is itself held against published vectors."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyze.events.hashing import HASH_KEY, hash_words, text_key, text_keys, user_key, user_keys

MASK = (1 << 64) - 1


def rotate(x: int, b: int) -> int:
    return ((x << b) | (x >> (64 - b))) & MASK


def siphash(data: bytes, key: tuple[int, int], compress: int, finish: int, wide: bool) -> tuple[int, ...]:
    """SipHash-c-d as the paper writes it, byte by byte; one or two 64-bit words."""
    v = [
        key[0] ^ 0x736F6D6570736575,
        key[1] ^ 0x646F72616E646F6D ^ (0xEE if wide else 0),
        key[0] ^ 0x6C7967656E657261,
        key[1] ^ 0x7465646279746573,
    ]

    def rounds(n: int) -> None:
        for _ in range(n):
            v[0] = (v[0] + v[1]) & MASK
            v[1] = rotate(v[1], 13) ^ v[0]
            v[0] = rotate(v[0], 32)
            v[2] = (v[2] + v[3]) & MASK
            v[3] = rotate(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & MASK
            v[3] = rotate(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & MASK
            v[1] = rotate(v[1], 17) ^ v[2]
            v[2] = rotate(v[2], 32)

    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 255])
    for i in range(0, len(padded), 8):
        word = int.from_bytes(padded[i : i + 8], "little")
        v[3] ^= word
        rounds(compress)
        v[0] ^= word
    v[2] ^= 0xEE if wide else 0xFF
    rounds(finish)
    words = [v[0] ^ v[1] ^ v[2] ^ v[3]]
    if wide:
        v[1] ^= 0xDD
        rounds(finish)
        words.append(v[0] ^ v[1] ^ v[2] ^ v[3])
    return tuple(words)


def test_reference_gives_published_vectors() -> None:
    key = (0x0706050403020100, 0x0F0E0D0C0B0A0908)
    # the paper's appendix, and vectors.h of the authors' reference implementation
    assert siphash(bytes(range(15)), key, 2, 4, False) == (0xA129CA6149BE45E5,)
    assert siphash(b"", key, 2, 4, False) == (0x726FDB47DD0E0E31,)
    wide = siphash(b"", key, 2, 4, True)
    assert b"".join(w.to_bytes(8, "little") for w in wide).hex() == "a3817f04ba25a8e66df67214c7550293"
    # SipHash-1-3, as in the tests of Rust's standard library
    assert siphash(b"", key, 1, 3, False)[0].to_bytes(8, "little").hex() == "dcc40f055801acab"


@pytest.mark.skipif(sys.hash_info.algorithm != "siphash13", reason="this Python hashes otherwise")
def test_reference_agrees_with_cpython() -> None:
    """With seed 0 CPython's hash of bytes is SipHash-1-3 with the key 0."""
    texts = [bytes(range(n)) for n in range(1, 40)]
    program = f"print([hash(text) % 2**64 for text in {texts!r}])"
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONHASHSEED": "0"},
        capture_output=True,
        check=True,
        text=True,
    )
    assert run.stdout.strip() == str([siphash(text, (0, 0), 1, 3, False)[0] for text in texts])


@given(st.text(max_size=80))
@settings(max_examples=200, deadline=None)
def test_text_key_is_siphash_1_3(text: str) -> None:
    (expected,) = siphash(text.encode(), HASH_KEY, 1, 3, False)
    assert text_key(text) == expected


@given(st.text(max_size=40), st.text(max_size=40))
@settings(max_examples=100, deadline=None)
def test_user_key_is_siphash_1_3_128(account: str, user: str) -> None:
    assert user_key(account, user) == siphash(f"{account}\0{user}".encode(), HASH_KEY, 1, 3, True)


@given(st.lists(st.integers(0, MASK), max_size=12))
@settings(max_examples=50, deadline=None)
def test_words_hash_like_their_bytes(words: list[int]) -> None:
    array = np.array(words, dtype=np.uint64)
    (expected,) = siphash(array.astype("<u8").tobytes(), HASH_KEY, 1, 3, False)
    assert int(hash_words(array, len(words))) == expected


@given(st.lists(st.text(max_size=20), max_size=8))
@settings(max_examples=50, deadline=None)
def test_many_texts_hash_like_each(texts: list[str]) -> None:
    assert text_keys(texts).tolist() == [text_key(text) for text in texts]
    assert user_keys(texts, texts[::-1]).tolist() == [
        list(user_key(account, user)) for account, user in zip(texts, texts[::-1], strict=True)
    ]


def test_hashes_never_change() -> None:
    """Stored states, bundles and lists hold these numbers."""
    assert text_key("block") == 2880799958310823378
    assert user_key("acct_7", "user_99") == (13955682257992157017, 3490513883672705313)
