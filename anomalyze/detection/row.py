"""Flagged transactions as people know them: their own texts, and their features by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from anomalyze.events.batch import MicroBatch, Status
from anomalyze.events.gazetteer import COUNTRIES
from anomalyze.events.money import CURRENCIES, CURRENCY_EXPONENTS

__all__ = ["Row", "read_rows"]

Values = dict[str, float | str | None]


class _Meta(msgspec.Struct):
    user_id: Any


class _Data(msgspec.Struct):
    merchant_id: Any = None
    merchant_category: Any = None
    device_id: Any = None
    ip: Any = None
    channel: Any = None
    location: Any = None


class _Event(msgspec.Struct):
    meta: _Meta
    data: _Data


_decode = msgspec.json.Decoder(_Event).decode
_TEXTS = _Data.__struct_fields__
_UNITS = [10.0**exponent for exponent in CURRENCY_EXPONENTS.tolist()]
_STATUSES = [status.name.lower() for status in Status]


@dataclass(frozen=True, slots=True)
class Row:
    """One flagged transaction as people know it.

    Attributes
    ----------
    account_id
        Whose it is.
    values
        By column: the event's own texts and amount, ``base_currency``, and every feature (None = NULL).
    history
        ``HistoryFlag`` bits.
    """

    account_id: str
    values: Values
    history: int

    def number(self, name: str) -> float | None:
        """A feature or the amount; None when NULL."""
        value = self.values.get(name)
        return value if isinstance(value, float) else None


def read_rows(
    batch: MicroBatch,
    rows: npt.NDArray[np.intp],
    names: Sequence[str],
    features: npt.NDArray[np.float64],
    history: npt.NDArray[np.uint8],
    base_currencies: Sequence[str],
) -> list[Row]:
    """Parse the JSON of these rows and put their features beside it.

    Parameters
    ----------
    names, features
        Feature names, and their values in these rows, ``[len(rows), F]``.
    history
        ``HistoryFlag`` bits of these rows.
    base_currencies
        By account, as ``batch.accounts``.
    """
    known = features.astype(object)
    known[np.isnan(features)] = None
    columns = zip(
        rows.tolist(),
        batch.account[rows].tolist(),
        batch.currency[rows].tolist(),
        batch.country[rows].tolist(),
        batch.status[rows].tolist(),
        batch.amount_minor[rows].tolist(),
        history.tolist(),
        known.tolist(),
        strict=True,
    )
    read = []
    for row, account, currency, country, status, amount_minor, flags, numbers in columns:
        event = _decode(batch.row_bytes(row))
        values: Values = {
            name: text if isinstance(text := getattr(event.data, name), str) else None for name in _TEXTS
        }
        values["user_id"] = str(event.meta.user_id)
        values["currency"] = CURRENCIES[currency]
        values["country"] = COUNTRIES[country] if country >= 0 else None
        values["status"] = _STATUSES[status]
        values["amount"] = amount_minor / _UNITS[currency]
        values["base_currency"] = base_currencies[account]
        values.update(zip(names, numbers, strict=True))
        read.append(Row(batch.accounts[account], values, flags))
    return read
