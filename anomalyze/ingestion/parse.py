"""Rows of a file as records of the log: in blocks, so that a file of any size needs the memory of one.

A block's records are found by `split_records`, its columns read by polars and turned into wire records by
`build_records`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from anomalyze.errors import ConfigError
from anomalyze.ingestion.mapping import FileMapping
from anomalyze.ingestion.records import Source, build_records
from anomalyze.ingestion.split import Records, split_records

__all__ = ["BLOCK_BYTES", "Chunk", "RowError", "column_names", "parse_file"]

BLOCK_BYTES = 8 * 1024 * 1024
PARQUET_ROWS = 65_536
RAW_CHARACTERS_MAX = 2_000


@dataclass(frozen=True, slots=True)
class RowError:
    """A row that was refused: its line in the file (from 1), the column, why, and the line as it came."""

    line: int
    column: str
    reason: str
    raw: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a file: accepted rows (``ts`` ms, ``line``, ``user``, ``value``), refused ones, rows read."""

    frame: pl.DataFrame
    errors: list[RowError]
    rows: int


def column_names(first: list[str], *, header: bool) -> list[str]:
    """Names of a file's columns; empty and repeated ones get their number behind them.

    >>> column_names(["a", "", "a"], header=True), column_names(["1", "2"], header=False)
    (['a', 'column_2', 'a_3'], ['column_1', 'column_2'])
    """
    names: list[str] = []
    for number, cell in enumerate(first, 1):
        name = cell.strip().lstrip("\ufeff") if header else ""
        if not name:
            name = f"column_{number}"
        names.append(f"{name}_{number}" if name in names else name)
    return names


def parse_file(path: Path, mapping: FileMapping, source: Source) -> Iterator[Chunk]:
    """A plain CSV (UTF-8) or parquet file in chunks, in the file's order.

    Raises
    ------
    ConfigError
        The file lacks a column that the mapping names, or cannot be read at all.
    """
    if path.suffix == ".parquet":
        yield from _parse_parquet(path, mapping, source)
    else:
        yield from _parse_csv(path, mapping, source)


def _parse_csv(path: Path, mapping: FileMapping, source: Source) -> Iterator[Chunk]:
    names: list[str] = []
    line, rest, last = 1, b"", False
    with path.open("rb") as file:
        while not last:
            block = file.read(BLOCK_BYTES)
            last = len(block) < BLOCK_BYTES
            block = rest + block
            records = split_records(block, mapping.delimiter, last=last)
            rest = block[records.used :]
            skip = 0
            if not names and len(records):
                first = _cells(block[records.start[0] : records.end[0]], mapping.delimiter)
                names = column_names(first, header=mapping.header)
                check_columns(names, mapping)
                skip = int(mapping.header)
            if len(records) > skip:
                yield _csv_chunk(block, records, skip, line, names, mapping, source)
            line += records.lines


def check_columns(names: list[str], mapping: FileMapping) -> None:
    """Raises ``ConfigError`` when a column of the mapping is missing."""
    if missing := sorted({*mapping.fields.values()} - {*names}):
        raise ConfigError(f"expected the columns {', '.join(missing)}; the file has {', '.join(names[:40])}")


def _csv_chunk(
    block: bytes,
    records: Records,
    skip: int,
    line: int,
    names: list[str],
    mapping: FileMapping,
    source: Source,
) -> Chunk:
    n = len(records)
    errors: list[RowError] = []
    lines = records.line + line
    good = (records.columns == len(names)) & ~records.irregular
    good[:skip] = False
    mended: dict[int, bytes] = {}
    if not _is_utf8(block[: records.used]):
        for i in range(skip, n):
            if not _is_utf8(block[records.start[i] : records.end[i]]):
                good[i] = False
                errors.append(_row_error(block, records, lines, i, "", "text in UTF-8", "other bytes"))
                mended[i] = b""
    for i in np.flatnonzero(~good).tolist():
        if i < skip or i in mended:
            continue
        cells = _cells(block[records.start[i] : records.end[i]], mapping.delimiter)
        if len(cells) == len(names):
            mended[i] = _quoted(cells, mapping.delimiter)
            good[i] = True
        else:
            errors.append(_row_error(block, records, lines, i, "", f"{len(names)} columns", str(len(cells))))
    kept = np.flatnonzero(good)
    frame = _read_block(_kept_bytes(block, records, kept, mended), len(kept), names, mapping)

    def raw(i: int) -> str:
        at = kept[i]
        return block[records.start[at] : records.end[at]].decode(errors="replace")[:RAW_CHARACTERS_MAX]

    made = build_records(frame, lines[kept], mapping, source)
    errors += [RowError(e.line, e.column, e.reason, raw(e.index)) for e in made.refused]
    return Chunk(made.frame, sorted(errors, key=lambda e: e.line), n - skip)


def _kept_bytes(
    block: bytes, records: Records, kept: npt.NDArray[np.int64], mended: dict[int, bytes]
) -> bytes:
    """The records that polars is to read; nearly always the block itself, from the first one on."""
    if len(kept) == 0:
        return b""
    start, end = records.start[kept], records.end[kept]
    if not mended and np.all(start[1:] - end[:-1] <= 2) and kept[-1] - kept[0] == len(kept) - 1:
        return block[start[0] : end[-1]]
    return b"\n".join(
        mended.get(i) or block[a:b]
        for i, a, b in zip(kept.tolist(), start.tolist(), end.tolist(), strict=True)
    )


def _read_block(data: bytes, rows: int, names: list[str], mapping: FileMapping) -> pl.DataFrame:
    """The mapped columns of a block as text under their own names."""
    wanted = sorted({names.index(column) for column in mapping.fields.values()})
    if rows == 0:
        return pl.DataFrame(schema={names[i]: pl.String for i in wanted})
    try:
        frame = pl.read_csv(
            io.BytesIO(data),
            has_header=False,
            new_columns=[f"c{i}" for i in range(len(names))],
            columns=wanted,
            separator=mapping.delimiter,
            infer_schema=False,
        )
        if frame.height == rows:
            return frame.rename({f"c{i}": names[i] for i in wanted if f"c{i}" in frame.columns}).select(
                [names[i] for i in wanted]
            )
    except pl.exceptions.PolarsError:
        pass
    # Where two readers do not see the same rows, the slow one decides.
    cells = list(csv.reader(io.StringIO(data.decode(), newline=""), delimiter=mapping.delimiter))
    assert len(cells) == rows, (len(cells), rows)
    return pl.DataFrame(
        {names[i]: [row[i] or None for row in cells] for i in wanted},
        schema={names[i]: pl.String for i in wanted},
    )


def _parse_parquet(path: Path, mapping: FileMapping, source: Source) -> Iterator[Chunk]:
    try:
        lazy = pl.scan_parquet(path)
        names = lazy.collect_schema().names()
        check_columns(names, mapping)
        columns = list(dict.fromkeys(mapping.fields.values()))
        total = int(lazy.select(pl.len()).collect().item())
        for offset in range(0, total, PARQUET_ROWS):
            frame = lazy.select(columns).slice(offset, PARQUET_ROWS).collect()
            lines = np.arange(offset + 1, offset + 1 + frame.height, dtype=np.int64)
            made = build_records(frame, lines, mapping, source)
            errors = [
                RowError(
                    e.line,
                    e.column,
                    e.reason,
                    msgspec.json.encode(frame.row(e.index, named=True), enc_hook=str).decode()[
                        :RAW_CHARACTERS_MAX
                    ],
                )
                for e in made.refused
            ]
            yield Chunk(made.frame, errors, frame.height)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(f"expected a parquet file, got {str(error)[:300]}") from error


def _cells(record: bytes, delimiter: str) -> list[str]:
    try:
        return next(
            csv.reader(io.StringIO(record.decode(errors="replace"), newline=""), delimiter=delimiter), []
        )
    except csv.Error:
        return []


def _quoted(cells: list[str], delimiter: str) -> bytes:
    return delimiter.join('"' + cell.replace('"', '""') + '"' for cell in cells).encode()


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _row_error(
    block: bytes,
    records: Records,
    lines: npt.NDArray[np.int64],
    i: int,
    column: str,
    expected: str,
    got: str,
) -> RowError:
    raw = block[records.start[i] : records.end[i]].decode(errors="replace")[:RAW_CHARACTERS_MAX]
    return RowError(int(lines[i]), column, f"row: expected {expected}, got {got}", raw)
