"""The features of one transaction, from its user's events laid out newest first (compiled).

``work`` (int64) has a row for each property and a column for each event: 0 is the transaction judged, then
its user's events from the newest that is not younger to the oldest. Amounts are minor units; values written
are units, and NaN is NULL.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

import math

import numpy as np
from numba import njit

from anomalyze.features.catalogue import MEASURES, WINDOW_MEASURES
from anomalyze.features.compiled import COMPILED
from anomalyze.features.geography import travel_between_km
from anomalyze.features.layout import DECLINED, FRAUD_BIT, LOG_RATIO_STEPS, PURCHASE, REFUND

__all__ = [
    "SEEN_SLOTS",
    "measure_amount",
    "measure_baseline",
    "measure_excess",
    "measure_novelty",
    "measure_time",
    "measure_travel",
    "measure_windows",
]

# Rows of the working memory; a column is an event.
TS, KIND, AMOUNT, LOW, DEVICE, MERCHANT, PLACE, RATIO = range(8)
WORK_ROWS = 8

PER_WINDOW = len(WINDOW_MEASURES)
(
    W_COUNT,
    W_SUM,
    W_MEAN,
    W_STD,
    W_MAX,
    W_DECLINED,
    W_REFUND,
    W_MERCHANTS,
    W_DEVICES,
    W_COUNTRIES,
) = range(PER_WINDOW)

STREAK = MEASURES.index("user_declined_streak")
N = MEASURES.index("user_amount_n")
MEDIAN = MEASURES.index("user_amount_median")
P95 = MEASURES.index("user_amount_p95")
RZ = MEASURES.index("user_amount_rz")
IQR_LOW = MEASURES.index("user_amount_iqr_low")
IQR_HIGH = MEASURES.index("user_amount_iqr_high")
MEAN_20 = MEASURES.index("user_amount_mean_20")
Z90 = MEASURES.index("user_amount_z90")
RANK = MEASURES.index("user_amount_rank")
LR = MEASURES.index("user_amount_lr")
USUAL = MEASURES.index("user_amount_usual")
EXCESS_3 = MEASURES.index("user_amount_excess_3d")
EXCESS_14 = MEASURES.index("user_amount_excess_14d")
LR_MAX = MEASURES.index("user_amount_lr_max_14d")
SPEND = MEASURES.index("user_spend_per_day")
SPEND_RATIO = MEASURES.index("user_spend_24h_ratio")
SINCE_LAST = MEASURES.index("user_seconds_since_last")
NEW_MERCHANT = MEASURES.index("is_new_merchant")
NEW_DEVICE = MEASURES.index("is_new_device")
NEW_COUNTRY = MEASURES.index("is_new_country")
NEW_CURRENCY = MEASURES.index("is_new_currency")
KM = MEASURES.index("travel_km")
KMH = MEASURES.index("travel_kmh")
HOUR_RARITY = MEASURES.index("hour_rarity")
LOCAL_HOUR = MEASURES.index("local_hour")
WEEKDAY = MEASURES.index("weekday")
NIGHT = MEASURES.index("is_night")

COUNTRY_MASK, CURRENCY_MASK = 255 << 4, 255 << 12  # of LOW, the low bits of an event's word 0
DAY_MS = 86_400_000
HOUR_MS = 3_600_000
# Makes the median absolute deviation of a normal distribution its standard deviation.
MAD_SCALE = 1.4826
EXCESS_FROM = 0.5  # log ratios up to here are ordinary
LN2_PER_42_DAYS = math.log(2.0) / (42.0 * DAY_MS)
# Prior of hour_rarity: this many transactions spread evenly over the day.
HOUR_PRIOR = 8.0
TRAVEL_SECONDS_MIN = 60.0
# Open addressing over the distinct merchants, devices and countries of at most 1,025 events.
SEEN_SLOTS = 4096
_SEEN_MASK = SEEN_SLOTS - 1
_FAR = np.int64(1 << 60)  # beyond every amount, and every key of the sort
SORT_LANES = 16


@njit(**COMPILED)
def _first_seen(seen, stamp, value):
    """1 when ``value`` (23 bits) is new for this ``stamp``, else 0; entries of other stamps are free.

    Whether it is new is anybody's guess, so no branch depends on it; that a slot is taken by another value
    is rare.
    """
    entry = (stamp << 23) | value
    slot = (value ^ (value >> 11)) & _SEEN_MASK
    while seen[slot] >> 23 == stamp and seen[slot] != entry:
        slot = (slot + 1) & _SEEN_MASK
    new = np.int64(seen[slot] != entry)
    seen[slot] = entry
    return new


@njit(**COMPILED)
def _close_window(values, at, unit, count, purchases, total, squares, shift, largest):
    values[at + W_COUNT] = count
    values[at + W_SUM] = total / unit
    values[at + W_MEAN : at + W_MAX + 1] = math.nan
    if purchases:
        values[at + W_MEAN] = total / (purchases * unit)
        values[at + W_MAX] = largest / unit
    if purchases > 1:
        drift = np.float64(total - purchases * shift)
        variance = (squares - drift * drift / purchases) / (purchases - 1)
        values[at + W_STD] = math.sqrt(max(variance, 0.0)) / unit


@njit(**COMPILED)
def measure_windows(work, n, window_ms, unit, seen, stamp, values):
    """Counts, sums, spreads and distinct values over each window, the judged transaction included.

    Sums are integers, so they depend on the window's content alone. Squares are taken about the newest
    purchase of the windows, which all of them contain: nothing cancels however large the amounts.
    """
    purchases, declined, total, refunded = 0, 0, np.int64(0), np.int64(0)
    shift, largest, squares = np.int64(0), np.int64(0), 0.0
    merchants, devices, countries = np.int64(0), np.int64(0), np.int64(0)
    first, end, now = 0, 0, work[TS, 0]
    for window in range(window_ms.size):
        at, since = window * PER_WINDOW, now - window_ms[window]
        while end < n and work[TS, end] > since:
            end += 1
        if first == end:  # nothing since the window before
            for i in range(PER_WINDOW):
                values[at + i] = values[at + i - PER_WINDOW]
            continue
        for k in range(first, end):
            kind, amount = work[KIND, k], work[AMOUNT, k]
            if kind == PURCHASE:
                if purchases == 0:
                    shift = amount
                purchases += 1
                total += amount
                difference = np.float64(amount - shift)
                squares += difference * difference
                largest = max(largest, amount)
            declined += np.int64(kind == DECLINED)
            refunded += amount if kind == REFUND else np.int64(0)
        for k in range(first, end):
            merchant, device, country = work[MERCHANT, k], work[DEVICE, k], work[LOW, k] & COUNTRY_MASK
            merchants += _first_seen(seen, stamp, merchant) & np.int64(merchant != 0)
            devices += _first_seen(seen, stamp, device | (1 << 21)) & np.int64(device != 0)
            countries += _first_seen(seen, stamp, country | (2 << 21)) & np.int64(country != 0)
        first = end
        _close_window(values, at, unit, end, purchases, total, squares, shift, largest)
        values[at + W_DECLINED] = declined
        values[at + W_REFUND] = refunded / unit
        values[at + W_MERCHANTS] = merchants if merchants else math.nan
        values[at + W_DEVICES] = devices if devices else math.nan
        values[at + W_COUNTRIES] = countries if countries else math.nan


@njit(**COMPILED)
def measure_novelty(work, n, values):
    """What the user has not been seen with before; streak of declines; time since the last event.

    NULL where the transaction does not name it or no earlier one did: without history nothing is new.
    """
    merchant, device, low = work[MERCHANT, 0], work[DEVICE, 0], work[LOW, 0]
    country, currency = low & COUNTRY_MASK, low & CURRENCY_MASK
    merchants, devices, countries, honest = np.int64(0), np.int64(0), np.int64(0), 0
    same_merchant, same_device, same_country, same_currency = 0, 0, 0, 0
    for k in range(1, n):
        other = work[LOW, k]
        counts = np.int64(other & FRAUD_BIT == 0)
        honest += counts
        merchants |= counts * work[MERCHANT, k]
        devices |= counts * work[DEVICE, k]
        countries |= counts * (other & COUNTRY_MASK)
        same_merchant += counts & np.int64(work[MERCHANT, k] == merchant)
        same_device += counts & np.int64(work[DEVICE, k] == device)
        same_country += counts & np.int64(other & COUNTRY_MASK == country)
        same_currency += counts & np.int64(other & CURRENCY_MASK == currency)
    values[NEW_MERCHANT] = np.float64(same_merchant == 0) if merchant and merchants else math.nan
    values[NEW_DEVICE] = np.float64(same_device == 0) if device and devices else math.nan
    values[NEW_COUNTRY] = np.float64(same_country == 0) if country and countries else math.nan
    values[NEW_CURRENCY] = np.float64(same_currency == 0) if honest else math.nan
    streak = 1
    while streak < n and work[KIND, streak] == DECLINED:
        streak += 1
    values[STREAK] = streak - (0 if work[KIND, 0] == DECLINED else 1)
    values[SINCE_LAST] = (work[TS, 0] - work[TS, 1]) / 1000.0 if n > 1 else math.nan


@njit(**COMPILED)
def measure_travel(work, n, values):
    """Distance and speed from the newest earlier event with a place."""
    values[KM] = math.nan
    values[KMH] = math.nan
    if work[PLACE, 0] == 0:
        return
    for k in range(1, n):
        if work[PLACE, k]:
            km = travel_between_km(work[PLACE, 0], work[PLACE, k])
            seconds = (work[TS, 0] - work[TS, k]) / 1000.0
            values[KM] = km
            values[KMH] = km / (max(seconds, TRAVEL_SECONDS_MIN) / 3600.0)
            return


@njit(**COMPILED)
def _sort_amounts(amounts, n, keys, ordered):
    """Sort ``amounts[:n]`` into ``ordered[1:n + 1]`` by counting the smaller ones.

    The inner loop is a few vector instructions: at 60 values faster than sorts that branch. A key is the
    amount above its position, so that no two are equal; the keys are filled up to whole vectors. The ends
    of ``ordered`` become sentinels.
    """
    for i in range(n):
        keys[i] = amounts[i] << 8 | i
    padded = (n + SORT_LANES - 1) // SORT_LANES * SORT_LANES
    for i in range(n, padded):
        keys[i] = _FAR
    for i in range(n):
        key, rank = keys[i], np.int64(1)
        for j in range(padded):
            rank -= (keys[j] - key) >> 63
        ordered[rank] = key >> 8
    ordered[0] = -_FAR
    ordered[n + 1] = _FAR


@njit(**COMPILED)
def _quantile(ordered, n, q):
    """Quantile of ``ordered[1:n + 1]`` by linear interpolation (type 7 of Hyndman and Fan, 1996).

    >>> float(_quantile(np.array([0, 10, 20, 40, 0]), 3, 0.75))
    30.0
    """
    position = q * (n - 1)
    below = min(np.int64(position), n - 2)
    return ordered[below + 1] + (position - below) * (ordered[below + 2] - ordered[below + 1])


@njit(**COMPILED)
def _median_deviation(ordered, n, median):
    """Median of |x - median| over ``ordered[1:n + 1]``, by bisection of two sorted sides.

    >>> float(_median_deviation(np.array([-(1 << 60), 1, 2, 3, 5, 100, 1 << 60]), 5, 3.0))
    2.0
    """
    low = (n + 1) // 2  # the median, or the lower one of two; distances grow on both sides of it
    middle = n // 2
    first, last = 0, min(middle, low)
    while first < last:  # how many of the ``middle`` smallest distances lie on the left
        left = (first + last) // 2
        if median - ordered[low - left] < ordered[low + middle - left] - median:
            first = left + 1
        else:
            last = left
    left, right = first, middle - first
    deviation = min(median - ordered[low - left], ordered[low + 1 + right] - median)
    before = max(median - ordered[low - left + 1], ordered[low + right] - median)
    return deviation if n % 2 else (before + deviation) / 2.0


@njit(**COMPILED)
def measure_baseline(work, n, size, older_than_ms, longest_ms, offset_ms, hour, unit, base, values):
    """Gather the baseline's amounts into ``base``, newest first; spending a day and rarity of the hour.

    Returns how many there are.
    """
    found, near, spent = 0, 0, np.int64(0)
    recent = work[AMOUNT, 0] if work[KIND, 0] == PURCHASE else np.int64(0)
    until, since = work[TS, 0] - older_than_ms, work[TS, 0] - longest_ms
    near_from_ms = (hour - 1) * HOUR_MS - offset_ms
    for k in range(1, n):
        if work[KIND, k] != PURCHASE:
            continue
        ts, amount = work[TS, k], work[AMOUNT, k]
        if ts > until:
            recent += amount
            continue
        if work[LOW, k] & FRAUD_BIT:
            continue
        if ts > since:
            spent += amount
        elif found == size:
            break
        if found < size:
            base[found] = amount
            found += 1
            near += np.int64((ts - near_from_ms) % DAY_MS < 3 * HOUR_MS)
    days = (until - max(since, work[TS, n - 1])) / DAY_MS
    values[SPEND] = math.nan
    values[SPEND_RATIO] = math.nan
    if days >= 1.0:
        values[SPEND] = spent / unit / days
        values[SPEND_RATIO] = recent / unit / max(values[SPEND], 1.0)
    values[N] = found
    values[HOUR_RARITY] = 1.0 - (near + HOUR_PRIOR / 8.0) / (found + HOUR_PRIOR)
    return found


@njit(**COMPILED)
def measure_amount(
    found,
    base,
    keys,
    ordered,
    amount,
    judged,
    unit,
    enough,
    scale_share,
    scale_units,
    shrink,
    population,
    values,
):
    """The judged amount against the baseline; everything but the log ratio needs ``enough`` purchases."""
    median = 0.0
    if found:
        _sort_amounts(base, found, keys, ordered)
        median = (ordered[(found + 1) // 2] + ordered[found // 2 + 1]) / 2.0
    values[LR] = math.nan
    values[USUAL] = math.nan
    if found + shrink > 0.0:
        usual = (found * (median / unit) + shrink * population) / (found + shrink)
        values[USUAL] = usual
        if judged:
            values[LR] = math.log((amount / unit + 1.0) / (usual + 1.0))
    values[MEDIAN : RANK + 1] = math.nan
    if found < enough:
        values[SPEND] = math.nan
        values[SPEND_RATIO] = math.nan
        values[HOUR_RARITY] = math.nan
        return
    low_quartile, high_quartile = _quantile(ordered, found, 0.25), _quantile(ordered, found, 0.75)
    fence = 1.5 * (high_quartile - low_quartile)
    values[MEDIAN] = median / unit
    values[P95] = _quantile(ordered, found, 0.95) / unit
    values[IQR_LOW] = (low_quartile - fence) / unit
    values[IQR_HIGH] = (high_quartile + fence) / unit
    newest, total = min(found, 20), np.int64(0)
    for i in range(newest):
        total += base[i]
    values[MEAN_20] = total / newest / unit
    if judged:
        _compare_amount(ordered, found, amount, median, max(scale_share * median, scale_units * unit), values)


@njit(**COMPILED)
def _compare_amount(ordered, n, amount, median, scale_min, values):
    """Robust z, z over the lowest nine tenths, and rank of an amount among ``ordered[1:n + 1]``."""
    scale = max(MAD_SCALE * _median_deviation(ordered, n, median), scale_min)
    values[RZ] = (amount - median) / scale
    lowest, total = n * 9 // 10, np.int64(0)
    for i in range(1, lowest + 1):
        total += ordered[i]
    mean, squares = total / lowest, 0.0
    for i in range(1, lowest + 1):
        squares += (ordered[i] - mean) * (ordered[i] - mean)
    values[Z90] = (amount - mean) / max(math.sqrt(squares / max(lowest - 1, 1)), scale_min)
    below, equal = 0, 0
    for i in range(1, n + 1):
        below += np.int64(ordered[i] < amount)
        equal += np.int64(ordered[i] == amount)
    values[RANK] = (below + 0.5 * equal) / n


@njit(**COMPILED)
def measure_excess(work, n, values):
    """How far earlier purchases lay above the usual, fading with age; the highest of 14 days."""
    excess_3, excess_14, highest = 0.0, 0.0, np.int64(-1)
    since = work[TS, 0] - 14 * DAY_MS
    for k in range(1, n):
        ratio = work[RATIO, k]
        if work[KIND, k] != PURCHASE:
            continue
        if work[TS, k] >= since:
            highest = max(highest, ratio)
        if ratio > EXCESS_FROM * LOG_RATIO_STEPS:
            over, age = ratio / LOG_RATIO_STEPS - EXCESS_FROM, np.float64(work[TS, 0] - work[TS, k])
            fading = math.exp(-age * LN2_PER_42_DAYS)
            cubed = fading * fading * fading  # a half-life of 14 days; its 14 / 3rd power has 3
            excess_3 += over * (cubed * cubed * cubed * cubed * fading * fading)
            excess_14 += over * cubed
    values[EXCESS_3] = excess_3
    values[EXCESS_14] = excess_14
    values[LR_MAX] = highest / LOG_RATIO_STEPS if highest >= 0 else math.nan


@njit(**COMPILED)
def measure_time(local_ms, night_from, night_to, values):
    """Local hour, weekday (0 = Monday) and night; returns the hour."""
    hour = local_ms // HOUR_MS % 24
    values[LOCAL_HOUR] = hour
    values[WEEKDAY] = (local_ms // DAY_MS + 3) % 7  # 1970-01-01 was a Thursday
    if night_from <= night_to:
        values[NIGHT] = np.float64(night_from <= hour < night_to)
    else:
        values[NIGHT] = np.float64(hour >= night_from or hour < night_to)
    return hour
