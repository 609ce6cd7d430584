"""The columns that a rule may name: their kind, their unit and the words a text column can hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, Protocol

from anomalyze.events.batch import Status

__all__ = [
    "FEATURE_UNITS",
    "TEXT_COLUMNS",
    "Column",
    "ColumnTypes",
    "FeatureMeaning",
    "Kind",
    "Unit",
    "event_columns",
]

Kind = Literal["number", "text", "flag"]
Unit = Literal[
    "plain",
    "money",  # in the event's currency
    "base_money",  # in the account's
    "count",
    "ordinal",
    "km",
    "km/h",
    "seconds",
    "days",
    "hour",
    "weekday",
    "percent",
]
# What the feature definition calls a unit; what is not here is shown plain.
FEATURE_UNITS: Mapping[str, Unit] = {
    "money": "base_money",
    "count": "count",
    "km": "km",
    "kmh": "km/h",
    "seconds": "seconds",
    "days": "days",
    "hour": "hour",
    "weekday": "weekday",
    "share": "percent",
}


class FeatureMeaning(Protocol):
    """What a feature definition says of a feature; ``anomalyze.features.spec.FeatureKind`` is one."""

    @property
    def kind(self) -> Literal["number", "flag"]:
        """Number, or flag (1 or 0)."""

    @property
    def unit(self) -> str:
        """Unit in which it is shown."""


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

TEXT_COLUMNS = (
    "currency",
    "country",
    "status",
    "channel",
    "merchant_id",
    "merchant_category",
    "device_id",
    "ip",
    "user_id",
)


@cache
def event_columns() -> tuple[Column, ...]:
    """Columns that every transaction may have."""
    from anomalyze.events.gazetteer import COUNTRIES  # here: these load tables that few callers need
    from anomalyze.events.money import CURRENCIES

    choices = {
        "currency": frozenset(CURRENCIES),
        "country": frozenset(COUNTRIES),
        "status": frozenset(status.name.lower() for status in Status),
    }
    return (
        Column("amount", "number", "money"),
        *(Column(name, "text", "plain", name == "user_id", choices.get(name)) for name in TEXT_COLUMNS),
    )


class ColumnTypes(Mapping[str, Column]):
    """The columns known to a set of rules: those of the event, and the features by name."""

    def __init__(self, columns: Iterable[Column]) -> None:
        self._columns = {column.name: column for column in columns}

    @classmethod
    def of_features(cls, features: Mapping[str, FeatureMeaning]) -> ColumnTypes:
        """Event columns plus features (``FeatureSpec.kinds``)."""
        return cls(
            [
                *event_columns(),
                *(
                    Column(name, about.kind, FEATURE_UNITS.get(about.unit, "plain"))
                    for name, about in features.items()
                ),
            ]
        )

    def __getitem__(self, name: str) -> Column:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)
