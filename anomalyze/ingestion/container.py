"""What a file is packed in: gzip, zip or nothing, CSV in some encoding or parquet; out comes one plain file."""

from __future__ import annotations

import codecs
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from anomalyze.errors import ConfigError

__all__ = ["PLAIN_RATIO_MAX", "unpack"]

BLOCK_BYTES = 1024 * 1024
# Rows of numbers shrink to a tenth or so; what grows more than this was made to fill a disk.
PLAIN_RATIO_MAX = 100
PLAIN_BYTES_FREE = 64 * 1024 * 1024
# Where the first letter beyond ASCII stands, this much decides about the encoding.
WINDOW_BYTES = 64 * 1024


def unpack(parts: Iterable[bytes], folder: Path, *, bytes_max: int | None = None) -> Path:
    """Write a file that comes in parts into a folder, unpacked: ``plain.csv`` in UTF-8 or ``plain.parquet``.

    Parameters
    ----------
    bytes_max
        Stop after so many bytes of the plain file: enough for a look at its beginning. CSV only.

    Raises
    ------
    ConfigError
        It is packed in a way that is not understood, is damaged, or grows beyond all reason.
    """
    packed = folder / "packed"
    size = 0
    with packed.open("wb") as file:
        for part in parts:
            file.write(part)
            size += len(part)
    if size == 0:
        raise ConfigError("expected a CSV or parquet file, got an empty one")
    limit = size * PLAIN_RATIO_MAX + PLAIN_BYTES_FREE
    is_whole = bytes_max is None
    bytes_max = limit if bytes_max is None else bytes_max
    with packed.open("rb") as file:
        magic = file.read(4)
    unpacked = packed
    if magic[:2] == b"\x1f\x8b":
        unpacked = folder / "unpacked"
        _write(_gunzip(packed, whole=is_whole), unpacked, limit, bytes_max)
        packed.unlink()
    elif magic == b"PK\x03\x04":
        unpacked = folder / "unpacked"
        _unzip(packed, unpacked, limit, bytes_max)
        packed.unlink()
    elif magic == b"PK\x05\x06":
        raise ConfigError("expected a zip with one file, got an empty one")
    with unpacked.open("rb") as file:
        magic = file.read(4)
    if magic == b"PAR1":
        plain = folder / "plain.parquet"
        unpacked.rename(plain)
        return plain
    return _plain_text(unpacked, folder / "plain.csv")


def _write(blocks: Iterable[bytes], path: Path, limit: int, bytes_max: int) -> None:
    size = 0
    with path.open("wb") as file:
        for block in blocks:
            file.write(block)
            size += len(block)
            if size > limit:
                raise ConfigError(
                    f"expected a file that grows at most {PLAIN_RATIO_MAX} times when unpacked: this one grows more"
                )
            if size >= bytes_max:
                return


def _gunzip(path: Path, *, whole: bool) -> Iterator[bytes]:
    """The bytes of a gzip file of one or more members, in blocks; its end may be cut unless it is ``whole``."""
    unpacker = zlib.decompressobj(31)
    with path.open("rb") as file:
        rest, ended = b"", False
        try:
            while True:
                data = rest or file.read(BLOCK_BYTES)
                if not data:
                    yield unpacker.flush()
                    if whole and not unpacker.eof and not ended:
                        raise ConfigError("expected a gzip file, got one whose end is missing")
                    return
                yield unpacker.decompress(data, BLOCK_BYTES)
                ended = False
                rest = unpacker.unconsumed_tail
                if unpacker.eof:
                    rest = unpacker.unused_data
                    unpacker = zlib.decompressobj(31)
                    ended = True
                    if not rest.strip(b"\0"):
                        rest = b""
        except zlib.error as error:
            raise ConfigError(f"expected a gzip file, got a damaged one ({error})") from error


def _unzip(packed: Path, out: Path, limit: int, bytes_max: int) -> None:
    try:
        with zipfile.ZipFile(packed) as archive:
            inside = [
                entry
                for entry in archive.infolist()
                if not entry.is_dir() and not entry.filename.startswith("__MACOSX/")
            ]
            if len(inside) != 1:
                raise ConfigError(f"expected a zip with one file, got {len(inside)}: send them one by one")
            with archive.open(inside[0]) as file:
                _write(iter(lambda: file.read(BLOCK_BYTES), b""), out, limit, bytes_max)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, zlib.error, EOFError) as error:
        raise ConfigError(f"expected a zip file without a password, got {error}") from error


def _plain_text(path: Path, plain: Path) -> Path:
    """The file in UTF-8 with lines that end in a line feed; itself when it is that already."""
    with path.open("rb") as file:
        head = file.read(WINDOW_BYTES)
    encoding = _encoding(path, head)
    has_returns_only = b"\r" in head and b"\n" not in head
    if encoding == "utf-8" and not has_returns_only:
        path.rename(plain)
        return plain
    decode = codecs.getincrementaldecoder(encoding)(errors="replace")
    newlines: Callable[[str], str] = (lambda text: text.replace("\r", "\n")) if has_returns_only else str
    with path.open("rb") as file, plain.open("wb") as out:
        while block := file.read(BLOCK_BYTES):
            out.write(newlines(decode.decode(block)).encode())
        out.write(newlines(decode.decode(b"", final=True)).encode())
    path.unlink()
    return plain


def _encoding(path: Path, head: bytes) -> str:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if b"\0" in head[:1024]:
        raise ConfigError(
            "expected a CSV file (also in gzip or zip) or a parquet file, got other binary data"
        )
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            if block.isascii():
                continue
            at = next(i for i, byte in enumerate(block) if byte >= 0x80)
            window = block[at : at + WINDOW_BYTES]
            return "utf-8" if _is_utf8_start(window) else "cp1252"
    return "utf-8"


def _is_utf8_start(window: bytes) -> bool:
    """Whether a text is UTF-8: what is beyond ASCII in it mostly is. Its last letter may be cut."""
    text = codecs.getincrementaldecoder("utf-8")(errors="replace").decode(window)
    wrong = text.count("\ufffd")
    return wrong * 2 <= sum(not letter.isascii() for letter in text)


def free_bytes(folder: Path) -> int:
    """Room on the disk of a folder."""
    return shutil.disk_usage(folder).free
