"""One call computes the features of a partition's rows and takes them into its state.

Rows go in the order of their log. Each is first looked for among its user's events (a repeat, a change of
status, a conflict), then judged as of its own time on what had arrived, then put at its place in time.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from anomalyze.features import history, layout, measure
from anomalyze.features.catalogue import INTRADAY, MEASURES, NOT_OF_USER
from anomalyze.features.compiled import COMPILED
from anomalyze.features.rows import R_ACCOUNT, R_APPEND, R_DAY_ONLY, R_OFFSET, RowInputs, blank_rows
from anomalyze.features.spec import FeatureSpec, parse_duration_ms
from anomalyze.features.state import Disposition, FeatureState, HistoryFlag

__all__ = ["compute_features", "warm"]

_DAY_MS = 86_400_000


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
        not judged (a repeat, a status update, a conflict) are all NaN, and so are columns of profiles, which
        ``Profiles.join`` fills in.
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
    missing = _look_up(arrays.users, arrays.slots, rows.codes, first_row, end_row, found)
    del arrays  # the state moves its arrays only while nobody holds them
    state.reserve(int(missing), end_row - first_row, len(rows.account_key))
    _judge_rows(
        state.arrays, rows, plan, _working_space(plan), found, first_row, end_row, out, disposition, flags
    )


def warm(spec: FeatureSpec) -> None:
    """Compile everything, or load it from numba's cache: some seconds the first time, then a fraction."""
    rows = blank_rows()
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


def _working_space(plan: _Plan) -> tuple[npt.NDArray[Any], ...]:
    """Memory of one call: columns of events, the baseline's amounts, distinct values, the row, cursors."""
    return (
        np.zeros((measure.WORK_ROWS, layout.EVENTS_MAX + 1), dtype=np.int64),
        np.zeros((3, plan.purchases + measure.SORT_LANES), dtype=np.int64),
        np.zeros(measure.SEEN_SLOTS, dtype=np.int64),
        np.full(len(plan.window_ms) * measure.PER_WINDOW + len(MEASURES), math.nan),
        np.empty(_BLOCK_ROWS, dtype=np.int64),
    )


# Rows whose memory is fetched together, and chunks of each: 16 users of 128 events fit the L2 cache.
_BLOCK_ROWS = 16
_BLOCK_CHUNKS = 128 // layout.CHUNK_EVENTS
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


@njit(**COMPILED)
def _touch(users, events, links, found, first, end, cursor):
    """Bring the events of a block of users into the cache, all users at once.

    Following one user's chain is a wait for memory at each chunk; following sixteen is hardly longer.
    """
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


@njit(**COMPILED)
def _lay_out(word_0, word_2, word_3, work, n):
    """Unpack an event into column ``n`` of ``work``."""
    amount = word_2 >> 16
    work[measure.TS, n] = word_0 >> 21
    work[measure.KIND, n] = layout.classify(word_0 & 7, amount)
    work[measure.AMOUNT, n] = abs(amount) * np.int64(amount != layout.AMOUNT_NULL)
    work[measure.LOW, n] = word_0 & 0x1FFFFF
    work[measure.DEVICE, n] = word_2 & 0xFFFF
    work[measure.MERCHANT, n] = (word_3 >> 8) & 0x1FFFFF
    work[measure.PLACE, n] = (word_3 >> 29) & 0x7FFFFFFFF
    work[measure.RATIO, n] = word_3 & 255


@njit(**COMPILED)
def _gather(events, links, packed, work, row_word, now):
    """Lay out a user's events not younger than ``now``, newest first, from column 1 of ``work``.

    Returns ``(columns used, newer events, newest time, oldest time, chunk and slot)``; the last two are of
    the event with the same tx_id, or -1.
    """
    chunk, left, slot = packed >> 32, (packed >> 21) & 2047, ((packed >> 17) & 15) - 1
    n, later, newest, ts = 1, 0, now, now
    if left:
        newest = events[chunk, 4 * slot] >> 21
    while left > 0:
        left -= 1
        if (events[chunk, 4 * slot + 1] ^ row_word) >> 16 == 0:
            return n, later, newest, ts, chunk, slot
        ts = events[chunk, 4 * slot] >> 21
        if ts > now:
            later += 1
        else:
            _lay_out(
                events[chunk, 4 * slot], events[chunk, 4 * slot + 2], events[chunk, 4 * slot + 3], work, n
            )
            n += 1
        slot -= 1
        if slot < 0:
            chunk, slot = np.int64(links[chunk]), layout.CHUNK_EVENTS - 1
    return n, later, newest, ts, np.int64(-1), np.int64(-1)


@njit(**COMPILED)
def _measure(work, n, amount, offset_ms, unit, population, plan, scratch, seen, stamp, values):
    """Every feature of column 0 of ``work`` into ``values``, except the user's age."""
    windows = plan.window_ms.size
    longest_ms = plan.window_ms[windows - 1]
    rest = values[windows * measure.PER_WINDOW :]
    measure.measure_windows(work, n, plan.window_ms, unit, seen, stamp, values)
    measure.measure_novelty(work, n, rest)
    measure.measure_travel(work, n, rest)
    measure.measure_excess(work, n, rest)
    hour = measure.measure_time(work[measure.TS, 0] + offset_ms, plan.night_from, plan.night_to, rest)
    found = measure.measure_baseline(
        work, n, plan.purchases, plan.older_than_ms, longest_ms, offset_ms, hour, unit, scratch[0], rest
    )
    kind = work[measure.KIND, 0]
    judged = amount >= 0 and (kind == layout.PURCHASE or kind == layout.DECLINED)
    measure.measure_amount(
        found, scratch[0], scratch[1], scratch[2], amount, judged, unit, plan.purchases_min,
        plan.scale_min_share, plan.scale_min_units, plan.shrink_purchases, population, rest,
    )  # fmt: skip
    rest[_AMOUNT_BASE] = amount / unit
    if amount == layout.AMOUNT_NULL:
        rest[_AMOUNT_BASE] = math.nan
        for window in range(windows):  # a sum without the transaction itself would mislead
            at = window * measure.PER_WINDOW
            values[at + measure.W_SUM : at + measure.W_MAX + 1] = math.nan


@njit(**COMPILED)
def _is_guest(users, user, account_rows, slot, span_ms, guest_ms, guest_share):
    """Whether a user's full history is too short for one person; the account's share decides at entry."""
    packed = users[user, 2]
    guest = (packed >> 21) & 2047 == layout.EVENTS_MAX and span_ms < guest_ms
    if guest and not (packed >> 16) & 1:
        guest = users[user, 3] & layout.USER_TOTAL_MAX > guest_share * account_rows[slot]
    users[user, 2] = packed & ~np.int64(1 << 16) | np.int64(guest) << 16
    return guest


@njit(**COMPILED)
def _enter_user(users, slots, links, meta, user, key_0, key_1, ts, append_ms, forget_days):
    """The row of a record's user: found, forgotten and begun again, or new; -1 when the state is full."""
    meta[history.M_APPEND_DAY] = max(meta[history.M_APPEND_DAY], append_ms // _DAY_MS)
    meta[history.M_FORGET_DAYS] = forget_days
    if user >= 0 and (users[user, 0] != key_0 or users[user, 1] != key_1):
        user = np.int64(-1)  # swept since the look-up
    if user < 0:
        user = history.find_user(users, slots, key_0, key_1)
    if user < 0:
        user = history.add_user(users, slots, meta, key_0, key_1, ts)
        if user < 0 and meta[history.M_APPEND_DAY] > meta[history.M_SWEPT_DAY]:
            history.sweep_users(users, slots, links, meta)
            user = history.add_user(users, slots, meta, key_0, key_1, ts)
        return user
    if meta[history.M_APPEND_DAY] - (users[user, 2] & 0xFFFF) > forget_days:
        history.forget_user(users, links, meta, user, ts)
    users[user, 2] = users[user, 2] & ~np.int64(0xFFFF) | (meta[history.M_APPEND_DAY] & 0xFFFF)
    return user


@njit(**COMPILED)
def _meet_again(events, chunk, slot, word_0, word_1):
    """What a record is whose tx_id its user has sent before; a new status is taken over."""
    if events[chunk, 4 * slot + 1] != word_1:
        return _CONFLICT
    word = events[chunk, 4 * slot]
    if word & 7 == word_0 & 7:
        return _REPEAT
    events[chunk, 4 * slot] = word & ~np.int64(7) | word_0 & 7
    return _STATUS_UPDATE


@njit(**COMPILED)
def _age_days(users, user, now):
    """Days since the user was first seen; counts the transaction."""
    first, total = users[user, 3] >> 21, users[user, 3] & layout.USER_TOTAL_MAX
    users[user, 3] = min(first, now) << 21 | min(total + 1, layout.USER_TOTAL_MAX)
    return max(0, now - first) / _DAY_MS


@njit(cache=True, **COMPILED)
def _judge_rows(state, rows, plan, space, found, first_row, end_row, out, disposition, flags):
    users, events, links, meta = state.users, state.events, state.links, state.meta
    work, scratch, seen, values, cursor = space
    first_measure = plan.window_ms.size * measure.PER_WINDOW
    longest_ms = plan.window_ms[plan.window_ms.size - 1]
    touched = np.int64(0)
    for row in range(first_row, end_row):
        place = row - first_row
        if place % _BLOCK_ROWS == 0:
            block_end = min(place + _BLOCK_ROWS, end_row - first_row)
            touched ^= _touch(users, events, links, found, place, block_end, cursor)
        code = rows.codes[row]
        word_0, word_1, word_2, word_3 = code[2], code[3], code[4], code[5]
        now, amount, account = word_0 >> 21, word_2 >> 16, code[R_ACCOUNT]
        unit, population = rows.account_unit[account], rows.account_population[account]
        user = _enter_user(
            users,
            state.slots,
            links,
            meta,
            found[place],
            code[0],
            code[1],
            now,
            code[R_APPEND],
            plan.forget_days,
        )
        _lay_out(word_0, word_2, word_3, work, 0)
        n, later, newest, oldest, chunk, slot = 1, 0, now, now, np.int64(-1), np.int64(-1)
        if user >= 0:
            n, later, newest, oldest, chunk, slot = _gather(events, links, users[user, 2], work, word_1, now)
        if chunk >= 0:
            disposition[row] = _meet_again(events, chunk, slot, word_0, word_1)
            flags[row] = 0
            out[row, :] = math.nan
            continue
        _measure(
            work,
            n,
            amount,
            code[R_OFFSET],
            unit,
            population,
            plan,
            scratch,
            seen,
            np.int64(place + 1),
            values,
        )
        flag = _STATE_FULL
        if user >= 0:
            flag = _LATE if later else 0
            values[first_measure + _AGE] = _age_days(users, user, now)
            counter = history.account_slot(state.account_keys, meta, rows.account_key[account])
            state.account_rows[counter] += 1
            if (users[user, 2] >> 21) & 2047 == layout.EVENTS_MAX and oldest > now - longest_ms:
                flag |= _TRUNCATED
            if _is_guest(
                users, user, state.account_rows, counter, newest - oldest, plan.guest_ms, plan.guest_share
            ):
                flag |= _GUEST
            if newest - now > longest_ms:
                flag |= _INCOMPLETE
            else:
                ratio = layout.encode_log_ratio(values[first_measure + measure.LR])
                history.insert_event(
                    users, events, links, meta, user, later, word_0, word_1, word_2, word_3 | ratio
                )
        if flag & (_GUEST | _STATE_FULL):
            values[plan.of_user] = math.nan
        if code[R_DAY_ONLY]:
            values[plan.intraday] = math.nan
        for column in range(plan.source.size):
            out[row, column] = values[plan.source[column]]
        out[row, plan.source.size :] = math.nan
        disposition[row] = _JUDGE
        flags[row] = flag
    return touched


@njit(cache=True, **COMPILED)
def _look_up(users, slots, codes, first_row, end_row, found):
    return history.find_users(users, slots, codes, first_row, end_row, found)
