"""Checkpoints: what is written is read, and anything else is refused for the next older one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from anomalyze.errors import ContractError
from anomalyze.storage.objects import LocalObjects
from realtime.detector.checkpoint import Checkpoint, CheckpointStore, decode_checkpoint, encode_checkpoint

ARRAYS = st.dictionaries(
    st.text("abcdefgh._", min_size=1, max_size=12),
    hnp.arrays(
        st.sampled_from([np.dtype(t) for t in ("u1", "i2", "u4", "i8", "u8", "f8", "?")]),
        hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=7),
    ),
    max_size=6,
)


def checkpoint(offset: int, arrays: dict[str, np.ndarray] | None = None) -> Checkpoint:
    return Checkpoint("log-1", 3, offset, offset - 1, "sha256:ab", arrays or {"x": np.arange(offset)})


@settings(max_examples=60, deadline=None)
@given(ARRAYS)
def test_what_is_written_is_read_to_the_bit(arrays: dict[str, np.ndarray]) -> None:
    read = decode_checkpoint(encode_checkpoint(checkpoint(9, arrays)))
    assert (read.log_id, read.partition, read.offset, read.emitted, read.bundle) == (
        "log-1",
        3,
        9,
        8,
        "sha256:ab",
    )
    assert read.arrays.keys() == (arrays or {"x": None}).keys()
    for name, array in arrays.items():
        assert read.arrays[name].dtype == array.dtype
        assert read.arrays[name].shape == array.shape
        assert read.arrays[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
def test_a_damaged_one_is_refused_with_the_reason(damage: str) -> None:
    data = bytearray(encode_checkpoint(checkpoint(50)))
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flip":
        data[len(data) // 2] ^= 1
    elif damage == "empty":
        data = bytearray()
    else:
        data[:4] = b"ZZZZ"
    with pytest.raises(ContractError, match="checkpoint"):
        decode_checkpoint(bytes(data))


def test_three_are_kept_and_a_damaged_newest_is_passed_over(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    store = CheckpointStore(objects, "log-1", 7)
    for offset in (10, 20, 30, 40):
        store.save(checkpoint(offset))
    paths = objects.list("checkpoints/log-1/0003")
    assert [int(p.rsplit("/", 1)[1].split("-")[0]) for p in paths] == [20, 30, 40]
    newest, refused = store.load_newest(3, 10**9)
    assert newest is not None
    assert newest.offset == 40
    assert not refused

    file = next(tmp_path.rglob("*00040-*"))
    file.write_bytes(file.read_bytes()[:-1])
    older, refused = store.load_newest(3, 10**9)
    assert older is not None
    assert older.offset == 30
    assert len(refused) == 1

    beyond, refused = store.load_newest(3, 25)
    assert beyond is not None
    assert beyond.offset == 20
    assert len(refused) == 2


def test_another_state_format_is_not_seen(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    CheckpointStore(objects, "log-1", 7).save(checkpoint(10))
    found, refused = CheckpointStore(objects, "log-1", 8).load_newest(3, 10**9)
    assert found is None
    assert not refused
