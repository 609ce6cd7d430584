"""Where the records of a CSV file begin and end: one compiled pass that knows quotes as RFC 4180 has them.

A quote opens a field only at its beginning, and inside quotes two of them are one. A quote anywhere else is a
character like others: the record is marked, so that it can be rewritten before a stricter reader sees it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["RECORD_BYTES_MAX", "Records", "split_records"]

# A record longer than this is one whose quote never closes: it ends with its first line.
RECORD_BYTES_MAX = 256 * 1024

_QUOTE, _NEWLINE, _RETURN = np.uint8(34), np.uint8(10), np.uint8(13)


@dataclass(frozen=True, slots=True)
class Records:
    """Records of a block of bytes, in order; blank lines are left out.

    Attributes
    ----------
    start, end
        int64 ``[n]``: bytes of each, without its line's end.
    line
        int64 ``[n]``: lines of the block before it.
    columns
        int32 ``[n]``: fields in it.
    irregular
        bool ``[n]``: a quote stands where RFC 4180 knows none.
    used, lines
        Bytes and lines of all of it; what follows is the beginning of a record.
    """

    start: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]
    line: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int32]
    irregular: npt.NDArray[np.bool_]
    used: int
    lines: int

    def __len__(self) -> int:
        return len(self.start)


def split_records(block: bytes, delimiter: str, *, last: bool) -> Records:
    """Find the records of a block that begins with one.

    Parameters
    ----------
    last
        The file ends here: a record needs no line end, and an open quote is closed.

    >>> found = split_records(b'a,"b\\n1"\\n\\nc,d\\ne', ",", last=False)
    >>> found.line.tolist(), found.columns.tolist(), found.used
    ([0, 3], [2, 2], 14)
    """
    data = np.frombuffer(block, dtype=np.uint8)
    capacity = block.count(b"\n") + 1
    start = np.empty(capacity, dtype=np.int64)
    end = np.empty(capacity, dtype=np.int64)
    line = np.empty(capacity, dtype=np.int64)
    columns = np.empty(capacity, dtype=np.int32)
    irregular = np.empty(capacity, dtype=np.bool_)
    n, used, lines = _split(
        data, np.uint8(ord(delimiter)), last, RECORD_BYTES_MAX, start, end, line, columns, irregular
    )
    return Records(start[:n], end[:n], line[:n], columns[:n], irregular[:n], used, lines)


@njit(cache=True, nogil=True)
def _split(data, delimiter, last, bytes_max, start, end, line, columns, irregular):  # type: ignore[no-untyped-def]
    n = 0
    size = len(data)
    i = 0
    lines = 0
    while i < size:
        begin = i
        begin_lines = lines
        fields = 1
        odd = False
        inside = False
        at_field = True
        closed = False
        first_newline = -1
        complete = False
        while i < size:
            byte = data[i]
            if inside:
                if byte == _QUOTE:
                    if i + 1 < size and data[i + 1] == _QUOTE:
                        i += 1
                    else:
                        inside = False
                        closed = True
                elif byte == _NEWLINE:
                    if first_newline < 0:
                        first_newline = i
                    lines += 1
                    if i - begin > bytes_max:
                        break
            elif byte == _NEWLINE:
                complete = True
                break
            elif byte == delimiter:
                fields += 1
                at_field = True
                closed = False
                i += 1
                continue
            elif byte == _QUOTE:
                if at_field:
                    inside = True
                else:
                    odd = True
            elif closed and byte != _RETURN:
                odd = True
            at_field = False
            i += 1
        if not complete:
            if inside and first_newline >= 0 and (i < size or last or i - begin > bytes_max):
                # The quote closes nowhere: only the line that it stands in is lost.
                i = first_newline
                lines = begin_lines
                odd = True
            elif i >= size and not last and i - begin <= bytes_max:
                return n, begin, begin_lines
        stop = min(i, size)
        if stop > begin and data[stop - 1] == _RETURN:
            stop -= 1
        if stop > begin:
            start[n] = begin
            end[n] = stop
            line[n] = begin_lines
            columns[n] = fields
            irregular[n] = odd
            n += 1
        lines += 1
        i += 1
    return n, min(i, size), lines
