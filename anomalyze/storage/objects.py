"""The object store: immutable files by path, on a local folder or on S3, R2 and Google Cloud Storage.

A ``put`` that returned is durable and whole; nobody ever sees part of an object. ``if_absent`` writes only
where nothing is yet, and of several writers at once exactly one wins.

The local folder is written here and not through obstore: its ``LocalStore`` (0.12) is atomic, but offers no
fsync, so a bundle that was acknowledged could be gone or empty after a power cut.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import obstore
from obstore import exceptions
from obstore.store import from_url

from anomalyze.errors import ConfigError, ContractError, TransientError

__all__ = ["LocalObjects", "ObjectStore", "RemoteObjects", "open_objects"]

_PATH = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9._=-]*(/[A-Za-z0-9_=-][A-Za-z0-9._=-]*)*")
_PATH_LENGTH_MAX = 512
# Names that begin with a dot are no objects, so a half-written file is never listed.
_INCOMING = ".incoming"
_INCOMING_AGE_MAX_S = 86_400.0
_BLOCK_BYTES = 1 << 20
# A caller has its own way of waiting and of saying so; obstore's three minutes would hide an outage. A
# checkpoint of 128 MB needs two minutes over 10 Mbit/s.
_RETRY = {"max_retries": 2, "retry_timeout": timedelta(seconds=10)}
_CLIENT = {"connect_timeout": "5s", "timeout": "120s"}


class ObjectStore(Protocol):
    """What programs ask of an object store. Paths are ``/``-separated names of ``A-Za-z0-9._=-``."""

    def put(self, path: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write an object whole; False when ``if_absent`` was asked and something is there already."""
        ...

    def get(self, path: str, *, bytes_max: int | None = None) -> bytes | None:
        """An object's bytes, None when there is none; ContractError when it is larger than ``bytes_max``."""
        ...

    def stream(self, path: str) -> Iterator[bytes] | None:
        """An object's bytes in blocks of a megabyte or so, None when there is none."""
        ...

    def move(self, path: str, target: str) -> None:
        """Give an object another path, within the store; what was there before is replaced."""
        ...

    def list(self, prefix: str) -> list[str]:
        """Paths of all objects under the folder ``prefix``, sorted."""
        ...

    def delete(self, path: str) -> None:
        """Remove an object if it is there."""
        ...


def open_objects(url: str, *, s3_endpoint_url: str | None = None) -> ObjectStore:
    """Open an object store.

    Parameters
    ----------
    url
        ``file:///folder`` (made when missing), ``s3://bucket/prefix``, ``gs://bucket/prefix``, or
        ``memory:///`` for one process. Credentials come from the provider's usual chain.
    s3_endpoint_url
        Of an S3-compatible service such as R2.

    Raises
    ------
    ConfigError
        When the address is none of these, or the folder cannot be written.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise ConfigError(f"object store: expected file:///absolute/folder, got {url!r}")
        return LocalObjects(Path(unquote(parts.path)))
    if parts.scheme == "memory":
        return RemoteObjects(from_url(url))
    if parts.scheme not in ("s3", "s3a", "gs") or not parts.netloc:
        raise ConfigError(f"object store: expected file:///, s3://bucket or gs://bucket, got {url!r}")
    options: dict[str, Any] = {}
    if s3_endpoint_url and parts.scheme != "gs":
        options["aws_endpoint"] = s3_endpoint_url
    client = _CLIENT | {"allow_http": bool(s3_endpoint_url and s3_endpoint_url.startswith("http://"))}
    try:
        return RemoteObjects(from_url(url, client_options=client, retry_config=_RETRY, **options))
    except (exceptions.BaseError, ValueError) as error:
        raise ConfigError(f"object store: cannot open {url!r}: {_first_line(error)}") from error


class LocalObjects:
    """Objects as files of one folder, durable when ``put`` returns.

    Raises
    ------
    ConfigError
        When the folder cannot be made or written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._incoming = folder / _INCOMING
        try:
            self._incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigError(f"object store: cannot make the folder {folder}: {error.strerror}") from error
        # What a killed writer left behind.
        for leftover in self._incoming.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - leftover.stat().st_mtime > _INCOMING_AGE_MAX_S:
                    leftover.unlink()

    def put(self, path: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write an object whole: into a file aside, onto the disk, then under its name."""
        target = self._folder / _checked(path)
        with _local_errors(path):
            self._make_folders(target.parent)
            number, aside = tempfile.mkstemp(dir=self._incoming)
            try:
                with os.fdopen(number, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                if if_absent:
                    try:
                        os.link(aside, target)
                    except FileExistsError:
                        return False
                    os.unlink(aside)
                else:
                    os.replace(aside, target)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(aside)
            _sync_folder(target.parent)
        return True

    def get(self, path: str, *, bytes_max: int | None = None) -> bytes | None:
        """An object's bytes, None when there is none."""
        with _local_errors(path):
            try:
                with open(self._folder / _checked(path), "rb") as file:
                    _check_size(path, os.fstat(file.fileno()).st_size, bytes_max)
                    return file.read()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None

    def stream(self, path: str) -> Iterator[bytes] | None:
        """An object's bytes in blocks, None when there is none."""
        with _local_errors(path):
            try:
                file = open(self._folder / _checked(path), "rb")  # noqa: SIM115 - closed by who reads
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None

        def blocks() -> Iterator[bytes]:
            with file, _local_errors(path):
                while block := file.read(_BLOCK_BYTES):
                    yield block

        return blocks()

    def move(self, path: str, target: str) -> None:
        """Rename an object."""
        goal = self._folder / _checked(target)
        with _local_errors(path):
            self._make_folders(goal.parent)
            os.replace(self._folder / _checked(path), goal)
            _sync_folder(goal.parent)

    def list(self, prefix: str) -> list[str]:
        """Paths of all objects under the folder ``prefix``, sorted."""
        found = []
        with _local_errors(prefix):
            for folder, folders, files in os.walk(self._folder / _checked(prefix)):
                folders[:] = [name for name in folders if not name.startswith(".")]
                found += [os.path.join(folder, name) for name in files if not name.startswith(".")]
        return sorted(Path(name).relative_to(self._folder).as_posix() for name in found)

    def delete(self, path: str) -> None:
        """Remove an object if it is there."""
        target = self._folder / _checked(path)
        with _local_errors(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            target.unlink()
            _sync_folder(target.parent)

    def _make_folders(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make_folders(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        _sync_folder(folder.parent)


class RemoteObjects:
    """Objects in a bucket, through obstore."""

    def __init__(self, store: obstore.store.ObjectStore) -> None:
        self._store = store

    def put(self, path: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write an object whole, in one request; ``if_absent`` is the service's conditional put."""
        mode = "create" if if_absent else "overwrite"
        with _remote_errors(path):
            try:
                obstore.put(self._store, _checked(path), data, mode=mode, use_multipart=False)
            except exceptions.AlreadyExistsError:
                return False
        return True

    def get(self, path: str, *, bytes_max: int | None = None) -> bytes | None:
        """An object's bytes, None when there is none."""
        with _remote_errors(path):
            try:
                answer = obstore.get(self._store, _checked(path))
            except FileNotFoundError:
                return None
            _check_size(path, answer.meta["size"], bytes_max)
            return bytes(answer.bytes())

    def stream(self, path: str) -> Iterator[bytes] | None:
        """An object's bytes in blocks, None when there is none."""
        with _remote_errors(path):
            try:
                answer = obstore.get(self._store, _checked(path))
            except FileNotFoundError:
                return None

        def blocks() -> Iterator[bytes]:
            with _remote_errors(path):
                for chunk in answer.stream(min_chunk_size=_BLOCK_BYTES):
                    data = bytes(chunk)
                    for at in range(0, len(data), _BLOCK_BYTES):
                        yield data[at : at + _BLOCK_BYTES]

        return blocks()

    def move(self, path: str, target: str) -> None:
        """Copy within the store, then remove: after a crash between, both are there."""
        with _remote_errors(path):
            obstore.copy(self._store, _checked(path), _checked(target))
            obstore.delete(self._store, path)

    def list(self, prefix: str) -> list[str]:
        """Paths of all objects under the folder ``prefix``, sorted."""
        with _remote_errors(prefix):
            found = obstore.list(self._store, prefix=_checked(prefix)).collect()
        return sorted(str(entry["path"]) for entry in found)

    def delete(self, path: str) -> None:
        """Remove an object if it is there."""
        with _remote_errors(path), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, _checked(path))


def _checked(path: str) -> str:
    if len(path) > _PATH_LENGTH_MAX or not _PATH.fullmatch(path):
        raise ContractError(
            f"object path: expected names of A-Za-z0-9._=- between slashes, got {path[:120]!r}"
        )
    return path


def _check_size(path: str, size: int, bytes_max: int | None) -> None:
    if bytes_max is not None and size > bytes_max:
        raise ContractError(f"object {path}: expected at most {bytes_max} bytes, got {size}")


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextlib.contextmanager
def _local_errors(path: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise ConfigError(
            f"object store: no permission for {error.filename or path}: {error.strerror}"
        ) from error
    except OSError as error:
        raise TransientError(f"object store: {path}: {error.strerror}", retry_after_s=5.0) from error


@contextlib.contextmanager
def _remote_errors(path: str) -> Iterator[None]:
    try:
        yield
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        raise ConfigError(f"object store: access to {path} is denied: {_first_line(error)}") from error
    except (exceptions.BaseError, OSError) as error:
        raise TransientError(f"object store: {path}: {_first_line(error)}", retry_after_s=5.0) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]
