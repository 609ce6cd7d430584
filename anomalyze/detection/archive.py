"""A set of named byte strings as one plain tar file, the same bytes for the same set."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Mapping

from anomalyze.errors import ContractError

__all__ = ["FILE_NAME", "read_archive", "write_archive"]

FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PARTS_MAX = 4_096


def write_archive(parts: Mapping[str, bytes]) -> bytes:
    """A POSIX ustar archive: sorted names, no times, no owners."""
    out = io.BytesIO()
    for name in sorted(parts):
        header = tarfile.TarInfo(name)
        header.size = len(parts[name])
        header.mode = 0o444
        out.write(header.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict"))
        out.write(parts[name])
        out.write(bytes(-len(parts[name]) % tarfile.BLOCKSIZE))
    out.write(bytes(2 * tarfile.BLOCKSIZE))
    return out.getvalue()


def read_archive(data: bytes) -> dict[str, bytes]:
    """Plain files of an archive by name.

    Raises
    ------
    ContractError
        When it is cut off or no tar file, or a member is anything but a plain file with a plain name, at
        most one folder deep. Nothing is ever written to disk under such a name.
    """
    parts: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:", format=tarfile.USTAR_FORMAT) as archive:
            for member in archive:
                segments = member.name.split("/")
                if (
                    member.type != tarfile.REGTYPE
                    or member.issparse()
                    or len(segments) > 2
                    or not all(map(FILE_NAME.fullmatch, segments))
                ):
                    raise ContractError(
                        f"bundle: expected plain files with plain names, got {member.name[:80]!r}"
                    )
                if member.name in parts or len(parts) >= _PARTS_MAX:
                    raise ContractError(
                        f"bundle: {member.name[:80]!r} comes twice, or over {_PARTS_MAX} parts came"
                    )
                file = archive.extractfile(member)
                parts[member.name] = b"" if file is None else file.read()
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError) as error:
        raise ContractError(f"bundle: expected a whole tar file, got {len(data)} bytes: {error}") from error
    return parts
