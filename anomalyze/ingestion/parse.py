"""Rows of a file as records of the log: in blocks, so that a file of any size needs the memory of one.

A block's records are found by `split_records`, its columns read by polars and turned into wire records by whole
columns; the log's own decoder judges the result, so that what passes here cannot become a dead letter later.
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
from anomalyze.events.decode import decode_records
from anomalyze.events.gazetteer import Gazetteer
from anomalyze.ingestion.convert import epoch_ms, json_number, json_text, status_word
from anomalyze.ingestion.mapping import NEEDED, NUMBERS, FileMapping
from anomalyze.ingestion.split import Records, split_records

__all__ = ["BLOCK_BYTES", "Chunk", "RowError", "Source", "column_names", "parse_file"]

BLOCK_BYTES = 8 * 1024 * 1024
PARQUET_ROWS = 65_536
RAW_CHARACTERS_MAX = 2_000
COLUMNS_MAX = 1_000

FRAME = {"ts": pl.Int64, "line": pl.Int64, "user": pl.String, "value": pl.String}


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


@dataclass(frozen=True, slots=True)
class Source:
    """Whose file it is, what its rows without an id are named after, and when it came.

    ``received_ms`` stands for "now" when times are judged, so that reading a file again gives the same rows.
    """

    account_id: str
    digest: str
    received_ms: int
    future_tolerance_ms: int


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


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that was refused, by its place in the frame."""

    index: int
    line: int
    column: str
    reason: str


@dataclass(frozen=True, slots=True)
class Made:
    """Wire records of a frame, and the rows that are none."""

    frame: pl.DataFrame
    refused: list[Refused]


def build_records(
    frame: pl.DataFrame, lines: npt.NDArray[np.int64], mapping: FileMapping, source: Source
) -> Made:
    """The rows of a frame of a file's columns as wire records.

    Parameters
    ----------
    lines
        int64 ``[rows]``: the line of each row.
    """
    rows = frame.height
    if rows == 0:
        return Made(pl.DataFrame(schema=FRAME), [])
    raw = {field: frame[column] for field, column in mapping.fields.items()}
    raw = {field: _stripped(column) for field, column in raw.items()}
    ts = epoch_ms(raw["timestamp"], mapping.time_format, mapping.time_zone)
    fields: dict[str, pl.Series] = {}
    for field, column in raw.items():
        if field == "timestamp":
            continue
        if field in NUMBERS:
            decimal = mapping.decimal
            fields[field] = json_number(column, decimal)
            if field == "amount" and mapping.refunds == "positive":
                fields[field] = _negated(fields[field])
        else:
            text = column if column.dtype == pl.String else _as_text(column)
            if field == "status":
                text = status_word(text, mapping.statuses)
            fields[field] = json_text(text)
    if "tx_id" not in fields:
        fields["tx_id"] = pl.select(
            pl.concat_str(pl.lit(f'"{source.digest[:16]}-'), pl.Series(lines).cast(pl.String), pl.lit('"'))
        ).to_series()
    values = _wire_values(fields, ts, mapping, source.account_id)
    refused = _unread(raw, fields, ts, lines, mapping)
    bad = {one.index for one in refused}
    records = values.cast(pl.Binary).to_list()
    judged = [i for i in range(rows) if i not in bad] if bad else range(rows)
    refused += _judge(records, judged, lines, mapping, source)
    user = raw["user_id"]
    out = pl.DataFrame(
        {
            "ts": ts,
            "line": lines,
            "user": user if user.dtype == pl.String else _as_text(user),
            "value": values,
        },
        schema=FRAME,
    )
    if refused:
        keep = np.ones(rows, dtype=np.bool_)
        keep[[one.index for one in refused]] = False
        out = out.filter(pl.Series(keep))
    return Made(out, refused)


def _wire_values(
    fields: dict[str, pl.Series], ts: pl.Series, mapping: FileMapping, account_id: str
) -> pl.Series:
    stamp = ts.cast(pl.Datetime("ms"), strict=False).dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
    account = msgspec.json.encode(account_id).decode()
    parts: list[pl.Series | pl.Expr] = [
        pl.lit('{"meta":{"timestamp":"'),
        stamp,
        pl.lit('","source":"CSV","user_id":'),
        fields["user_id"],
        pl.lit(f',"account_id":{account}}},"data":{{"tx_id":'),
        fields["tx_id"],
    ]
    for field in ("amount", "currency"):
        if field in fields:
            parts += [pl.lit(f',"{field}":'), fields[field]]
    for field, column in fields.items():
        if field not in NEEDED:
            # Absent where the file has nothing; a part that is null is left out.
            parts.append(pl.concat_str(pl.lit(f',"{field}":'), column))
    for field, value in mapping.constants.items():
        shown = value if field in NUMBERS else msgspec.json.encode(value).decode()
        parts.append(pl.lit(f',"{field}":{shown}'))
    parts.append(pl.lit("}}"))
    return pl.select(pl.concat_str(parts, ignore_nulls=True)).to_series()


def _unread(
    raw: dict[str, pl.Series],
    fields: dict[str, pl.Series],
    ts: pl.Series,
    lines: npt.NDArray[np.int64],
    mapping: FileMapping,
) -> list[Refused]:
    """Rows that lack a value or have one that cannot be read."""
    found: dict[int, Refused] = {}
    form = mapping.time_format
    expected = {
        "timestamp": "a time such as 2025-12-20 12:00:00" if form == "iso" else f"a time as {form}",
        **dict.fromkeys(NUMBERS, "a number"),
    }
    for field, column in raw.items():
        read = ts if field == "timestamp" else fields[field]
        if not read.null_count():
            continue
        missing = read.is_null() if field in NEEDED else read.is_null() & column.is_not_null()
        for i in missing.arg_true().to_list():
            value = column[i]
            reason = f"{field}: expected " + (
                f"{expected.get(field, 'a value')}, got {str(value)[:120]}"
                if value is not None
                else "a value, got nothing"
            )
            found.setdefault(i, Refused(i, int(lines[i]), mapping.fields[field], reason))
    return list(found.values())


def _judge(
    records: list[bytes],
    judged: list[int] | range,
    lines: npt.NDArray[np.int64],
    mapping: FileMapping,
    source: Source,
) -> list[Refused]:
    """What the log's own decoder would not take."""
    n = len(judged)
    decoded = decode_records(
        [0] * n,
        range(n),
        [source.received_ms] * n,
        records if n == len(records) else [records[i] for i in judged],
        partition_count=0,
        future_tolerance_ms=source.future_tolerance_ms,
        gazetteer=Gazetteer.load(),
    )
    refused = []
    for letter in decoded.dead:
        index = judged[letter.offset]
        field = letter.field.removeprefix("data.").removeprefix("meta.")
        column = mapping.fields.get(field, "")
        reason = f"{field or 'row'}: expected {letter.expected}, got {letter.got}"
        refused.append(Refused(index, int(lines[index]), column, reason))
    return refused


def _stripped(column: pl.Series) -> pl.Series:
    if column.dtype == pl.Categorical or isinstance(column.dtype, pl.Enum):
        column = column.cast(pl.String)
    if column.dtype != pl.String:
        return column
    column = column.str.strip_chars()
    return column.set(column == "", None) if (column == "").any() else column


def _as_text(column: pl.Series) -> pl.Series:
    """Numbers as a file would write them: ids kept as floats lose their .0."""
    text = column.cast(pl.String, strict=False)
    return text.str.replace(r"\.0$", "") if column.dtype.is_float() else text


def _negated(column: pl.Series) -> pl.Series:
    negative = column.str.starts_with("-").fill_null(False)
    minus = pl.select(pl.concat_str(pl.lit("-"), column)).to_series()
    return minus.zip_with(~negative, column.str.slice(1)).set(column.is_null(), None)


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
