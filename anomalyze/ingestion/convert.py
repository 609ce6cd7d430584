"""Columns of text as fields of the wire form: whole columns at a time, null where a value cannot be read."""

from __future__ import annotations

import msgspec
import polars as pl

__all__ = ["epoch_ms", "json_number", "json_text", "status_word"]

_NUMBER = r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?$"
_MANY_DECIMALS = r"\.[0-9]{10,}$"
_NEEDS_ESCAPE = r'["\\\x00-\x1f]'
_OFFSET = r"(?:[Zz]|[+-][0-9]{2}:?[0-9]{2})$"
_ISO_NAIVE = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")
_EPOCH_MS = {"epoch_s": 1000.0, "epoch_ms": 1.0, "epoch_us": 0.001}
# What files call the five statuses.
STATUS_WORDS = {
    "approved": "ok success successful succeeded completed complete settled captured paid posted accepted 1 y yes true",
    "pending": "authorised authorized processing open initiated",
    "declined": "failed failure rejected refused denied error 0 n no false",
    "refunded": "refund",
    "reversed": "reversal chargeback void voided cancelled canceled",
}
_STATUS = {word: status for status, words in STATUS_WORDS.items() for word in (status, *words.split())}


def epoch_ms(column: pl.Series, time_format: str, time_zone: str) -> pl.Series:
    """Times as milliseconds since 1970 UTC; null where one cannot be read as ``time_format`` says.

    Times without an offset are of ``time_zone``: of two moments with one name the earlier, of none null.
    """
    if column.dtype == pl.Date:
        column = column.cast(pl.Datetime("us"))
    if isinstance(column.dtype, pl.Datetime):
        if column.dtype.time_zone is None:
            column = _in_zone(column, time_zone)
        return column.dt.epoch("ms")
    factor = _EPOCH_MS.get(time_format)
    if column.dtype.is_numeric():
        # A number is an epoch, whatever the format says; seconds when it does not say.
        return (column.cast(pl.Float64) * (factor or 1000.0)).round().cast(pl.Int64, strict=False)
    if factor is not None:
        return (column.cast(pl.Float64, strict=False) * factor).round().cast(pl.Int64, strict=False)
    if time_format != "iso":
        found = column.str.to_datetime(time_format, time_unit="us", strict=False)
        if "%z" in time_format:
            return found.dt.epoch("ms")
        return _in_zone(found, time_zone).dt.epoch("ms")
    return _iso_ms(column, time_zone)


def _iso_ms(column: pl.Series, time_zone: str) -> pl.Series:
    text = column.str.replace(r"^([0-9]{4}-[0-9]{2}-[0-9]{2})[ t]", "${1}T")
    has_offset = text.str.contains(_OFFSET)
    frame = pl.DataFrame({"text": text, "offset": has_offset})
    out = pl.Series("ms", [None] * len(text), dtype=pl.Int64)
    if has_offset.any():
        dated = (
            frame["text"]
            .str.replace(r"[Zz]$", "+00:00")
            .str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%z", time_unit="us", strict=False)
        )
        out = dated.dt.epoch("ms")
    if not has_offset.all():
        for pattern in _ISO_NAIVE:
            missing = out.is_null() & text.is_not_null() & ~has_offset
            if not missing.any():
                break
            found = _in_zone(text.str.to_datetime(pattern, time_unit="us", strict=False), time_zone)
            out = out.zip_with(~missing, found.dt.epoch("ms"))
    return out


def _in_zone(column: pl.Series, time_zone: str) -> pl.Series:
    return column.dt.replace_time_zone(time_zone, ambiguous="earliest", non_existent="null")


def json_number(column: pl.Series, decimal: str) -> pl.Series:
    """Numbers as JSON writes them; null where there is none.

    Thousands' marks, a currency's sign or code beside the figure, a plus, a minus behind it and accountants'
    brackets are understood. Files written from float64 hold 85.64999999999999: nine decimals are more than any
    currency has.
    """
    if column.dtype.is_numeric() or column.dtype.is_decimal():
        if column.dtype.is_integer():
            return column.cast(pl.String)
        column = column.cast(pl.Float64)
        column = column.set(column.is_nan() | column.is_infinite(), None)
        column = column.round(9)
        return column.cast(pl.String).str.replace(r"\.0$", "")
    text = column
    if decimal == "," or not text.str.contains(_NUMBER).fill_null(True).all():
        text = _plain_number(text, decimal)
    many = text.str.contains(_MANY_DECIMALS)
    if many.any():
        short = text.cast(pl.Float64, strict=False).round(9).cast(pl.String)
        text = text.zip_with(~many.fill_null(False), short)
    return text


def _plain_number(text: pl.Series, decimal: str) -> pl.Series:
    marks = "." if decimal == "," else ","
    # A mark counts only between groups of three: 1,5 in a file with decimal points is a mistake, not fifteen.
    grouped = rf"^([^0-9]*[0-9]{{1,3}}(?:[{marks} '\u00a0\u202f][0-9]{{3}})+(?:[{decimal}][0-9]*)?[^0-9]*)$"
    plain = text.str.replace(r"^[\p{Sc}\s]*(?:[A-Z]{3}\s+)?", "").str.replace(r"\s*(?:[A-Z]{3}|\p{Sc})$", "")
    plain = plain.str.replace(r"^\((.*)\)$", "-${1}").str.replace(r"^([^-].*)-$", "-${1}")
    plain = plain.str.replace(r"^([+-]?)\s*\p{Sc}\s*", "${1}").str.replace_all("\u2212", "-")
    is_grouped = plain.str.contains(grouped)
    if is_grouped.any():
        joined = plain.str.replace_all(rf"[{marks} '\u00a0\u202f]", "")
        plain = plain.zip_with(~is_grouped.fill_null(False), joined)
    if decimal == ",":
        # What still has a point after the grouping marks went is no number of such a file.
        has_point = plain.str.contains(".", literal=True) & ~is_grouped
        plain = plain.set(has_point.fill_null(False), None)
        plain = plain.str.replace(",", ".", literal=True)
    plain = (
        plain.str.replace(r"^\+", "")
        .str.replace(r"^(-?)0+([0-9])", "${1}${2}")
        .str.replace(r"^(-?)\.", "${1}0.")
        .str.replace(r"\.$", "")
    )
    is_number = plain.str.contains(r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?$")
    return plain.set(~is_number.fill_null(True), None)


def json_text(column: pl.Series) -> pl.Series:
    """Texts as JSON strings with their quotes; null stays null."""
    if column.str.contains(_NEEDS_ESCAPE).any():
        encode = msgspec.json.encode
        return pl.Series(
            column.name,
            [None if value is None else encode(value).decode() for value in column.to_list()],
            dtype=pl.String,
        )
    return pl.select(pl.concat_str(pl.lit('"'), column, pl.lit('"'))).to_series()


def status_word(column: pl.Series, statuses: dict[str, str]) -> pl.Series:
    """A file's words for statuses as ours; a word that nobody knows stays, and is refused later."""
    words = column.unique().drop_nulls().to_list()
    known = {word: statuses.get(word) or _STATUS.get(word.lower(), word) for word in words}
    return column.replace(known)
