"""One call computes the features of a partition's rows and takes them into its state.

Rows go in the order of their log. Each is first looked for among its user's events (a repeat, a change of
status, a conflict), then judged as of its own time on what had arrived, then put at its place in time.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from anomalyze.errors import ContractError
from anomalyze.events.batch import MicroBatch
from anomalyze.events.hashing import text_keys
from anomalyze.events.money import CURRENCY_EXPONENTS, CURRENCY_INDEX
from anomalyze.features import history, layout, measure
from anomalyze.features.catalogue import INTRADAY, MEASURES, NOT_OF_USER
from anomalyze.features.geography import encode_place
from anomalyze.features.kernel_cache import compiled_from
from anomalyze.features.local_time import local_offset_ms
from anomalyze.features.spec import FeatureSpec, parse_duration_ms
from anomalyze.features.state import Disposition, FeatureState, HistoryFlag

__all__ = ["AccountParameters", "RowInputs", "compute_features", "prepare_rows", "warm"]

_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class AccountParameters:
    """What an account overrides; None takes the specification's default."""

    time_zone: str | None = None
    base_currency: str | None = None
    population_amount_median: float | None = None


class RowInputs(NamedTuple):
    """Columns of a micro-batch in the form the kernel reads, made once for all its partitions.

    Shape ``[n]`` unless stated; keys are the batch's uint64 columns seen as int64.
    """

    user_key: npt.NDArray[np.int64]  # [n, 2]
    tx_key: npt.NDArray[np.int64]
    payload_key: npt.NDArray[np.int64]
    ts_ms: npt.NDArray[np.int64]
    append_ms: npt.NDArray[np.int64]
    amount: npt.NDArray[np.int64]  # minor units of the base currency, AMOUNT_NULL when there is none
    currency: npt.NDArray[np.int16]
    status: npt.NDArray[np.int8]
    country: npt.NDArray[np.int16]
    latitude: npt.NDArray[np.float64]
    longitude: npt.NDArray[np.float64]
    radius_km: npt.NDArray[np.float64]
    merchant: npt.NDArray[np.int64]
    device: npt.NDArray[np.int64]
    utc_offset_ms: npt.NDArray[np.int64]
    day_only: npt.NDArray[np.bool_]
    account: npt.NDArray[np.int32]
    account_key: npt.NDArray[np.int64]  # [accounts]
    account_unit: npt.NDArray[np.float64]  # [accounts]: minor units in a unit of the base currency
    account_population: npt.NDArray[np.float64]  # [accounts]: usual amount, in units


class _Plan(NamedTuple):
    """The specification's numbers."""

    window_ms: npt.NDArray[np.int64]
    source: npt.NDArray[np.int32]
    intraday: npt.NDArray[np.int64]  # places in the kernel's row that are NULL for times known to the day
    of_user: npt.NDArray[np.int64]  # places that are NULL for a guest
    older_than_ms: int
    purchases: int
    purchases_min: int
    scale_min_share: float
    scale_min_units: float
    shrink_purchases: float
    night_from: int
    night_to: int
    guest_ms: int  # a user whose full history is younger than this makes more than the allowed a day
    guest_share: float
    forget_days: int


def prepare_rows(
    spec: FeatureSpec,
    batch: MicroBatch,
    amount_base_minor: npt.NDArray[np.int64],
    amount_base_null: npt.NDArray[np.bool_],
    accounts: Sequence[AccountParameters] | None = None,
    day_only: npt.NDArray[np.bool_] | None = None,
) -> RowInputs:
    """Bring a micro-batch into the kernel's form; once a batch, before its partitions.

    Parameters
    ----------
    amount_base_minor, amount_base_null
        Amounts in minor units of each account's base currency (``RateTable.to_base_minor``) and where there
        is no rate.
    accounts
        Overrides, one for each of ``batch.accounts``; None: the defaults for all.
    day_only
        Rows whose time is known only to the day.

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
    return RowInputs(
        user_key=_plain(batch.user_key, np.uint64).view(np.int64),
        tx_key=_plain(batch.tx_key, np.uint64).view(np.int64),
        payload_key=_plain(batch.payload_key, np.uint64).view(np.int64),
        ts_ms=_plain(batch.ts_ms, np.int64),
        append_ms=_plain(batch.append_ms, np.int64),
        amount=np.where(amount_base_null, layout.AMOUNT_NULL, amount_base_minor).astype(np.int64),
        currency=_plain(batch.currency, np.int16),
        status=_plain(batch.status, np.int8),
        country=_plain(batch.country, np.int16),
        latitude=_plain(batch.latitude, np.float64),
        longitude=_plain(batch.longitude, np.float64),
        radius_km=_plain(batch.radius_km, np.float64),
        merchant=_plain(batch.merchant, np.uint64).view(np.int64),
        device=_plain(batch.device, np.uint64).view(np.int64),
        utc_offset_ms=_utc_offsets(batch, zones),
        day_only=_plain(np.zeros(batch.n, dtype=np.bool_) if day_only is None else day_only, np.bool_),
        account=_plain(batch.account, np.int32),
        account_key=text_keys(batch.accounts).view(np.int64),
        account_unit=np.array([10.0**exponent for exponent in exponents]),
        account_population=np.array(populations, dtype=np.float64),
    )


def compute_features(
    spec: FeatureSpec,
    rows: RowInputs,
    first_row: int,
    end_row: int,
    state: FeatureState,
    out: npt.NDArray[np.float64],
    disposition: npt.NDArray[np.int8],
    flags: npt.NDArray[np.uint8],
) -> None:
    """Compute the features of one partition's rows and remember the rows in its state.

    Parameters
    ----------
    rows
        The micro-batch as ``prepare_rows`` gives it.
    first_row, end_row
        The partition's rows (one entry of ``MicroBatch.groups``).
    state
        The partition's state; changed.
    out
        float64 ``[n, F]``, written for these rows: ``spec.names`` are its columns, NaN is NULL. Rows that are
        not judged (a repeat, a status update, a conflict) are all NaN.
    disposition
        int8 ``[n]``, written: ``Disposition``.
    flags
        uint8 ``[n]``, written: ``HistoryFlag``.
    """
    if first_row >= end_row:
        return
    plan = _plan(spec)
    if state.sweep_due:
        state.sweep()
    found = np.empty(end_row - first_row, dtype=np.int64)
    arrays = state.arrays
    missing = _look_up(arrays.users, arrays.slots, rows.user_key, first_row, end_row, found)[0]
    del arrays  # the state moves its arrays only while nobody holds them
    state.reserve(int(missing), end_row - first_row, len(rows.account_key))
    _judge_rows(state.arrays, rows, plan, found, first_row, end_row, out, disposition, flags)


def warm(spec: FeatureSpec) -> None:
    """Compile everything, or load it from numba's cache: some seconds the first time, then a fraction."""
    kinds: dict[str, Any] = {"currency": np.int16, "status": np.int8}
    kinds |= {"country": np.int16, "account": np.int32, "day_only": np.bool_}
    kinds |= dict.fromkeys(("latitude", "longitude", "radius_km"), np.float64)
    kinds |= dict.fromkeys(("account_unit", "account_population"), np.float64)
    columns = {name: np.ones(1, dtype=kinds.get(name, np.int64)) for name in RowInputs._fields[1:]}
    rows = RowInputs(user_key=np.ones((1, 2), dtype=np.int64), **columns)
    state = FeatureState()
    out, flags = np.empty((1, len(spec.names))), np.empty(1, dtype=np.uint8)
    compute_features(spec, rows, 0, 1, state, out, np.empty(1, dtype=np.int8), flags)
    state.sweep()
    state.mark_fraud((1, 1), 1)
    state.reserve(1000, 0, 100)
    FeatureState.restore(state.snapshot())


@lru_cache(maxsize=16)
def _plan(spec: FeatureSpec) -> _Plan:
    document = spec.document
    baseline, guest = document.baseline, document.guest
    first = len(spec.window_ms) * measure.PER_WINDOW
    short = int(np.count_nonzero(spec.window_ms < _DAY_MS)) * measure.PER_WINDOW
    intraday = [first + place for place, name in enumerate(MEASURES) if name in INTRADAY]
    of_user = [first + place for place, name in enumerate(MEASURES) if name not in NOT_OF_USER]
    return _Plan(
        window_ms=spec.window_ms,
        source=spec.source,
        intraday=np.array([*range(short), *intraday], dtype=np.int64),
        of_user=np.array([*range(first), *of_user], dtype=np.int64),
        older_than_ms=parse_duration_ms(baseline.older_than),
        purchases=baseline.purchases,
        purchases_min=baseline.purchases_min,
        scale_min_share=baseline.scale_min_share,
        scale_min_units=baseline.scale_min_units,
        shrink_purchases=baseline.shrink_purchases,
        night_from=document.night.from_hour,
        night_to=document.night.to_hour,
        guest_ms=layout.EVENTS_MAX * _DAY_MS // guest.transactions_per_day,
        guest_share=guest.account_share,
        forget_days=parse_duration_ms(document.forget_after) // _DAY_MS,
    )


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


# Rows whose memory is fetched together, and chunks of each: 16 users of 128 events fit the L2 cache.
_BLOCK_ROWS = 16
_BLOCK_CHUNKS = 128 // layout.CHUNK_EVENTS
# Columns of the working memory (int64), newest event first.
_TS, _KIND, _AMOUNT, _LOW, _DEVICE, _MERCHANT, _PLACE, _RATIO = range(8)

_JUDGE = int(Disposition.JUDGE)
_REPEAT = int(Disposition.REPEAT)
_STATUS_UPDATE = int(Disposition.STATUS_UPDATE)
_CONFLICT = int(Disposition.CONFLICT)
_INCOMPLETE = int(HistoryFlag.INCOMPLETE)
_TRUNCATED = int(HistoryFlag.TRUNCATED)
_GUEST = int(HistoryFlag.GUEST)
_STATE_FULL = int(HistoryFlag.STATE_FULL)
_LATE = int(HistoryFlag.LATE)
_AGE = MEASURES.index("user_age_days")
_AMOUNT_BASE = MEASURES.index("amount_base")


@njit(nogil=True)
def _touch(state, found, first, end, cursor):
    """Bring the events of a block of users into the cache, all users at once.

    Following one user's chain is a wait for memory at each chunk; following sixteen is hardly longer.
    """
    users, events, links = state.users, state.events, state.links
    seen = np.int64(0)
    for i in range(first, end):
        cursor[i - first] = users[found[i], 2] >> 32 if found[i] >= 0 else -1
    for _ in range(_BLOCK_CHUNKS):
        going = False
        for i in range(end - first):
            chunk = cursor[i]
            if chunk >= 0:
                seen ^= events[chunk, 0] ^ events[chunk, 8]
                cursor[i] = np.int64(links[chunk])
                going = True
        if not going:
            break
    return seen


@njit(nogil=True)
def _gather(state, user, work, row_word, now):
    """Lay out a user's events not younger than ``now``, newest first, from column 1 of ``work``.

    Returns ``(columns used, newer events, newest time, oldest time, chunk and slot)``; the last two are of
    the event with the same tx_id, or -1.
    """
    events, links = state.events, state.links
    packed = state.users[user, 2]
    chunk, left, slot = packed >> 32, (packed >> 21) & 2047, ((packed >> 17) & 15) - 1
    n, later, newest, ts = 1, 0, now, now
    if left:
        newest = events[chunk, 4 * slot] >> 21
    while left > 0:
        left -= 1
        if (events[chunk, 4 * slot + 1] ^ row_word) >> 16 == 0:
            return n, later, newest, ts, chunk, slot
        word = events[chunk, 4 * slot]
        ts = word >> 21
        if ts > now:
            later += 1
        else:
            amount = events[chunk, 4 * slot + 2] >> 16
            last = events[chunk, 4 * slot + 3]
            work[_TS, n] = ts
            work[_KIND, n] = layout.classify(word & 7, amount)
            work[_AMOUNT, n] = abs(amount) if amount != layout.AMOUNT_NULL else 0
            work[_LOW, n] = word & 0x1FFFFF
            work[_DEVICE, n] = events[chunk, 4 * slot + 2] & 0xFFFF
            work[_MERCHANT, n] = (last >> 8) & 0x1FFFFF
            work[_PLACE, n] = (last >> 29) & 0x7FFFFFFFF if (last >> 29) & 15 else 0
            work[_RATIO, n] = last & 255
            n += 1
        slot -= 1
        if slot < 0:
            chunk, slot = np.int64(links[chunk]), layout.CHUNK_EVENTS - 1
    return n, later, newest, ts, np.int64(-1), np.int64(-1)


@njit(nogil=True)
def _place_first(work, rows, row):
    """Put the row itself at column 0 of ``work``."""
    amount = rows.amount[row]
    word = layout.event_time_word(
        rows.ts_ms[row], np.int64(rows.currency[row]), np.int64(rows.country[row]), np.int64(rows.status[row])
    )
    work[_TS, 0] = rows.ts_ms[row]
    work[_KIND, 0] = layout.classify(rows.status[row], amount)
    work[_AMOUNT, 0] = abs(amount) if amount != layout.AMOUNT_NULL else 0
    work[_LOW, 0] = word & 0x1FFFFF
    work[_DEVICE, 0] = layout.reduce_key(rows.device[row], layout.DEVICE_KEYS)
    work[_MERCHANT, 0] = layout.reduce_key(rows.merchant[row], layout.MERCHANT_KEYS)
    work[_PLACE, 0] = encode_place(rows.latitude[row], rows.longitude[row], rows.radius_km[row])
    work[_RATIO, 0] = 0
    return word


@njit(nogil=True)
def _measure(work, n, rows, row, plan, scratch, seen, stamp, values):
    """Every feature of column 0 of ``work`` into ``values``."""
    account = rows.account[row]
    unit, amount = rows.account_unit[account], rows.amount[row]
    ts, kind, low = work[_TS], work[_KIND], work[_LOW]
    first = plan.window_ms.size * measure.PER_WINDOW
    rest = values[first:]
    values[:] = math.nan
    measure.measure_windows(
        n,
        ts,
        kind,
        work[_AMOUNT],
        low,
        work[_DEVICE],
        work[_MERCHANT],
        plan.window_ms,
        unit,
        seen,
        stamp,
        values,
    )
    measure.measure_novelty(n, ts, kind, low, work[_DEVICE], work[_MERCHANT], rest)
    measure.measure_travel(n, ts, work[_PLACE], rest)
    measure.measure_excess(n, ts, kind, work[_RATIO], rest)
    offset_ms = rows.utc_offset_ms[row]
    hour = measure.measure_time(ts[0] + offset_ms, plan.night_from, plan.night_to, rest)
    found = measure.measure_baseline(
        n, ts, kind, work[_AMOUNT], low, plan.purchases, plan.older_than_ms,
        plan.window_ms[plan.window_ms.size - 1], offset_ms, hour, unit, scratch[0], rest,
    )  # fmt: skip
    judged = amount >= 0 and (kind[0] == layout.PURCHASE or kind[0] == layout.DECLINED)
    measure.measure_amount(
        found, scratch[0], scratch[1], amount, judged, unit, plan.purchases_min, plan.scale_min_share,
        plan.scale_min_units, plan.shrink_purchases, rows.account_population[account], rest,
    )  # fmt: skip
    if amount != layout.AMOUNT_NULL:
        rest[_AMOUNT_BASE] = amount / unit
    else:
        for window in range(plan.window_ms.size):  # a sum without the transaction itself would mislead
            values[
                window * measure.PER_WINDOW + measure.W_SUM : window * measure.PER_WINDOW + measure.W_MAX + 1
            ] = math.nan


@njit(nogil=True)
def _is_guest(state, user, slot, span_ms, plan):
    """Whether a user's full history is too short for one person; the account's share decides at entry."""
    packed = state.users[user, 2]
    guest = (packed >> 21) & 2047 == layout.EVENTS_MAX and span_ms < plan.guest_ms
    if guest and not (packed >> 16) & 1:
        seen = state.users[user, 3] & layout.USER_TOTAL_MAX
        guest = seen > plan.guest_share * state.account_rows[slot]
    state.users[user, 2] = packed & ~np.int64(1 << 16) | np.int64(guest) << 16
    return guest


@njit(nogil=True)
def _enter_user(state, rows, row, user, plan):
    """The row of a record's user: found, forgotten and begun again, or new; -1 when the state is full."""
    users, index, meta = state.users, state.slots, state.meta
    append_day = rows.append_ms[row] // _DAY_MS
    meta[history.M_APPEND_DAY] = max(meta[history.M_APPEND_DAY], append_day)
    meta[history.M_FORGET_DAYS] = plan.forget_days
    key_0, key_1 = rows.user_key[row, 0], rows.user_key[row, 1]
    if user >= 0 and (users[user, 0] != key_0 or users[user, 1] != key_1):
        user = np.int64(-1)  # swept since the look-up
    if user < 0:
        user = history.find_user(users, index, key_0, key_1)
    if user < 0:
        user = history.add_user(users, index, meta, key_0, key_1, rows.ts_ms[row])
        if user < 0 and meta[history.M_APPEND_DAY] > meta[history.M_SWEPT_DAY]:
            history.sweep_users(users, index, state.links, meta)
            user = history.add_user(users, index, meta, key_0, key_1, rows.ts_ms[row])
        return user
    if meta[history.M_APPEND_DAY] - (users[user, 2] & 0xFFFF) > plan.forget_days:
        history.forget_user(users, state.links, meta, user, rows.ts_ms[row])
    users[user, 2] = users[user, 2] & ~np.int64(0xFFFF) | (meta[history.M_APPEND_DAY] & 0xFFFF)
    return user


@njit(nogil=True)
def _remember(state, rows, row, user, later, word_0, row_word, work, log_ratio):
    """Put the row among its user's events."""
    code = np.int64(0)
    if log_ratio > 0.0:
        code = min(np.int64(log_ratio * layout.LOG_RATIO_STEPS), 255)
    word_2 = rows.amount[row] << 16 | work[_DEVICE, 0]
    word_3 = work[_PLACE, 0] << 29 | work[_MERCHANT, 0] << 8 | code
    history.insert_event(
        state.users, state.events, state.links, state.meta, user, later, word_0, row_word, word_2, word_3
    )


@njit(nogil=True)
def _judge_row(state, rows, row, user, plan, work, scratch, seen, stamp, values):
    """Judge one row into ``values`` and remember it; returns (disposition, flags)."""
    now = rows.ts_ms[row]
    row_word = rows.tx_key[row] & ~np.int64(0xFFFF) | rows.payload_key[row] & 0xFFFF
    user = _enter_user(state, rows, row, user, plan)
    word_0 = _place_first(work, rows, row)
    if user < 0:
        _measure(work, 1, rows, row, plan, scratch, seen, stamp, values)
        values[plan.of_user] = math.nan
        return _JUDGE, _STATE_FULL
    n, later, newest, oldest, chunk, slot = _gather(state, user, work, row_word, now)
    if chunk >= 0:
        if state.events[chunk, 4 * slot + 1] != row_word:
            return _CONFLICT, 0
        word = state.events[chunk, 4 * slot]
        if word & 7 == word_0 & 7:
            return _REPEAT, 0
        state.events[chunk, 4 * slot] = word & ~np.int64(7) | word_0 & 7
        return _STATUS_UPDATE, 0
    _measure(work, n, rows, row, plan, scratch, seen, stamp, values)
    first = plan.window_ms.size * measure.PER_WINDOW
    longest_ms = plan.window_ms[plan.window_ms.size - 1]
    account = history.account_slot(state.account_keys, state.meta, rows.account_key[rows.account[row]])
    state.account_rows[account] += 1
    first_seen, total = state.users[user, 3] >> 21, state.users[user, 3] & layout.USER_TOTAL_MAX
    values[first + _AGE] = max(0, now - first_seen) / _DAY_MS
    state.users[user, 3] = min(first_seen, now) << 21 | min(total + 1, layout.USER_TOTAL_MAX)
    flags = _LATE if later else 0
    if (state.users[user, 2] >> 21) & 2047 == layout.EVENTS_MAX and oldest > now - longest_ms:
        flags |= _TRUNCATED
    if _is_guest(state, user, account, newest - oldest, plan):
        flags |= _GUEST
        values[plan.of_user] = math.nan
    if rows.day_only[row]:
        values[plan.intraday] = math.nan
    if newest - now > longest_ms or abs(now) > layout.TS_MS_MAX:
        return _JUDGE, flags | _INCOMPLETE
    _remember(state, rows, row, user, later, word_0, row_word, work, values[first + measure.LR])
    return _JUDGE, flags


@compiled_from
def _judge_rows(fingerprint: int) -> Any:
    @njit(cache=True, nogil=True)
    def judge_rows(state, rows, plan, found, first_row, end_row, out, disposition, flags):
        work = np.zeros((8, layout.EVENTS_MAX + 1), dtype=np.int64)
        scratch = np.zeros((2, plan.purchases), dtype=np.int64)
        seen = np.zeros(measure.SEEN_SLOTS, dtype=np.int64)
        values = np.empty(plan.window_ms.size * measure.PER_WINDOW + len(MEASURES))
        cursor = np.empty(_BLOCK_ROWS, dtype=np.int64)
        touched = np.int64(fingerprint)
        for row in range(first_row, end_row):
            place = row - first_row
            if place % _BLOCK_ROWS == 0:
                touched ^= _touch(state, found, place, min(place + _BLOCK_ROWS, end_row - first_row), cursor)
            kind, flag = _judge_row(
                state, rows, row, found[place], plan, work, scratch, seen, np.int64(place + 1), values
            )
            disposition[row] = kind
            flags[row] = flag
            for column in range(plan.source.size):
                out[row, column] = values[plan.source[column]] if kind == _JUDGE else math.nan
        return touched

    return judge_rows


@compiled_from
def _look_up(fingerprint: int) -> Any:
    @njit(cache=True, nogil=True)
    def look_up(users, index, keys, first_row, end_row, found):
        return history.find_users(users, index, keys, first_row, end_row, found), fingerprint

    return look_up
