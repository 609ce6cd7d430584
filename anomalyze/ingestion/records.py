"""Columns of a file as wire records of the log, whole columns at a time.

What cannot be read is refused here by row and column; the rest the log's own decoder judges, so that what passes
cannot become a dead letter later.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from anomalyze.events.decode import decode_records
from anomalyze.events.gazetteer import Gazetteer
from anomalyze.ingestion.convert import epoch_ms, json_number, json_text, status_word
from anomalyze.ingestion.mapping import NEEDED, NUMBERS, FileMapping

__all__ = ["FRAME", "Made", "Refused", "Source", "build_records"]

FRAME = {"ts": pl.Int64, "line": pl.Int64, "user": pl.String, "value": pl.String}


@dataclass(frozen=True, slots=True)
class Source:
    """Whose rows they are, what those without an id are named after, when they came, and by which way.

    ``received_ms`` stands for "now" when times are judged, so that reading a file again gives the same rows.
    """

    account_id: str
    digest: str
    received_ms: int
    future_tolerance_ms: int
    kind: str = "CSV"


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
    values = _wire_values(fields, ts, mapping, source)
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
    fields: dict[str, pl.Series], ts: pl.Series, mapping: FileMapping, source: Source
) -> pl.Series:
    stamp = ts.cast(pl.Datetime("ms"), strict=False).dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
    account = msgspec.json.encode(source.account_id).decode()
    parts: list[pl.Series | pl.Expr] = [
        pl.lit('{"meta":{"timestamp":"'),
        stamp,
        pl.lit(f'","source":"{source.kind}","user_id":'),
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
    if mapping.time_resolution == "day":
        parts.append(pl.lit(',"time_resolution":"day"'))
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
