"""The columns that a rule may name: their kind, their unit and the words a text column can hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["EVENT_COLUMNS", "Column", "ColumnTypes", "Kind", "Unit", "unit_of_feature"]

Kind = Literal["number", "text", "flag"]
Unit = Literal[
    "plain", "money", "base_money", "count", "ordinal", "km", "km/h", "seconds", "days", "hour", "percent"
]

# First match wins. The names are those of the feature definition: <entity>_<measure>_<window>.
_FEATURE_UNITS: tuple[tuple[str, Unit], ...] = (
    (r"_count(_|$)|_streak$|_amount_n$|_tx_n$", "count"),
    (r"_ratio$|_rz$|_lr$|^hour_rarity$", "plain"),
    (r"_kmh$", "km/h"),
    (r"_km$", "km"),
    (r"_seconds(_|$)", "seconds"),
    (r"_days$", "days"),
    (r"^local_hour$", "hour"),
    (r"^amount_base$|_amount_|_refund_sum|_spend_", "base_money"),
)


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes
    ----------
    name
        Lower-case name, as rules write it.
    kind
        ``number`` and ``flag`` columns are float64 with NaN = NULL (a flag is 1 or 0); ``text`` columns are
        uint64 hashes with 0 = NULL.
    unit
        How a value is shown.
    listed_only
        The column can be looked up in lists but not compared with a literal (its hash holds the account).
    choices
        Every word that the column can hold; None when open.
    """

    name: str
    kind: Kind
    unit: Unit = "plain"
    listed_only: bool = False
    choices: frozenset[str] | None = None


_STATUSES = frozenset({"pending", "approved", "declined", "refunded", "reversed"})

EVENT_COLUMNS: tuple[Column, ...] = (
    Column("amount", "number", "money"),
    Column("currency", "text"),
    Column("country", "text"),
    Column("status", "text", choices=_STATUSES),
    Column("channel", "text"),
    Column("merchant_id", "text"),
    Column("merchant_category", "text"),
    Column("device_id", "text"),
    Column("ip", "text"),
    Column("user_id", "text", listed_only=True),
)


class ColumnTypes(Mapping[str, Column]):
    """The columns known to a set of rules: those of the event, and the features by name.

    Examples
    --------
    >>> types = ColumnTypes.of_features(["user_tx_count_5m", "is_new_device"])
    >>> types["is_new_device"].kind, types["user_tx_count_5m"].unit
    ('flag', 'count')
    """

    def __init__(self, columns: Iterable[Column]) -> None:
        self._columns = {column.name: column for column in columns}

    @classmethod
    def of_features(cls, features: Iterable[str], event: Iterable[Column] = EVENT_COLUMNS) -> ColumnTypes:
        """Event columns plus features, whose kind and unit follow from their names (``is_…`` is a flag)."""
        return cls(
            [
                *event,
                *(
                    Column(name, "flag" if name.startswith("is_") else "number", unit_of_feature(name))
                    for name in features
                ),
            ]
        )

    def __getitem__(self, name: str) -> Column:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def unit_of_feature(name: str) -> Unit:
    """Unit in which a feature is shown, read from its name."""
    return next((unit for pattern, unit in _FEATURE_UNITS if re.search(pattern, name)), "plain")
