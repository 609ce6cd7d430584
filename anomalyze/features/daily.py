"""Profiles of whole days: what every user, merchant, device, address and country did, as of the end of a day.

Computed for all of them at once from columns; each sum and quantile is made of the same integers in the same order
whatever the order of the rows, so that the same transactions give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyze.errors import ContractError
from anomalyze.events.batch import MicroBatch
from anomalyze.events.gazetteer import COUNTRIES
from anomalyze.events.hashing import text_key
from anomalyze.features.catalogue import DAILY_MEASURES, DAILY_WINDOWS_DAYS, ENTITIES

__all__ = [
    "COUNTRY_KEYS",
    "DAY_MS",
    "NO_AMOUNT",
    "DailyRows",
    "DailyTable",
    "batch_keys",
    "compute_daily_profiles",
    "entity_keys",
]

DAY_MS = 86_400_000
# Where a transaction has no amount that counts: no purchase, known as fraud, or without a rate.
NO_AMOUNT = -1
MINOR = 100.0
# Of the smoothed share: as many rows of this many frauds are added, as in the profiles of labels.
PRIOR_ROWS, PRIOR_FRAUDS = 2.0, 0.05
# One text may name a device and a merchant: each kind of entity has its own part of the keys.
_KINDS = {entity: np.uint64(text_key(f"daily profile of a {entity}")) for entity in ENTITIES}
_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio
COUNTRY_KEYS = np.array([*(text_key(code) for code in COUNTRIES), 0], dtype=np.uint64)  # last: unknown (-1)
_PLACE = {name: place for place, name in enumerate(DAILY_MEASURES)}


def entity_keys(
    entity: str, account_key: npt.NDArray[np.uint64], own_key: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Key of each entity of a kind within its account; 0 where there is none.

    Parameters
    ----------
    entity
        One of ``ENTITIES``.
    account_key
        ``text_key`` of the account.
    own_key
        ``text_key`` of merchant, device, address or country code (0 = none); of a user the first half of
        ``user_key``.

    >>> one, none = entity_keys("device", np.array([5, 5], np.uint64), np.array([9, 0], np.uint64)).tolist()
    >>> one != 0, none
    (True, 0)
    """
    # Multiplied, so that merchant A of account B is not merchant B of account A.
    return np.where(own_key == 0, np.uint64(0), own_key ^ (account_key * _ODD + _KINDS[entity]))


def batch_keys(
    entities: Iterable[str], batch: MicroBatch, account_key: npt.NDArray[np.uint64]
) -> dict[str, npt.NDArray[np.uint64]]:
    """``entity_keys`` of a micro-batch's rows; ``account_key`` ``[n]`` is that of each row's account."""
    own = {
        "user": batch.user_key[:, 0],
        "merchant": batch.merchant,
        "device": batch.device,
        "ip": batch.ip,
        "country": COUNTRY_KEYS[batch.country],
    }
    return {entity: entity_keys(entity, account_key, own[entity]) for entity in entities}


@dataclass(frozen=True, slots=True)
class DailyRows:
    """Transactions as profiles read them; arrays ``[n]`` in any order.

    Attributes
    ----------
    ts_ms
        int64: event time.
    amount_minor
        int64: hundredths of the account's base currency, ``NO_AMOUNT`` where it does not count.
    fraud
        bool: known as fraud at the instant.
    keys
        By entity uint64: ``entity_keys``.
    """

    ts_ms: npt.NDArray[np.int64]
    amount_minor: npt.NDArray[np.int64]
    fraud: npt.NDArray[np.bool_]
    keys: Mapping[str, npt.NDArray[np.uint64]]


@dataclass(frozen=True, slots=True, eq=False)
class DailyTable:
    """What was known of every entity at the end of a day.

    Attributes
    ----------
    as_of_ms
        The instant, ms since 1970 UTC: the first moment of the next day.
    keys
        uint64 ``[m]``, ascending, each once: ``entity_keys``.
    values
        float32 ``[m, len(DAILY_MEASURES)]``, NaN = NULL.
    first_ms
        int64 ``[m]``: first seen, ms since 1970 UTC.
    entity
        uint8 ``[m]``, index into ``ENTITIES``.
    """

    as_of_ms: int
    keys: npt.NDArray[np.uint64]
    values: npt.NDArray[np.float32]
    first_ms: npt.NDArray[np.int64]
    entity: npt.NDArray[np.uint8]


def compute_daily_profiles(rows: DailyRows, as_of_ms: int, before: DailyTable | None = None) -> DailyTable:
    """All measures of every entity with a transaction in the 90 days before an instant.

    Parameters
    ----------
    rows
        Later ones, and those before the longest window, do not count.
    as_of_ms
        The instant, ms since 1970 UTC.
    before
        An older table: whoever is in both was first seen when that one says.

    Returns
    -------
    DailyTable
        Windows reach back whole days from the instant. Median and 95th percentile by linear interpolation (type 7
        of Hyndman and Fan); amounts in units; mean, median and percentile are NULL without an amount.

    Raises
    ------
    ContractError
        Columns of different lengths.
    """
    lengths = {len(column) for column in (rows.ts_ms, rows.amount_minor, rows.fraud, *rows.keys.values())}
    if len(lengths) != 1 or set(rows.keys) != set(ENTITIES):
        raise ContractError(
            f"daily profiles: expected columns of one length and keys of {ENTITIES}, got {lengths}"
        )
    parts = [_of_entity(rows, as_of_ms, code, entity) for code, entity in enumerate(ENTITIES)]
    keys, values, first_ms, code = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(keys, kind="stable")
    keys, values, first_ms = keys[order], values[order], first_ms[order]
    if before is not None and len(before.keys):
        place = np.minimum(np.searchsorted(before.keys, keys), len(before.keys) - 1)
        earlier = np.where(before.keys[place] == keys, before.first_ms[place], first_ms)
        first_ms = np.minimum(first_ms, earlier)
    values[:, _PLACE["first_seen_days"]] = (as_of_ms - first_ms) / DAY_MS
    return DailyTable(as_of_ms, keys, values, first_ms, code[order])


def _of_entity(rows: DailyRows, as_of_ms: int, code: int, entity: str) -> tuple[npt.NDArray[Any], ...]:
    """Keys, values, first times and code of each of one kind."""
    key = rows.keys[entity]
    start_ms = as_of_ms - DAILY_WINDOWS_DAYS[-1] * DAY_MS
    taken = np.flatnonzero((key != 0) & (rows.ts_ms >= start_ms) & (rows.ts_ms < as_of_ms))
    # By key, and within a key by amount: a quantile is then a place, and no sum depends on the order of the rows.
    taken = taken[np.lexsort((rows.amount_minor[taken], key[taken]))]
    key, ts_ms = key[taken], rows.ts_ms[taken]
    amount, fraud = rows.amount_minor[taken], rows.fraud[taken]
    starts = _run_starts(key)
    known = key[starts]
    values = np.full((len(known), len(DAILY_MEASURES)), np.nan, dtype=np.float32)
    for days in DAILY_WINDOWS_DAYS:
        within = np.flatnonzero(ts_ms >= as_of_ms - days * DAY_MS)
        _write_counts(values, known, days, key[within], fraud[within])
        counted = within[amount[within] >= 0]
        _write_amounts(values, known, days, key[counted], amount[counted])
    first_ms = np.minimum.reduceat(ts_ms, starts) if len(starts) else np.empty(0, np.int64)
    return known, values, first_ms, np.full(len(known), code, np.uint8)


def _write_counts(
    values: npt.NDArray[np.float32],
    known: npt.NDArray[np.uint64],
    days: int,
    key: npt.NDArray[np.uint64],
    fraud: npt.NDArray[np.bool_],
) -> None:
    starts = _run_starts(key)
    place = np.searchsorted(known, key[starts])
    count, frauds = np.zeros(len(known)), np.zeros(len(known))
    if len(starts):
        count[place] = np.diff(np.append(starts, len(key)))
        frauds[place] = np.add.reduceat(fraud.astype(np.int64), starts)
    values[:, _PLACE[f"tx_count_{days}d"]] = count
    values[:, _PLACE[f"fraud_count_{days}d"]] = frauds
    values[:, _PLACE[f"fraud_share_{days}d"]] = (frauds + PRIOR_FRAUDS) / (count + PRIOR_ROWS)
    values[:, _PLACE[f"amount_sum_{days}d"]] = 0.0


def _write_amounts(
    values: npt.NDArray[np.float32],
    known: npt.NDArray[np.uint64],
    days: int,
    key: npt.NDArray[np.uint64],
    amount: npt.NDArray[np.int64],
) -> None:
    starts = _run_starts(key)
    if not len(starts):
        return
    place = np.searchsorted(known, key[starts])
    count = np.diff(np.append(starts, len(key)))
    total = np.add.reduceat(amount, starts)
    values[place, _PLACE[f"amount_sum_{days}d"]] = total / MINOR
    values[place, _PLACE[f"amount_mean_{days}d"]] = total / count / MINOR
    for name, share in (("median", 0.5), ("p95", 0.95)):
        at = (count - 1) * share
        low = np.floor(at).astype(np.int64)
        high = np.minimum(low + 1, count - 1)
        below, above = amount[starts + low], amount[starts + high]
        values[place, _PLACE[f"amount_{name}_{days}d"]] = (below + (above - below) * (at - low)) / MINOR


def _run_starts(key: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    """Where each run of equal keys begins."""
    return np.flatnonzero(np.r_[True, key[1:] != key[:-1]]) if len(key) else np.empty(0, np.intp)
