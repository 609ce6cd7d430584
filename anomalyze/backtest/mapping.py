"""Which column of a file is which field of a transaction, and the file's rows as records of the log.

A mapping is YAML or options of the command line::

    fields:
      tx_id: TRANSACTION_ID
      user_id: CUSTOMER_ID
      timestamp: TX_DATETIME
      amount: TX_AMOUNT
      merchant_id: TERMINAL_ID
    constants: {currency: USD, channel: card_present}
    label: TX_FRAUD
    time_zone: UTC
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
from pydantic import Field, ValidationError, model_validator

from anomalyze.config import StrictModel, load_document, validate
from anomalyze.errors import ConfigError
from anomalyze.ingestion.mapping import FIELDS as FILE_FIELDS
from anomalyze.ingestion.mapping import NEEDED, NUMBERS

__all__ = ["FIELDS", "ColumnMapping", "SourceChunk", "count_rows", "load_mapping", "read_file"]

FIELDS = (*FILE_FIELDS, "account_id", "time_resolution")
CHUNK_ROWS = 50_000
OFFSET = re.compile(r"(?:[Zz]|[+-][0-9]{2}:?[0-9]{2})$")


class ColumnMapping(StrictModel):
    """Where the fields of a transaction come from; texts are never guessed."""

    fields: dict[str, str] = Field(description="field of a transaction: column of the file")
    constants: dict[str, str] = Field(default={}, description="fields that every row has alike")
    label: str | None = Field(default=None, description="column that is 1 (or true) for fraud")
    time_zone: str = Field(default="UTC", description="zone of times without an offset")

    @model_validator(mode="after")
    def _complete(self) -> ColumnMapping:
        known = {*self.fields, *self.constants}
        unknown, missing = sorted(known - {*FIELDS}), sorted({*NEEDED} - known)
        if unknown:
            raise ValueError(
                f"expected fields of a transaction ({', '.join(FIELDS)}), got {', '.join(unknown)}"
            )
        if missing:
            raise ValueError(f"expected a column or a constant for {', '.join(missing)}")
        if "timestamp" not in self.fields:
            raise ValueError("expected a column for timestamp, got a constant")
        return self

    @classmethod
    def of_options(cls, pairs: list[str], base: ColumnMapping | None = None) -> ColumnMapping:
        """A mapping from ``field=column`` options; ``field='text'`` is a constant, ``label=column`` the label."""
        values: dict[str, Any] = {"fields": {}, "constants": {}} if base is None else base.model_dump()
        for pair in pairs:
            name, sign, column = pair.partition("=")
            if not sign or not name or not column:
                raise ConfigError(f"--map {pair}: expected field=column, such as amount=TX_AMOUNT")
            if name in ("label", "time_zone"):
                values[name] = column
            elif column[0] == column[-1] == "'":
                values["fields"].pop(name, None)
                values["constants"][name] = column[1:-1]
            else:
                values["constants"].pop(name, None)
                values["fields"][name] = column
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"--map: {error.errors()[0]['msg']}") from error


def load_mapping(path: Path) -> ColumnMapping:
    """Read a mapping's YAML.

    Raises
    ------
    ConfigProblems
        Every mistake, with file and line.
    """
    return validate(load_document(path), ColumnMapping)


class SourceChunk(msgspec.Struct, frozen=True):
    """Rows of a source as records of the log, in the order of their time.

    ``users`` are the keys; ``append_ms`` is each row's own event time, as if it had arrived at once;
    ``labels`` are 1 for fraud, 0 for genuine, -1 where nothing is known.
    """

    users: list[str]
    append_ms: list[int]
    values: list[bytes]
    labels: list[int]


def read_file(
    path: Path,
    mapping: ColumnMapping,
    account_id: str,
    *,
    start_ms: int | None = None,
    end_ms: int | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> Iterator[SourceChunk]:
    """A CSV or parquet file, sorted by time (ties keep the file's order), in chunks.

    Raises
    ------
    ConfigError
        The file cannot be read, or lacks a column that the mapping names.
    """
    frame = load_frame(path, mapping)
    if start_ms is not None:
        frame = frame.filter(pl.col("timestamp") >= start_ms)
    if end_ms is not None:
        frame = frame.filter(pl.col("timestamp") < end_ms)
    frame = frame.sort("timestamp", maintain_order=True)
    for chunk in frame.iter_slices(chunk_rows):
        yield encode_chunk(chunk, account_id)


def count_rows(path: Path) -> int:
    """Rows of a CSV or parquet file."""
    return int(scan(path)[0].select(pl.len()).collect().item())


def scan(path: Path) -> tuple[pl.LazyFrame, pl.Schema]:
    """A file's rows, unread, and its columns."""
    try:
        lazy = (
            pl.scan_parquet(path)
            if path.suffix == ".parquet"
            else pl.scan_csv(path, infer_schema_length=10_000)
        )
        return lazy, lazy.collect_schema()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(f"{path}: expected a CSV or parquet file, got {error}") from error


def load_frame(path: Path, mapping: ColumnMapping) -> pl.DataFrame:
    """The mapped columns under their fields' names; ``timestamp`` as ms since 1970, ``label`` int8."""
    lazy, schema = scan(path)
    wanted = [*mapping.fields.values(), *([mapping.label] if mapping.label else [])]
    missing = sorted({*wanted} - {*schema.names()})
    if missing:
        raise ConfigError(
            f"{path}: expected the columns {', '.join(missing)}; the file has {', '.join(schema.names()[:40])}"
        )
    columns = [
        text_or_number(pl.col(column), field, schema[column]).alias(field)
        for field, column in mapping.fields.items()
        if field != "timestamp"
    ]
    at = mapping.fields["timestamp"]
    columns.append(epoch_ms(lazy, at, schema[at], mapping.time_zone).alias("timestamp"))
    columns += [pl.lit(text).alias(field) for field, text in mapping.constants.items()]
    label = pl.col(mapping.label).cast(pl.Int8).fill_null(-1) if mapping.label else pl.lit(-1, pl.Int8)
    try:
        return lazy.select(*columns, label.alias("label")).collect()
    except pl.exceptions.PolarsError as error:
        raise ConfigError(f"{path}: {error}") from error


def text_or_number(column: pl.Expr, field: str, dtype: pl.DataType) -> pl.Expr:
    """A column as its field wants it."""
    if field in NUMBERS:
        # Files written from float64 hold 85.64999999999999; nine decimals are more than any currency has.
        return column.cast(pl.Float64).round(9)
    return column.cast(pl.String)


def epoch_ms(lazy: pl.LazyFrame, name: str, dtype: pl.DataType, time_zone: str) -> pl.Expr:
    """Times as ms since 1970; without an offset they are of ``time_zone``."""
    column = pl.col(name)
    if dtype == pl.String:
        first = lazy.select(column.drop_nulls().first()).collect().item()
        if first is not None and OFFSET.search(first):
            return column.str.to_datetime(time_unit="us", time_zone="UTC").dt.epoch("ms")
        column, dtype = column.str.to_datetime(time_unit="us"), pl.Datetime("us")
    if isinstance(dtype, pl.Date):
        column, dtype = column.cast(pl.Datetime("us")), pl.Datetime("us")
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is None:
        column = column.dt.replace_time_zone(time_zone, ambiguous="earliest", non_existent="null")
    return column.dt.epoch("ms")


def encode_chunk(chunk: pl.DataFrame, account_id: str) -> SourceChunk:
    """Rows as wire records; an amount keeps at most the decimals that its float64 has."""
    append_ms = chunk["timestamp"].to_list()
    stamps = chunk["timestamp"].cast(pl.Datetime("ms")).dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_list()
    users = chunk["user_id"].to_list()
    accounts = chunk["account_id"].to_list() if "account_id" in chunk.columns else [account_id] * len(users)
    names = [n for n in chunk.columns if n not in ("timestamp", "user_id", "account_id", "label")]
    rows = zip(*(chunk[name].to_list() for name in names), strict=True)
    encode = msgspec.json.encode
    values = [
        encode(
            {
                "meta": {"timestamp": stamp, "source": "CSV", "user_id": user, "account_id": account},
                "data": {name: value for name, value in zip(names, row, strict=True) if value is not None},
            }
        )
        for stamp, user, account, row in zip(stamps, users, accounts, rows, strict=True)
    ]
    return SourceChunk(users, append_ms, values, chunk["label"].to_list())
