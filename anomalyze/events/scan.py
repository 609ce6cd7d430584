"""The compiled scanner: one pass over the joined bytes of a micro-batch, columns out.

It reads what ordinary producers write and leaves every other record to the plain parser: escapes in known
fields, non-ASCII ids, keys sent twice, numbers with an exponent or more than 18 digits, and whatever is not
valid. It never decides that a record is bad. So the set it accepts must be a
subset of the plain parser's, with equal values; a property test holds it there.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from anomalyze.events.columns import PAYLOAD_WORDS, Columns
from anomalyze.events.field import (
    ACCOUNT,
    AMOUNT,
    COUNTRY,
    CURRENCY,
    LATITUDE,
    LOCATION,
    LONGITUDE,
    MERCHANT,
    REPLY,
    RESOLUTION,
    SOURCE,
    STATUS,
    TIMESTAMP,
    TRACE,
    TX,
    USER,
    amount_minor,
    coordinate,
    country_index,
    currency_index,
    day_only_code,
    id_is_plain,
    scan_timestamp,
    source_is_known,
    status_code,
)
from anomalyze.events.gazetteer import LOCATION_NORMALISED_MAX, Gazetteer, find_place, normalise_ascii
from anomalyze.events.hashing import hash_words, siphash13_64, siphash13_128
from anomalyze.events.memory import PADDING, copy_bytes, float_bits, load_u64, same_bytes
from anomalyze.events.money import CURRENCY_INDEX
from anomalyze.events.murmur2 import murmur2_partition_bytes
from anomalyze.events.schema import (
    ID_CHARACTERS_MAX,
    LOCATION_CHARACTERS_MAX,
    RECORD_BYTES_MAX,
    REPLY_TO_CHARACTERS_MAX,
    TEXT_CHARACTERS_MAX,
)
from anomalyze.events.structure import FOLDED, SPANS, scan_structure

__all__ = ["scan_records"]

_TWO_BYTES, _THREE_BYTES = np.uint64(0xFFFF), np.uint64(0xFFFFFF)
_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_MEMO_MASK = np.uint64(255)
_USD = CURRENCY_INDEX["USD"]

# What a row's readings are handed over in: integers, and hashes (those of the payload first).
_N_TS, _N_AMOUNT, _N_CURRENCY, _N_STATUS, _N_COUNTRY, _N_DAY_ONLY, _NUMBERS = range(7)
_W_USER, _W_TX, _WORDS = PAYLOAD_WORDS, PAYLOAD_WORDS + 2, PAYLOAD_WORDS + 3


def scan_records(
    buffer: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    append_ms: npt.NDArray[np.int64],
    partitions: npt.NDArray[np.int32],
    partition_count: int,
    future_tolerance_ms: int,
    gazetteer: Gazetteer,
    columns: Columns,
) -> list[str]:
    """Fill the rows of ``columns`` that it can read, set ``valid`` there, and return the accounts' names.

    Row i is ``buffer[starts[i]:ends[i]]`` (uint8, C-contiguous, a NUL behind each row, ``PADDING`` bytes behind
    the last). Rows that it leaves untouched are for the plain parser.
    """
    n = len(starts)
    account_starts = np.empty(n, dtype=np.int64)
    account_lengths = np.empty(n, dtype=np.int64)
    account_slots = np.full(1 << max(4, (2 * n).bit_length()), -1, dtype=np.int32)
    accounts = _scan_batch(
        buffer,
        starts,
        ends,
        append_ms,
        partitions,
        partition_count,
        future_tolerance_ms,
        (
            gazetteer.slot_keys,
            gazetteer.slot_places,
            gazetteer.country,
            gazetteer.latitude,
            gazetteer.longitude,
            gazetteer.radius_km,
        ),
        (account_slots, account_starts, account_lengths),
        columns,
    )
    return [
        buffer[start : start + length].tobytes().decode()
        for start, length in zip(account_starts[:accounts], account_lengths[:accounts], strict=True)
    ]


@njit(cache=True, nogil=True)
def _scan_batch(  # type: ignore[no-untyped-def]
    buffer,
    starts,
    ends,
    append_ms,
    partitions,
    partition_count,
    future_tolerance_ms,
    places,
    accounts,
    columns,
):
    slot_keys, slot_places, place_country, place_latitude, place_longitude, place_radius_km = places
    account_slots, account_starts, account_lengths = accounts
    # Functions that are called once a row take few arrays and write into these: passing the columns
    # themselves costs more than the scan.
    base = buffer.ctypes.data
    spans = np.empty(SPANS, dtype=np.int64)
    words = np.empty(_WORDS, dtype=np.uint64)
    numbers = np.empty(_NUMBERS, dtype=np.int64)
    scratch = np.zeros(max(2 * ID_CHARACTERS_MAX + 1, LOCATION_NORMALISED_MAX + 3) + PADDING, dtype=np.uint8)
    memo = np.zeros((np.int64(_MEMO_MASK) + 1, 4), dtype=np.int64)  # start, length, hint, place
    account_count = index = np.int64(0)
    for row in range(len(starts)):
        start, end = starts[row], ends[row]
        if end - start > RECORD_BYTES_MAX:
            continue
        brace = scan_structure(base, start, end, spans)
        if brace < 0:
            continue
        if not _read_numbers(base, spans, append_ms[row] + future_tolerance_ms, numbers):
            continue
        latitude, longitude, fits = _read_position(spans)
        if not fits:
            continue
        if partition_count > 0:
            user = spans[2 * USER]
            home = murmur2_partition_bytes(buffer, user, user + spans[2 * USER + 1], partition_count)
            if home != partitions[row]:
                continue
        country = numbers[_N_COUNTRY]
        currency = numbers[_N_CURRENCY]
        _hash_texts(base, spans, scratch, words)
        place = country
        if spans[2 * LOCATION + 1] > 0 and spans[FOLDED]:
            place = np.int64(-1)
            columns.location_start[row] = spans[2 * LOCATION]
            columns.location_end[row] = spans[2 * LOCATION] + spans[2 * LOCATION + 1]
        elif spans[2 * LOCATION + 1] > 0:
            # Few places are named again and again: remember what each text meant, in this batch only.
            hint = 2 * country + (currency == _USD)
            slot = np.int64(words[5] & _MEMO_MASK)
            if (
                memo[slot, 1] == spans[2 * LOCATION + 1]
                and memo[slot, 2] == hint
                and same_bytes(base, memo[slot, 0], spans[2 * LOCATION], memo[slot, 1])
            ):
                place = memo[slot, 3]
            else:
                place = _row_place(
                    base, spans, scratch, country, currency == _USD, slot_keys, slot_places, place_country
                )
                memo[slot, 0] = spans[2 * LOCATION]
                memo[slot, 1] = spans[2 * LOCATION + 1]
                memo[slot, 2] = hint
                memo[slot, 3] = place
        words[0] = np.uint64(numbers[_N_AMOUNT])
        words[2] = float_bits(latitude)
        words[3] = float_bits(longitude)
        index = _account_index(
            base,
            spans[2 * ACCOUNT],
            spans[2 * ACCOUNT + 1],
            account_slots,
            account_starts,
            account_lengths,
            account_count,
            index,
        )
        account_count = max(account_count, index + 1)

        columns.valid[row] = True
        columns.data_end[row] = brace
        columns.account[row] = index
        columns.user_key[row, 0] = words[_W_USER]
        columns.user_key[row, 1] = words[_W_USER + 1]
        columns.tx_key[row] = words[_W_TX]
        columns.payload_key[row] = hash_words(words, PAYLOAD_WORDS)
        columns.ts_ms[row] = numbers[_N_TS]
        columns.amount_minor[row] = numbers[_N_AMOUNT]
        columns.currency[row] = currency
        columns.status[row] = numbers[_N_STATUS]
        columns.day_only[row] = numbers[_N_DAY_ONLY]
        columns.merchant[row] = words[6]
        columns.merchant_category[row] = words[7]
        columns.device[row] = words[8]
        columns.ip[row] = words[9]
        columns.channel[row] = words[10]
        columns.country[row] = place_country[place] if country < 0 and place >= 0 else country
        if latitude == latitude:
            columns.latitude[row] = latitude
            columns.longitude[row] = longitude
            columns.radius_km[row] = 0.0
        elif place >= 0:
            columns.latitude[row] = place_latitude[place]
            columns.longitude[row] = place_longitude[place]
            columns.radius_km[row] = place_radius_km[place]
        if spans[2 * REPLY + 1] > 0:
            columns.reply_start[row] = spans[2 * REPLY]
            columns.reply_end[row] = spans[2 * REPLY] + spans[2 * REPLY + 1]
    return account_count


@njit(cache=True, nogil=True)
def _texts_fit(spans):  # type: ignore[no-untyped-def]
    """Whether optional texts are short enough (bytes for characters: a longer one is counted elsewhere)."""
    if spans[2 * LOCATION + 1] > LOCATION_CHARACTERS_MAX or spans[2 * REPLY + 1] > REPLY_TO_CHARACTERS_MAX:
        return False
    longest = spans[2 * TRACE + 1]
    for field in range(MERCHANT, STATUS):
        longest = max(longest, spans[2 * field + 1])
    return longest <= TEXT_CHARACTERS_MAX


@njit(cache=True, nogil=True)
def _read_numbers(buffer, spans, latest_ms, numbers):  # type: ignore[no-untyped-def]
    """Check ids and texts, read time, amount and codes; False when something is not plainly right."""
    if not (
        id_is_plain(buffer, spans[2 * USER], spans[2 * USER + 1])
        and id_is_plain(buffer, spans[2 * ACCOUNT], spans[2 * ACCOUNT + 1])
        and id_is_plain(buffer, spans[2 * TX], spans[2 * TX + 1])
        and _texts_fit(spans)
    ):
        return False
    ts_ms = scan_timestamp(buffer, spans[2 * TIMESTAMP], spans[2 * TIMESTAMP + 1])
    if ts_ms < 0 or ts_ms > latest_ms:
        return False
    source_length = spans[2 * SOURCE + 1]
    if source_length >= 0 and not source_is_known(buffer, spans[2 * SOURCE], source_length):
        return False
    status = status_code(buffer, spans[2 * STATUS], spans[2 * STATUS + 1])
    currency = currency_index(buffer, spans[2 * CURRENCY], spans[2 * CURRENCY + 1])
    if status < 0 or currency < 0 or spans[2 * AMOUNT + 1] < 0:
        return False
    minor, exact = amount_minor(spans[2 * AMOUNT], spans[2 * AMOUNT + 1], currency)
    if not exact:
        return False
    country = np.int64(-1)
    if spans[2 * COUNTRY + 1] > 0:
        country = country_index(buffer, spans[2 * COUNTRY], spans[2 * COUNTRY + 1])
        if country < 0:
            return False
    day_only = day_only_code(buffer, spans[2 * RESOLUTION], spans[2 * RESOLUTION + 1])
    if day_only < 0:
        return False
    numbers[_N_DAY_ONLY] = day_only
    numbers[_N_TS] = ts_ms
    numbers[_N_AMOUNT] = minor
    numbers[_N_CURRENCY] = currency
    numbers[_N_STATUS] = status
    numbers[_N_COUNTRY] = country
    return True


@njit(cache=True, nogil=True)
def _read_position(spans):  # type: ignore[no-untyped-def]
    """(latitude, longitude, whether they are plainly right); NaN when the record has none."""
    placed = spans[2 * LATITUDE + 1] >= 0
    if placed != (spans[2 * LONGITUDE + 1] >= 0):
        return np.nan, np.nan, False
    if not placed:
        return np.nan, np.nan, True
    latitude, fits = coordinate(spans[2 * LATITUDE], spans[2 * LATITUDE + 1], 90.0)
    longitude, fits_too = coordinate(spans[2 * LONGITUDE], spans[2 * LONGITUDE + 1], 180.0)
    return latitude, longitude, fits and fits_too


@njit(cache=True, nogil=True)
def _hash_texts(buffer, spans, scratch, words):  # type: ignore[no-untyped-def]
    """Keys of user and transaction, and the words of the payload that are text."""
    length = spans[2 * ACCOUNT + 1]
    copy_bytes(scratch, 0, buffer, spans[2 * ACCOUNT], length)
    scratch[length] = 0
    copy_bytes(scratch, length + 1, buffer, spans[2 * USER], spans[2 * USER + 1])
    first, second = siphash13_128(scratch, 0, length + 1 + spans[2 * USER + 1])
    words[_W_USER] = first
    words[_W_USER + 1] = second
    words[_W_TX] = siphash13_64(buffer, spans[2 * TX], spans[2 * TX + 1])
    words[1] = load_u64(buffer, spans[2 * CURRENCY]) & _THREE_BYTES
    words[4] = _ZERO
    if spans[2 * COUNTRY + 1] > 0:
        words[4] = load_u64(buffer, spans[2 * COUNTRY]) & _TWO_BYTES
    for word in range(5, PAYLOAD_WORDS):
        field = LOCATION if word == 5 else MERCHANT + word - 6
        length = spans[2 * field + 1]
        words[word] = siphash13_64(buffer, spans[2 * field], length) if length > 0 else _ZERO


@njit(cache=True, nogil=True)
def _row_place(  # type: ignore[no-untyped-def]
    buffer, spans, scratch, country, dollar, slot_keys, slot_places, place_country
):
    """Index of the place that the record names, or -1."""
    start = spans[2 * LOCATION]
    length = normalise_ascii(buffer, start, start + spans[2 * LOCATION + 1], scratch)
    code = np.int64(load_u64(buffer, spans[2 * COUNTRY]) & _TWO_BYTES) | 0x2020
    return find_place(scratch, length, country, code, dollar, slot_keys, slot_places, place_country)


@njit(cache=True, nogil=True)
def _account_index(buffer, start, length, slots, starts, lengths, count, last):  # type: ignore[no-untyped-def]
    """Index of the record's account, often that of the one before; a new one becomes number ``count``."""
    if count > 0 and lengths[last] == length and same_bytes(buffer, starts[last], start, length):
        return last
    mask = np.uint64(len(slots) - 1)
    slot = siphash13_64(buffer, start, length) & mask
    while slots[slot] >= 0:
        known = np.int64(slots[slot])
        if lengths[known] == length and same_bytes(buffer, starts[known], start, length):
            return known
        slot = (slot + _ONE) & mask
    slots[slot] = count
    starts[count] = start
    lengths[count] = length
    return count
