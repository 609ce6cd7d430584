"""Which column of a file is probably which field, and how the file writes things; with what is not sure."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from anomalyze.errors import ConfigError
from anomalyze.events.gazetteer import COUNTRY_INDEX
from anomalyze.events.money import CURRENCY_INDEX
from anomalyze.ingestion.convert import epoch_ms, json_number
from anomalyze.ingestion.mapping import HEAD_BYTES, FileMapping
from anomalyze.ingestion.parse import column_names
from anomalyze.ingestion.split import split_records

__all__ = ["Guess", "guess_file"]

SAMPLE_ROWS = 500
COLUMNS_MAX = 1_000
DELIMITERS = (",", ";", "\t", "|")
# A column is what its name says when so much of it can be read as that.
SHARE_MIN = 0.8

# Names of columns without case and signs, the surest first.
NAMES: dict[str, str] = {
    "tx_id": "txid transactionid transid txnid transnum transactionnumber paymentid reference transactionreference"
    " orderid id",
    "user_id": "userid customerid customer ccnum cardid cardnumber clientid payerid accountnumber nameorig user cardholder",
    "timestamp": "timestamp txdatetime transdatetime transdatetranstime datetime transactiondate transactiontime"
    " bookingdate createdat created date time",
    "amount": "amount amt txamount transactionamount value total sum price betrag",
    "currency": "currency currencycode ccy waehrung",
    "merchant_id": "merchantid terminalid merchant shop vendor payee namedest",
    "merchant_category": "merchantcategory mcc category merchanttype",
    "latitude": "merchlat latitude lat",
    "longitude": "merchlong longitude lon lng long",
    "country": "country countrycode merchantcountry",
    "location": "location city place town",
    "device_id": "deviceid device devicefingerprint",
    "ip": "ip ipaddress clientip",
    "channel": "channel entrymode paymentmethod",
    "status": "status txstatus transactionstatus paymentstatus",
}
_IP = r"^[0-9]{1,3}(?:\.[0-9]{1,3}){3}$|^[0-9a-fA-F:]{3,}:[0-9a-fA-F:.]*$"
_ISO = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[ Tt]|$)"
_DAYS = (
    "%d.%m.%Y",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%Y/%m/%d",
    "%Y%m%d",
    "%d %b %Y",
    "%b %d, %Y",
)
_CLOCKS = ("", " %H:%M:%S", " %H:%M", " %I:%M:%S %p", " %I:%M %p")
_SYMBOLS = {"€": "EUR", "$": "USD", "£": "GBP", "¥": "JPY", "₹": "INR"}


@dataclass(slots=True)
class Guess:
    """What a file seems to be.

    Attributes
    ----------
    columns, rows
        Names of its columns, and the cells of its first rows.
    mapping
        A mapping as JSON would have it; may lack what was not found.
    doubts
        Sentences: what somebody should look at before the rows are taken. None: it can be taken as guessed.
    """

    columns: list[str]
    rows: list[list[str | None]]
    mapping: dict[str, Any]
    doubts: list[str] = field(default_factory=list)

    def complete(self) -> FileMapping | None:
        """The mapping when nothing needed is missing."""
        try:
            return FileMapping.model_validate(self.mapping)
        except ValueError:
            return None


def guess_file(path: Path) -> Guess:
    """Look at the beginning of a plain file.

    Raises
    ------
    ConfigError
        It holds no table.
    """
    if path.suffix == ".parquet":
        try:
            frame = pl.scan_parquet(path).head(SAMPLE_ROWS).collect()
        except (OSError, pl.exceptions.PolarsError) as error:
            raise ConfigError(f"expected a parquet file, got {str(error)[:300]}") from error
        guess = Guess(frame.columns, [], {"fields": {}, "constants": {}})
        guess.rows = [[None if cell is None else str(cell) for cell in row] for row in frame.rows()]
    else:
        guess, frame = _read_csv_head(path)
    if frame.width > COLUMNS_MAX:
        raise ConfigError(f"expected at most {COLUMNS_MAX} columns, got {frame.width}")
    if frame.height == 0:
        raise ConfigError("expected rows of transactions, got a file without any")
    _guess_fields(guess, frame)
    return guess


def _read_csv_head(path: Path) -> tuple[Guess, pl.DataFrame]:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        whole = len(head) < HEAD_BYTES
    delimiter, cells = max(
        ((d, _head_cells(head, d, whole)) for d in DELIMITERS), key=lambda found: _score(found[1])
    )
    width = Counter(len(row) for row in cells).most_common(1)[0][0] if cells else 0
    if width < 2:
        raise ConfigError(
            "expected columns between commas, semicolons, tabs or bars; found one column: is it a table?"
        )
    rows = [row for row in cells if len(row) == width]
    header = not any(_looks_like_data(cell) for cell in rows[0])
    names = column_names(rows[0], header=header)
    body = rows[1:] if header else rows
    values: list[list[str | None]] = [[cell.strip() or None for cell in row] for row in body]
    guess = Guess(names, values, {"fields": {}, "constants": {}, "delimiter": delimiter, "header": header})
    frame = pl.DataFrame(values, schema=dict.fromkeys(names, pl.String), orient="row")
    if not header:
        guess.doubts.append("The file has no names of columns: say which column is which field.")
    return guess, frame


def _head_cells(head: bytes, delimiter: str, whole: bool) -> list[list[str]]:
    records = split_records(head, delimiter, last=whole)
    ends = records.end[:SAMPLE_ROWS].tolist()
    return [
        next(csv.reader(io.StringIO(head[a:b].decode(errors="replace"), newline=""), delimiter=delimiter), [])
        for a, b in zip(records.start[:SAMPLE_ROWS].tolist(), ends, strict=True)
    ]


def _score(cells: Sequence[list[str]]) -> float:
    """How much it looks like a table: many columns, in most rows equally many."""
    if not cells:
        return 0.0
    width, rows = Counter(map(len, cells)).most_common(1)[0]
    return (width - 1) * (rows / len(cells)) ** 2


def _looks_like_data(cell: str) -> bool:
    return bool(re.fullmatch(r"[-+(]?[\d.,:/ TZ+-]*\d[\d.,:/ TZ)+-]*", cell.strip()))


def _guess_fields(guess: Guess, frame: pl.DataFrame) -> None:
    fields: dict[str, str] = guess.mapping["fields"]
    by_name = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in reversed(frame.columns)}
    for name, words in NAMES.items():
        for word in words.split():
            column = by_name.get(word)
            if column is not None and column not in fields.values() and _is_kind(frame[column], name):
                fields[name] = column
                break
    _guess_time(guess, frame)
    _guess_amount(guess, frame)
    for name, what in (("user_id", "whose payment it is"), ("amount", "the amount")):
        if name not in fields:
            guess.doubts.append(f"No column was found for {name}: say which one is {what}.")
    if "tx_id" not in fields:
        guess.doubts.append("No column names the transaction: each row is named after the file and its line.")


def _share(column: pl.Series, found: pl.Series) -> float:
    present = column.len() - column.null_count()
    return float(found.fill_null(False).sum()) / present if present else 0.0


def _is_kind(column: pl.Series, name: str) -> bool:
    """Whether values are such as a field has; needed ones are looked at again."""
    if column.null_count() == column.len():
        return False
    if name == "timestamp":
        return _time_formats(column) != []
    if name in ("amount", "latitude", "longitude"):
        if column.dtype != pl.String:
            return column.dtype.is_numeric() or column.dtype.is_decimal()
        return max(_share(column, json_number(column, mark).is_not_null()) for mark in ".,") >= SHARE_MIN
    text = column.cast(pl.String, strict=False)
    if name == "currency":
        return _share(text, text.is_in(list(CURRENCY_INDEX))) >= SHARE_MIN
    if name == "country":
        return _share(text, text.is_in(list(COUNTRY_INDEX))) >= SHARE_MIN
    if name == "ip":
        return _share(text, text.str.contains(_IP)) >= SHARE_MIN
    if name == "status":
        return text.n_unique() <= 20
    return True


def _time_formats(column: pl.Series) -> list[str]:
    """Every way in which most values are times: several when the file does not decide between them."""
    if column.dtype == pl.Date or isinstance(column.dtype, pl.Datetime):
        return ["iso"]
    if column.dtype.is_integer():
        largest = float(column.max() or 0)  # type: ignore[arg-type]
        return (
            ["epoch_s" if largest < 1e11 else "epoch_ms" if largest < 1e14 else "epoch_us"]
            if largest > 1e8
            else []
        )
    if column.dtype != pl.String:
        return []
    if _share(column, column.str.contains(_ISO)) >= SHARE_MIN:
        return ["iso"]
    for digits, name in (
        (r"^1[0-9]{9}(?:\.[0-9]+)?$", "epoch_s"),
        (r"^1[0-9]{12}$", "epoch_ms"),
        (r"^1[0-9]{15}$", "epoch_us"),
    ):
        if _share(column, column.str.contains(digits)) >= SHARE_MIN:
            return [name]
    shares = {
        day + clock: _share(column, _read_as(column, day + clock).is_not_null())
        for clock in _CLOCKS
        for day in _DAYS
    }
    best = max(shares.values())
    return [pattern for pattern, share in shares.items() if share == best] if best >= SHARE_MIN else []


def _read_as(column: pl.Series, pattern: str) -> pl.Series:
    if "%H" in pattern or "%I" in pattern:
        return column.str.to_datetime(pattern, strict=False)
    return column.str.to_date(pattern, strict=False)


def _guess_time(guess: Guess, frame: pl.DataFrame) -> None:
    fields = guess.mapping["fields"]
    if "timestamp" not in fields:
        free = [name for name in frame.columns if name not in fields.values()]
        times = [name for name in free if _time_formats(frame[name]) and not frame[name].dtype.is_integer()]
        if not times:
            guess.doubts.append("No column of times was found: say which one is the timestamp.")
            return
        fields["timestamp"] = times[0]
        if len(times) > 1:
            guess.doubts.append(
                f"Several columns are times ({', '.join(times[:4])}): is {times[0]} the right one?"
            )
    column = frame[fields["timestamp"]]
    formats = _time_formats(column)
    guess.mapping["time_format"] = formats[0]
    if len(formats) > 1:
        guess.doubts.append(f"Times can be read as {formats[0]} or as {formats[1]}: choose one.")
    found = epoch_ms(column, formats[0], "UTC").drop_nulls()
    if found.len() > 1 and (found % 86_400_000 == 0).all():
        guess.mapping["time_resolution"] = "day"


def _guess_amount(guess: Guess, frame: pl.DataFrame) -> None:
    mapping, fields = guess.mapping, guess.mapping["fields"]
    if "amount" not in fields:
        if "currency" not in fields:
            mapping["constants"]["currency"] = "USD"
            guess.doubts.append("No column names the currency: USD is assumed.")
        return
    column = frame[fields["amount"]]
    text = column.cast(pl.String, strict=False)
    if column.dtype == pl.String:
        comma = _share(text, text.str.contains(r",[0-9]{1,2}\D*$"))
        point = _share(text, text.str.contains(r"\.[0-9]{1,2}\D*$"))
        mapping["decimal"] = "," if comma > point else "."
        if comma and point:
            guess.doubts.append(
                f"Amounts have both marks before their last digits: is {mapping['decimal']} the decimal one?"
            )
    numbers = json_number(column, mapping.get("decimal", ".")).cast(pl.Float64, strict=False).drop_nulls()
    if numbers.len() and (numbers < 0).mean() > 0.5:  # type: ignore[operator]
        mapping["refunds"] = "positive"
        guess.doubts.append(
            "Most amounts are negative: they are taken as payments, positive ones as refunds."
        )
    if "currency" not in fields:
        signs = Counter(
            _SYMBOLS[sign] for value in text.drop_nulls().to_list() for sign in _SYMBOLS if sign in value
        )
        codes = Counter(
            code
            for value in text.drop_nulls().to_list()
            for code in re.findall(r"\b[A-Z]{3}\b", value)
            if code in CURRENCY_INDEX
        )
        found = (codes or signs).most_common(1)
        mapping["constants"]["currency"] = found[0][0] if found else "USD"
        if not found:
            guess.doubts.append("No column names the currency: USD is assumed.")
