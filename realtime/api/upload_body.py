"""The bytes of an uploaded file, as they come: of a plain body, or of the file in a form."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from anomalyze.errors import TransientError
from anomalyze.ingestion.mapping import MAPPING_BYTES_MAX
from realtime.api.problems import Problem

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

__all__ = ["UploadBody", "check_upload_type"]

MEDIA_TYPES = frozenset(
    {
        "text/csv",
        "text/plain",
        "text/tab-separated-values",
        "application/csv",
        "application/vnd.ms-excel",
        "application/gzip",
        "application/x-gzip",
        "application/zip",
        "application/x-zip-compressed",
        "application/vnd.apache.parquet",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
    }
)


def check_upload_type(request: Request) -> str:
    """The media type of a body; 415 for what cannot be a file of rows."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind not in MEDIA_TYPES:
        raise Problem(
            415,
            "send the file as text/csv, application/gzip, application/zip, application/vnd.apache.parquet or "
            "application/octet-stream, or in a form as multipart/form-data",
            field="Content-Type",
            expected="a type of a file of rows",
            got=kind,
        )
    return kind


@dataclass(slots=True)
class UploadBody:
    """One request's file.

    Attributes
    ----------
    name
        The file's own name, when the form says it; known once the stream has begun.
    mapping
        The form's field ``mapping``; known once the stream has ended.
    """

    request: Request
    kind: str
    name: str = ""
    mapping: bytes = b""
    _files: int = 0
    _waiting: list[bytes] = field(default_factory=list)

    async def stream(self) -> AsyncIterator[bytes]:
        """The file's bytes."""
        try:
            if self.kind == "multipart/form-data":
                async for part in self._form():
                    yield part
            else:
                async for part in self.request.stream():
                    yield part
        except ClientDisconnect as error:
            raise TransientError("the client went away") from error

    async def _form(self) -> AsyncIterator[bytes]:
        _, options = parse_options_header(self.request.headers.get("content-type"))
        boundary = options.get(b"boundary")
        if not boundary:
            raise self._problem("a boundary in Content-Type", "none")
        parser = MultipartParser(boundary, self._callbacks())
        try:
            async for data in self.request.stream():
                parser.write(data)
                waiting, self._waiting[:] = list(self._waiting), []
                for part in waiting:
                    yield part
            parser.finalize()
        except MultipartParseError as error:
            raise self._problem("multipart/form-data", str(error)) from error
        if self._files != 1:
            raise self._problem("one field 'file' with a file", f"{self._files} of them")

    def _callbacks(self) -> MultipartCallbacks:
        header = {"name": b"", "value": b""}
        part = {"name": b""}

        def begin() -> None:
            part["name"] = b""

        def name(data: bytes, start: int, end: int) -> None:
            header["name"] += data[start:end]

        def value(data: bytes, start: int, end: int) -> None:
            header["value"] += data[start:end]

        def header_end() -> None:
            if header["name"].lower() == b"content-disposition":
                _, options = parse_options_header(header["value"])
                part["name"] = options.get(b"name", b"")
                if part["name"] == b"file":
                    self._files += 1
                    self.name = options.get(b"filename", b"").decode(errors="replace")
            header["name"] = header["value"] = b""

        def content(data: bytes, start: int, end: int) -> None:
            if part["name"] == b"file" and self._files == 1:
                self._waiting.append(data[start:end])
            elif part["name"] == b"mapping":
                self.mapping += data[start:end]
                if len(self.mapping) > MAPPING_BYTES_MAX:
                    raise self._problem(f"a mapping of at most {MAPPING_BYTES_MAX} bytes", "more")

        return {
            "on_part_begin": begin,
            "on_header_field": name,
            "on_header_value": value,
            "on_header_end": header_end,
            "on_part_data": content,
        }

    @staticmethod
    def _problem(expected: str, got: str) -> Problem:
        return Problem(422, f"form: expected {expected}, got {got}", field="body", expected=expected, got=got)
