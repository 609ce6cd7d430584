"""One contract for the local folder and for buckets; what only a disk can do wrong is tested there."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from anomalyze.errors import ConfigError, ContractError, TransientError
from anomalyze.storage.objects import LocalObjects, ObjectStore, open_objects


@pytest.fixture(params=["file", "memory"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return open_objects((tmp_path / "with a space").as_uri() if request.param == "file" else "memory:///")


def test_objects_come_back_whole(objects: ObjectStore) -> None:
    large = os.urandom(12 << 20)
    assert objects.put("checkpoints/log-1/3/0000001041.ckpt", large)
    assert objects.get("checkpoints/log-1/3/0000001041.ckpt") == large
    assert objects.put("checkpoints/log-1/3/0000001041.ckpt", b"")
    assert objects.get("checkpoints/log-1/3/0000001041.ckpt") == b""
    assert objects.get("checkpoints/log-1/3") is None
    assert objects.get("nothing/here") is None


def test_what_is_there_is_never_overwritten_if_asked_so(objects: ObjectStore) -> None:
    assert objects.put("a/b", b"first", if_absent=True)
    assert not objects.put("a/b", b"second", if_absent=True)
    assert objects.get("a/b") == b"first"


def test_of_writers_at_once_one_wins(objects: ObjectStore) -> None:
    contents = [bytes([n]) * 100_000 for n in range(16)]
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda c: objects.put("race/one", c, if_absent=True), contents))
    assert sum(won) == 1
    assert objects.get("race/one") == contents[won.index(True)]


def test_lists_are_by_folder_and_sorted(objects: ObjectStore) -> None:
    for path in ("p/10", "p/2", "p/q/1", "pq/1", "o/1"):
        objects.put(path, b"x")
    assert objects.list("p") == ["p/10", "p/2", "p/q/1"]
    assert objects.list("p/q") == ["p/q/1"]
    assert objects.list("none") == []


def test_objects_are_streamed_and_moved(objects: ObjectStore) -> None:
    large = os.urandom(5 << 20)
    objects.put("landing/a/large", large)
    blocks = list(objects.stream("landing/a/large") or ())
    assert b"".join(blocks) == large
    assert len(blocks) > 2
    assert objects.stream("landing/a/none") is None
    objects.put("refused/a/large", b"before")
    objects.move("landing/a/large", "refused/a/large")
    assert objects.get("landing/a/large") is None
    assert objects.get("refused/a/large") == large


def test_deleting_is_idempotent(objects: ObjectStore) -> None:
    objects.put("a/b", b"x")
    objects.delete("a/b")
    objects.delete("a/b")
    assert objects.get("a/b") is None
    assert objects.list("a") == []


def test_size_is_limited_before_it_is_read(objects: ObjectStore) -> None:
    objects.put("a", b"12345")
    assert objects.get("a", bytes_max=5) == b"12345"
    with pytest.raises(ContractError, match="at most 4 bytes, got 5"):
        objects.get("a", bytes_max=4)


@pytest.mark.parametrize(
    "path", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/.b", ".", "a b", "ä", "a\x00", "a" * 600]
)
def test_odd_paths_are_refused(objects: ObjectStore, path: str) -> None:
    for call in (lambda: objects.put(path, b""), lambda: objects.get(path), lambda: objects.delete(path)):
        with pytest.raises(ContractError, match="object path"):
            call()


@pytest.mark.parametrize("url", ["ftp://x/y", "s3://", "/plain/path", "file://host/x", "http://x"])
def test_odd_addresses_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="object store"):
        open_objects(url)


def test_a_service_that_is_away_is_transient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    objects = open_objects("s3://bucket/prefix", s3_endpoint_url="http://127.0.0.1:1")
    with pytest.raises(TransientError, match="object store: a/b"):
        objects.get("a/b")


def test_a_folder_that_cannot_be_made_is_a_mistake_of_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot make the folder"):
        open_objects((tmp_path / "file" / "sub").as_uri())


def test_a_put_that_returned_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = LocalObjects(tmp_path)
    synced: list[tuple[str, bool]] = []
    target = tmp_path / "new" / "folder" / "object"
    real = os.fsync

    def record(number: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{number}"), target.exists()))
        real(number)

    monkeypatch.setattr(os, "fsync", record)
    objects.put("new/folder/object", b"x", if_absent=True)
    folders = [str(tmp_path), str(tmp_path / "new")]
    assert [entry for entry in synced if entry[0] in folders] == [(f, False) for f in folders]
    content = [entry for entry in synced if "/.incoming/" in entry[0]]
    assert [there for _, there in content] == [False], "the content before the name"
    assert synced[-1] == (str(target.parent), True), "the name last"


def test_a_writer_that_is_killed_leaves_no_object(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from anomalyze.storage.objects import LocalObjects;"
        "os.link = os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL);"
        "LocalObjects(Path(sys.argv[1])).put('a/b', b'x' * 1000, if_absent=sys.argv[2] == 'y')"
    )
    for if_absent in "yn":
        assert (
            subprocess.run([sys.executable, "-c", program, str(tmp_path), if_absent], check=False).returncode
            == -9
        )
    objects = LocalObjects(tmp_path)
    assert objects.get("a/b") is None
    assert objects.list("a") == []
    leftovers = list((tmp_path / ".incoming").iterdir())
    assert len(leftovers) == 2
    os.utime(leftovers[0], (0, 0))
    assert objects.put("a/b", b"whole", if_absent=True)
    LocalObjects(tmp_path)
    assert list((tmp_path / ".incoming").iterdir()) == leftovers[1:], (
        "old leftovers go, a writer at work stays"
    )
