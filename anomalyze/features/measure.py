"""The features of one transaction, from its user's events laid out newest first (compiled).

Position 0 of every column is the transaction judged, then its user's events from the newest that is not
younger to the oldest. Amounts are minor units (int64); values written are units.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

import math

import numpy as np
from numba import njit

from anomalyze.features.catalogue import MEASURES, WINDOW_MEASURES
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

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
# Makes the median absolute deviation of a normal distribution its standard deviation.
MAD_SCALE = 1.4826
EXCESS_FROM = 0.5  # log ratios up to here are ordinary
LN2_PER_3_DAYS = math.log(2.0) / (3.0 * DAY_MS)
LN2_PER_14_DAYS = math.log(2.0) / (14.0 * DAY_MS)
# Prior of hour_rarity: this many transactions spread evenly over the day.
HOUR_PRIOR = 8.0
TRAVEL_SECONDS_MIN = 60.0
# Open addressing over the distinct merchants, devices and countries of at most 1,025 events.
SEEN_SLOTS = 4096
_SEEN_MASK = SEEN_SLOTS - 1


@njit(nogil=True)
def _first_seen(seen, stamp, value):
    """Whether ``value`` (23 bits) is new for this ``stamp``; stale entries count as free."""
    entry = (stamp << 23) | value
    slot = (value ^ (value >> 11)) & _SEEN_MASK
    while seen[slot] >> 23 == stamp:
        if seen[slot] == entry:
            return 0
        slot = (slot + 1) & _SEEN_MASK
    seen[slot] = entry
    return 1


@njit(nogil=True)
def _close_window(values, at, unit, counts, purchases, total, squares, shift, largest):
    values[at + W_COUNT] = counts[0]
    values[at + W_DECLINED] = counts[1]
    values[at + W_REFUND] = counts[2] / unit
    values[at + W_MERCHANTS] = counts[3] if counts[3] else math.nan
    values[at + W_DEVICES] = counts[4] if counts[4] else math.nan
    values[at + W_COUNTRIES] = counts[5] if counts[5] else math.nan
    values[at + W_SUM] = total / unit
    if purchases:
        values[at + W_MEAN] = total / purchases / unit
        values[at + W_MAX] = largest / unit
    if purchases > 1:
        drift = np.float64(total - purchases * shift)
        variance = (squares - drift * drift / purchases) / (purchases - 1)
        values[at + W_STD] = math.sqrt(max(variance, 0.0)) / unit


@njit(nogil=True)
def measure_windows(n, ts, kind, amount, low, device, merchant, window_ms, unit, seen, stamp, values):
    """Counts, sums, spreads and distinct values over each window, the judged transaction included.

    Sums are integers, so they depend on the window's content alone. Squares are taken about the newest
    purchase of the windows, which all of them contain: nothing cancels however large the amounts.
    """
    counts = np.zeros(6, dtype=np.int64)
    purchases, total, squares, shift, largest = 0, np.int64(0), 0.0, np.int64(0), np.int64(0)
    last_merchant, last_device, last_country = np.int64(0), np.int64(0), np.int64(0)
    window, windows = 0, window_ms.size
    now = ts[0]
    for k in range(n):
        while window < windows and ts[k] <= now - window_ms[window]:
            _close_window(
                values, window * PER_WINDOW, unit, counts, purchases, total, squares, shift, largest
            )
            window += 1
        if window == windows:
            return
        counts[0] += 1
        if kind[k] == PURCHASE:
            if purchases == 0:
                shift = amount[k]
            purchases += 1
            total += amount[k]
            difference = np.float64(amount[k] - shift)
            squares += difference * difference
            largest = max(largest, amount[k])
        elif kind[k] == DECLINED:
            counts[1] += 1
        elif kind[k] == REFUND:
            counts[2] += amount[k]
        country = (low[k] >> 4) & 255
        if merchant[k] != last_merchant and merchant[k]:
            last_merchant = merchant[k]
            counts[3] += _first_seen(seen, stamp, last_merchant)
        if device[k] != last_device and device[k]:
            last_device = device[k]
            counts[4] += _first_seen(seen, stamp, last_device | (1 << 21))
        if country != last_country and country:
            last_country = country
            counts[5] += _first_seen(seen, stamp, country | (2 << 21))
    while window < windows:
        _close_window(values, window * PER_WINDOW, unit, counts, purchases, total, squares, shift, largest)
        window += 1


@njit(nogil=True)
def measure_novelty(n, ts, kind, low, device, merchant, values):
    """What the user has not been seen with before; streak of declines; time since the last event.

    NULL where the transaction does not name it or no earlier one did: without history nothing is new.
    """
    known = np.zeros(4, dtype=np.int64)
    same = np.zeros(4, dtype=np.int64)
    country, currency = (low[0] >> 4) & 255, (low[0] >> 12) & 255
    for k in range(1, n):
        if low[k] & FRAUD_BIT:
            continue
        other = (low[k] >> 4) & 255
        known[0] |= merchant[k]
        known[1] |= device[k]
        known[2] |= other
        known[3] = 1
        same[0] |= np.int64(merchant[k] == merchant[0])
        same[1] |= np.int64(device[k] == device[0])
        same[2] |= np.int64(other == country)
        same[3] |= np.int64((low[k] >> 12) & 255 == currency)
    if merchant[0] and known[0]:
        values[NEW_MERCHANT] = 1 - same[0]
    if device[0] and known[1]:
        values[NEW_DEVICE] = 1 - same[1]
    if country and known[2]:
        values[NEW_COUNTRY] = 1 - same[2]
    if known[3]:
        values[NEW_CURRENCY] = 1 - same[3]
    streak = 1
    while streak < n and kind[streak] == DECLINED:
        streak += 1
    values[STREAK] = streak - (0 if kind[0] == DECLINED else 1)
    if n > 1:
        values[SINCE_LAST] = (ts[0] - ts[1]) / 1000.0


@njit(nogil=True)
def measure_travel(n, ts, place, values):
    """Distance and speed from the newest earlier event with a place."""
    if place[0] == 0:
        return
    for k in range(1, n):
        if place[k]:
            km = travel_between_km(place[0], place[k])
            values[KM] = km
            values[KMH] = km / (max((ts[0] - ts[k]) / 1000.0, TRAVEL_SECONDS_MIN) / 3600.0)
            return


@njit(nogil=True)
def _sort_amounts(amounts, n, ordered):
    """Sort by counting smaller ones: at 60 values faster than any sort that branches."""
    for i in range(n):
        value = amounts[i]
        rank = 0
        for j in range(i):
            rank += np.int64(amounts[j] <= value)
        for j in range(i + 1, n):
            rank += np.int64(amounts[j] < value)
        ordered[rank] = value


@njit(nogil=True)
def _quantile(ordered, n, q):
    """Quantile by linear interpolation (type 7 of Hyndman and Fan, 1996).

    >>> float(_quantile(np.array([10, 20, 40]), 3, 0.75))
    30.0
    """
    position = q * (n - 1)
    below = min(np.int64(position), n - 2)
    return ordered[below] + (position - below) * (ordered[below + 1] - ordered[below])


@njit(nogil=True)
def _median_deviation(ordered, n, median):
    """Median of |x - median|, walking outwards from the middle of a sorted array.

    >>> float(_median_deviation(np.array([1, 2, 3, 5, 100]), 5, 3.0))
    2.0
    """
    high = 0
    while high < n and ordered[high] < median:
        high += 1
    low = high - 1
    deviation, before = 0.0, 0.0
    for _ in range(n // 2 + 1):
        before = deviation
        if low < 0 or (high < n and ordered[high] - median <= median - ordered[low]):
            deviation = ordered[high] - median
            high += 1
        else:
            deviation = median - ordered[low]
            low -= 1
    return deviation if n % 2 else (before + deviation) / 2.0


@njit(nogil=True)
def measure_baseline(
    n, ts, kind, amount, low, size, older_than_ms, longest_ms, offset_ms, hour, unit, base, values
):
    """Gather the baseline's amounts into ``base``, newest first; spending a day and rarity of the hour.

    Returns how many there are.
    """
    found, near, spent = 0, 0, np.int64(0)
    recent = amount[0] if kind[0] == PURCHASE else np.int64(0)
    until, since = ts[0] - older_than_ms, ts[0] - longest_ms
    for k in range(1, n):
        if kind[k] != PURCHASE:
            continue
        if ts[k] > until:
            recent += amount[k]
            continue
        if low[k] & FRAUD_BIT:
            continue
        if ts[k] > since:
            spent += amount[k]
        elif found == size:
            break
        if found < size:
            base[found] = amount[k]
            found += 1
            apart = abs((ts[k] + offset_ms) // HOUR_MS % 24 - hour)
            near += np.int64(apart <= 1 or apart == 23)
    days = (until - max(since, ts[n - 1])) / DAY_MS
    if days >= 1.0:
        values[SPEND] = spent / unit / days
        values[SPEND_RATIO] = recent / unit / max(values[SPEND], 1.0)
    values[N] = found
    values[HOUR_RARITY] = 1.0 - (near + HOUR_PRIOR / 8.0) / (found + HOUR_PRIOR)
    return found


@njit(nogil=True)
def measure_amount(
    found,
    base,
    ordered,
    amount_minor,
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
        _sort_amounts(base, found, ordered)
        median = (ordered[(found - 1) // 2] + ordered[found // 2]) / 2.0
    if judged and found + shrink > 0.0:
        usual = (found * (median / unit) + shrink * population) / (found + shrink)
        values[LR] = math.log((amount_minor / unit + 1.0) / (usual + 1.0))
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
    newest = min(found, 20)
    values[MEAN_20] = np.sum(base[:newest]) / newest / unit
    if not judged:
        return
    scale_min = max(scale_share * median, scale_units * unit)
    scale = max(MAD_SCALE * _median_deviation(ordered, found, median), scale_min)
    values[RZ] = (amount_minor - median) / scale
    lowest = found * 9 // 10
    mean = np.sum(ordered[:lowest]) / lowest
    squares = 0.0
    for i in range(lowest):
        squares += (ordered[i] - mean) ** 2
    values[Z90] = (amount_minor - mean) / max(math.sqrt(squares / max(lowest - 1, 1)), scale_min)
    below, equal = 0, 0
    for i in range(found):
        below += np.int64(ordered[i] < amount_minor)
        equal += np.int64(ordered[i] == amount_minor)
    values[RANK] = (below + 0.5 * equal) / found


@njit(nogil=True)
def measure_excess(n, ts, kind, log_ratio, values):
    """How far earlier purchases lay above the usual, fading with age; the highest of 14 days."""
    excess_3, excess_14, highest = 0.0, 0.0, np.int64(-1)
    for k in range(1, n):
        if kind[k] != PURCHASE:
            continue
        age = np.float64(ts[0] - ts[k])
        if age <= 14.0 * DAY_MS:
            highest = max(highest, log_ratio[k])
        over = log_ratio[k] / LOG_RATIO_STEPS - EXCESS_FROM
        if over > 0.0:
            excess_3 += over * math.exp(-age * LN2_PER_3_DAYS)
            excess_14 += over * math.exp(-age * LN2_PER_14_DAYS)
    values[EXCESS_3] = excess_3
    values[EXCESS_14] = excess_14
    if highest >= 0:
        values[LR_MAX] = highest / LOG_RATIO_STEPS


@njit(nogil=True)
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
