"""The columns that rules and statistics read: a micro-batch's own, and its features, by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyze.events.batch import MicroBatch, Status
from anomalyze.events.hashing import text_key
from anomalyze.events.money import CURRENCIES, CURRENCY_EXPONENTS
from anomalyze.features.daily import COUNTRY_KEYS

__all__ = ["Columns", "event_column"]

# Hashes of the texts that the batch carries as numbers.
CURRENCY_KEYS = np.array([text_key(code) for code in CURRENCIES], dtype=np.uint64)
STATUS_KEYS = np.array([text_key(status.name.lower()) for status in Status], dtype=np.uint64)
UNITS = 10.0 ** CURRENCY_EXPONENTS.astype(np.float64)

BATCH_COLUMNS = {
    "amount": lambda b: b.amount_minor / UNITS[b.currency],
    "currency": lambda b: CURRENCY_KEYS[b.currency],
    "country": lambda b: COUNTRY_KEYS[b.country],
    "status": lambda b: STATUS_KEYS[b.status],
    "channel": lambda b: b.channel,
    "merchant_id": lambda b: b.merchant,
    "merchant_category": lambda b: b.merchant_category,
    "device_id": lambda b: b.device,
    "ip": lambda b: b.ip,
    "user_id": lambda b: b.user_key[:, 0],
}


def event_column(batch: MicroBatch, name: str) -> npt.NDArray[Any]:
    """A column of the transactions themselves: float64 numbers, or uint64 hashes with 0 = NULL."""
    column: npt.NDArray[Any] = BATCH_COLUMNS[name](batch)
    return column


class Columns(Mapping[str, npt.NDArray[Any]]):
    """Columns of a micro-batch by name, made when they are asked for and kept.

    Parameters
    ----------
    batch
        The transactions.
    places, features
        Index of each feature, and their matrix ``[n, F]``.
    """

    def __init__(
        self, batch: MicroBatch, places: Mapping[str, int], features: npt.NDArray[np.float64]
    ) -> None:
        self._batch = batch
        self._places = places
        self._features = features
        self._made: dict[str, npt.NDArray[Any]] = {}

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        made = self._made.get(name)
        if made is None:
            place = self._places.get(name)
            if place is None:
                made = event_column(self._batch, name)
            else:
                made = np.ascontiguousarray(self._features[:, place])
            self._made[name] = made
        return made

    def __iter__(self) -> Iterator[str]:
        yield from BATCH_COLUMNS
        yield from self._places

    def __len__(self) -> int:
        return len(BATCH_COLUMNS) + len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places or name in BATCH_COLUMNS

    def between(self, names: Iterable[str], first: int, end: int) -> dict[str, npt.NDArray[Any]]:
        """These columns of a run of rows."""
        return {name: self[name][first:end] for name in names}

    def at(self, names: Iterable[str], rows: npt.NDArray[np.intp]) -> dict[str, npt.NDArray[Any]]:
        """These columns of some rows, copied."""
        return {
            name: self._features[rows, self._places[name]] if name in self._places else self[name][rows]
            for name in names
        }
