"""What a query streams, as CSV that is streamed too: never all of it in memory."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

__all__ = ["stream_csv"]

Connection = TypeVar("Connection")

# What is gathered before it is sent, in characters.
_PIECE_CHARACTERS = 32_768


async def stream_csv(
    head: Sequence[str],
    lent: AbstractAsyncContextManager[Connection],
    read: Callable[[Connection], AsyncIterable[Iterable[object]]],
) -> AsyncIterator[str]:
    """A line of heads and a line for each row, in pieces.

    Parameters
    ----------
    lent
        Lends the connection for as long as rows are read.
    read
        The rows, read from it.
    """
    buffer = io.StringIO()
    write = csv.writer(buffer).writerow
    write(head)
    async with lent as connection:
        async for row in read(connection):
            write(row)
            if buffer.tell() > _PIECE_CHARACTERS:
                yield buffer.getvalue()
                buffer.seek(0)
                buffer.truncate()
    yield buffer.getvalue()
