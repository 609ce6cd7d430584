"""Which column of a file is which field of a transaction, and how the file writes times, amounts and statuses.

A mapping is what the sender of a file confirms::

    fields:
      tx_id: TRANSACTION_ID
      user_id: CUSTOMER_ID
      timestamp: TX_DATETIME
      amount: TX_AMOUNT
    constants: {currency: USD}
    time_zone: UTC
    time_format: iso
    delimiter: ","
    decimal: "."
    refunds: negative
    statuses: {Settled: approved, Bounced: declined}

Everything but ``fields`` has a default; what a file needs is guessed in ``anomalyze.ingestion.guess``.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from pydantic import Field, ValidationError, field_validator, model_validator

from anomalyze.config import StrictModel
from anomalyze.errors import ConfigError
from anomalyze.events.money import CURRENCY_INDEX
from anomalyze.events.schema import STATUS_INDEX

__all__ = ["FIELDS", "HEAD_BYTES", "MAPPING_BYTES_MAX", "NEEDED", "NUMBERS", "FileMapping", "parse_mapping"]

# So much of a file's beginning is read to guess what it is.
HEAD_BYTES = 256 * 1024
NEEDED = ("tx_id", "user_id", "timestamp", "amount", "currency")
OPTIONAL = (
    "location",
    "latitude",
    "longitude",
    "country",
    "merchant_id",
    "merchant_category",
    "device_id",
    "ip",
    "channel",
    "status",
)
FIELDS = (*NEEDED, *OPTIONAL)
NUMBERS = frozenset({"amount", "latitude", "longitude"})
MAPPING_BYTES_MAX = 64 * 1024
COLUMN_CHARACTERS_MAX = 256
STATUSES_MAX = 100
# A pattern of strptime: its letters, digits and usual signs between; never longer than a line can be read.
TIME_FORMAT = r"^(iso|epoch_s|epoch_ms|epoch_us|[%A-Za-z0-9 .,:/TZ+-]{2,40})$"

Column = Annotated[str, Field(min_length=1, max_length=COLUMN_CHARACTERS_MAX)]


class FileMapping(StrictModel):
    """How one file is read.

    Without a column for ``tx_id`` each row is named after the file and its line.
    """

    needed: ClassVar[tuple[str, ...]] = ("user_id", "timestamp", "amount", "currency")

    fields: dict[str, Column] = Field(description="field of a transaction: column of the file")
    constants: dict[str, Column] = Field(default={}, description="fields that every row has alike")
    time_zone: str = Field(default="UTC", max_length=64, description="zone of times without an offset")
    time_format: str = Field(
        default="iso",
        pattern=TIME_FORMAT,
        description="iso, epoch_s, epoch_ms, epoch_us, or a pattern such as %d.%m.%Y %H:%M",
    )
    time_resolution: Literal["second", "day"] = Field(
        default="second", description="day: the file knows no time of day"
    )
    delimiter: Literal[",", ";", "\t", "|"] = Field(default=",", description="between columns")
    header: bool = Field(
        default=True, description="the first line names columns; else they are column_1, ..."
    )
    decimal: Literal[".", ","] = Field(default=".", description="before the fraction of an amount")
    refunds: Literal["negative", "positive"] = Field(
        default="negative", description="sign of a refund; positive: the file books payments as negative"
    )
    statuses: dict[str, str] = Field(
        default={}, max_length=STATUSES_MAX, description="word of the file: status of a transaction"
    )

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"expected a time zone such as Europe/Berlin, got {value}") from None
        return value

    @field_validator("statuses")
    @classmethod
    def _known_statuses(cls, value: dict[str, str]) -> dict[str, str]:
        for word, status in value.items():
            if status not in STATUS_INDEX:
                raise ValueError(f"{word}: expected one of {', '.join(STATUS_INDEX)}, got {status}")
        return value

    @model_validator(mode="after")
    def _complete(self) -> FileMapping:
        known = {*self.fields, *self.constants}
        if unknown := sorted(known - {*FIELDS}):
            raise ValueError(
                f"expected fields of a transaction ({', '.join(FIELDS)}), got {', '.join(unknown)}"
            )
        if missing := [name for name in self.needed if name not in known]:
            raise ValueError(f"expected a column or a constant for {', '.join(missing)}")
        if twice := sorted({*self.fields} & {*self.constants}):
            raise ValueError(f"expected a column or a constant, got both for {', '.join(twice)}")
        if fixed := sorted({"tx_id", "user_id", "timestamp", "amount"} & {*self.constants}):
            raise ValueError(f"expected a column for {', '.join(fixed)}, got a constant")
        currency = self.constants.get("currency")
        if currency is not None and currency not in CURRENCY_INDEX:
            raise ValueError(f"currency: expected an ISO 4217 code such as USD, got {currency}")
        return self


def parse_mapping(text: bytes | str) -> FileMapping:
    """A mapping from JSON.

    Raises
    ------
    ConfigError
        Naming the place that is wrong.
    """
    if len(text) > MAPPING_BYTES_MAX:
        raise ConfigError(f"mapping: expected at most {MAPPING_BYTES_MAX} bytes, got {len(text)}")
    try:
        return FileMapping.model_validate(msgspec.json.decode(text))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        if not isinstance(error, ValidationError):
            raise ConfigError(f"mapping: expected a JSON object, got {error}") from error
        first = error.errors()[0]
        place = ".".join(str(part) for part in ("mapping", *first["loc"]))
        raise ConfigError(f"{place}: {first['msg'].removeprefix('Value error, ')}") from error
