"""A micro-batch in the form the feature kernel reads: one row of integers for each transaction."""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from anomalyze.errors import ContractError
from anomalyze.events.batch import MicroBatch
from anomalyze.events.hashing import text_keys
from anomalyze.events.money import CURRENCY_EXPONENTS, CURRENCY_INDEX
from anomalyze.features import layout
from anomalyze.features.compiled import COMPILED
from anomalyze.features.geography import encode_place
from anomalyze.features.local_time import local_offset_ms
from anomalyze.features.spec import FeatureSpec

__all__ = [
    "ROW_WORDS",
    "R_ACCOUNT",
    "R_APPEND",
    "R_DAY_ONLY",
    "R_OFFSET",
    "AccountParameters",
    "RowInputs",
    "blank_rows",
    "prepare_rows",
]

# Columns of ``RowInputs.codes``; 0 and 1 are the user's key, 2 to 5 the event's words.
R_APPEND, R_OFFSET, R_ACCOUNT, R_DAY_ONLY = 6, 7, 8, 9
ROW_WORDS = 10


@dataclass(frozen=True, slots=True)
class AccountParameters:
    """What an account overrides; None takes the specification's default."""

    time_zone: str | None = None
    base_currency: str | None = None
    population_amount_median: float | None = None


class RowInputs(NamedTuple):
    """A micro-batch in the form the kernel reads, made once for all its partitions.

    Attributes
    ----------
    codes
        int64 ``[n, 10]``: key (2), the event's four words as ``layout`` packs them, append time (ms), offset
        of local time (ms), account, whether the time is known only to the day.
    account_key
        int64 ``[accounts]``: hash of the account's id.
    account_unit
        float64 ``[accounts]``: minor units in a unit of the base currency.
    account_population
        float64 ``[accounts]``: usual amount before a user has a history, in units.
    """

    codes: npt.NDArray[np.int64]
    account_key: npt.NDArray[np.int64]
    account_unit: npt.NDArray[np.float64]
    account_population: npt.NDArray[np.float64]


def prepare_rows(
    spec: FeatureSpec,
    batch: MicroBatch,
    amount_base_minor: npt.NDArray[np.int64],
    amount_base_null: npt.NDArray[np.bool_],
    accounts: Sequence[AccountParameters] | None = None,
) -> RowInputs:
    """Bring a micro-batch into the kernel's form; once a batch, before its partitions.

    Parameters
    ----------
    amount_base_minor, amount_base_null
        Amounts in minor units of each account's base currency (``RateTable.to_base_minor``) and where there
        is no rate.
    accounts
        Overrides, one for each of ``batch.accounts``; None: the defaults for all.

    Raises
    ------
    ContractError
        Columns or accounts of another length than the batch.
    """
    parameters = list(accounts) if accounts is not None else [AccountParameters()] * len(batch.accounts)
    if len(parameters) != len(batch.accounts) or len(amount_base_minor) != batch.n:
        raise ContractError(
            f"features: expected {batch.n} amounts and {len(batch.accounts)} accounts, "
            f"got {len(amount_base_minor)} and {len(parameters)}"
        )
    document = spec.document
    zones = [p.time_zone or document.time_zone for p in parameters]
    bases = [p.base_currency or document.base_currency for p in parameters]
    exponents = [int(CURRENCY_EXPONENTS[CURRENCY_INDEX[base]]) for base in bases]
    default = document.population_amount_median
    populations = [p.population_amount_median or default for p in parameters]
    codes = np.empty((batch.n, ROW_WORDS), dtype=np.int64)
    amount = np.where(amount_base_null, layout.AMOUNT_NULL, amount_base_minor).astype(np.int64)
    _encode_rows(
        codes,
        _plain(batch.user_key, np.uint64).view(np.int64),
        _plain(batch.tx_key, np.uint64).view(np.int64),
        _plain(batch.payload_key, np.uint64).view(np.int64),
        _plain(batch.ts_ms, np.int64),
        amount,
        _plain(batch.currency, np.int16),
        _plain(batch.status, np.int8),
        _plain(batch.country, np.int16),
        _plain(batch.latitude, np.float64),
        _plain(batch.longitude, np.float64),
        _plain(batch.radius_km, np.float64),
        _plain(batch.merchant, np.uint64).view(np.int64),
        _plain(batch.device, np.uint64).view(np.int64),
    )
    codes[:, R_APPEND] = batch.append_ms
    codes[:, R_OFFSET] = _utc_offsets(batch, zones)
    codes[:, R_ACCOUNT] = batch.account
    codes[:, R_DAY_ONLY] = batch.day_only
    return RowInputs(
        codes,
        text_keys(batch.accounts).view(np.int64),
        np.array([10.0**exponent for exponent in exponents]),
        np.array(populations, dtype=np.float64),
    )


def blank_rows() -> RowInputs:
    """One row that means nothing, by which everything gets compiled."""
    one = np.ones(1, dtype=np.int64)
    wide, small = one.astype(np.float64), one.astype(np.int16)
    codes = np.ones((1, ROW_WORDS), dtype=np.int64)
    keys = np.ones((1, 2), dtype=np.int64)
    _encode_rows(
        codes, keys, one, one, one, one, small, one.astype(np.int8), small, wide, wide, wide, one, one
    )
    codes[:, R_ACCOUNT] = 0
    return RowInputs(codes, one, wide, wide)


def _plain(column: npt.NDArray[Any], dtype: Any) -> npt.NDArray[Any]:
    """The column as the kernel was compiled for: this type, C-contiguous, writable."""
    return np.require(column, dtype=dtype, requirements=["C", "W"])


def _utc_offsets(batch: MicroBatch, zones: Sequence[str]) -> npt.NDArray[np.int64]:
    if len(set(zones)) <= 1:
        return local_offset_ms(zones[0] if zones else "UTC", batch.ts_ms)
    offsets = np.zeros(batch.n, dtype=np.int64)
    names = sorted(set(zones))
    zone_of_row = np.array([names.index(zone) for zone in zones])[batch.account]
    for i, name in enumerate(names):
        mine = zone_of_row == i
        offsets[mine] = local_offset_ms(name, batch.ts_ms[mine])
    return offsets


@njit(cache=True, **COMPILED)
def _encode_rows(
    codes, user_key, tx_key, payload_key, ts_ms, amount, currency, status, country,
    latitude, longitude, radius_km, merchant, device,
):  # fmt: skip
    for row in range(len(codes)):
        ts = min(max(ts_ms[row], -layout.TS_MS_MAX), layout.TS_MS_MAX)
        codes[row, 0] = user_key[row, 0]
        codes[row, 1] = user_key[row, 1]
        codes[row, 2] = layout.event_time_word(
            ts, np.int64(currency[row]), np.int64(country[row]), np.int64(status[row])
        )
        codes[row, 3] = tx_key[row] & ~np.int64(0xFFFF) | payload_key[row] & 0xFFFF
        codes[row, 4] = amount[row] << 16 | layout.reduce_key(device[row], layout.DEVICE_KEYS)
        place = encode_place(latitude[row], longitude[row], radius_km[row])
        codes[row, 5] = place << 29 | layout.reduce_key(merchant[row], layout.MERCHANT_KEYS) << 8


# Columns of ``RowInputs.codes``; 0 and 1 are the user's key, 2 to 5 the event's words.
