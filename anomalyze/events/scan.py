"""The compiled scanner: one pass over the joined bytes of a micro-batch, columns out.

It reads what ordinary producers write and leaves every other record to the plain parser: escapes in known
fields, ``\\u`` anywhere, non-ASCII ids and locations, keys sent twice, numbers with an exponent or more than
18 digits, and whatever is not valid. It never decides that a record is bad. So the set it accepts must be a
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
    CATEGORY,
    CHANNEL,
    COUNTRY,
    CURRENCY,
    DATA,
    DEVICE,
    FIELDS,
    IP,
    LATITUDE,
    LOCATION,
    LONGITUDE,
    MERCHANT,
    META,
    REPLY,
    SOURCE,
    STATUS,
    TIMESTAMP,
    TRACE,
    TX,
    UNKNOWN,
    USER,
    amount_minor,
    coordinate,
    country_index,
    currency_index,
    id_is_plain,
    known_field,
    scan_timestamp,
    source_is_known,
    status_code,
)
from anomalyze.events.gazetteer import LOCATION_NORMALISED_MAX, Gazetteer, find_place, normalise_ascii
from anomalyze.events.hashing import hash_words, siphash13_64, siphash13_128
from anomalyze.events.memory import PADDING, copy_bytes, load_u64
from anomalyze.events.money import CURRENCY_INDEX
from anomalyze.events.murmur2 import murmur2_partition_bytes
from anomalyze.events.schema import (
    ID_CHARACTERS_MAX,
    LOCATION_CHARACTERS_MAX,
    RECORD_BYTES_MAX,
    REPLY_TO_CHARACTERS_MAX,
    TEXT_CHARACTERS_MAX,
)
from anomalyze.events.token import scan_number, scan_string, skip_literal, skip_space, skip_value

__all__ = ["scan_records"]

_IS_NUMBER = (1 << AMOUNT) | (1 << LATITUDE) | (1 << LONGITUDE)
_IS_REQUIRED = (1 << TIMESTAMP) | (1 << USER) | (1 << ACCOUNT) | (1 << TX) | (1 << AMOUNT) | (1 << CURRENCY)
_META_KEY = np.uint64(int.from_bytes(b"meta", "little"))
_DATA_KEY = np.uint64(int.from_bytes(b"data", "little"))
_FOUR_BYTES = np.uint64(0xFFFFFFFF)
_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_USD = CURRENCY_INDEX["USD"]


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
    spans = np.empty(2 * FIELDS, dtype=np.int64)
    words = np.empty(PAYLOAD_WORDS, dtype=np.uint64)
    scratch = np.zeros(max(2 * ID_CHARACTERS_MAX + 1, LOCATION_NORMALISED_MAX + 3) + PADDING, dtype=np.uint8)
    account_count = 0
    for row in range(len(starts)):
        if ends[row] - starts[row] > RECORD_BYTES_MAX:
            continue
        brace = _scan_structure(buffer, starts[row], ends[row], spans)
        if brace < 0:
            continue
        latest_ms = append_ms[row] + future_tolerance_ms
        if not _read_row(
            buffer, spans, words, scratch, latest_ms, partitions[row], partition_count, row, columns
        ):
            continue
        _place_row(buffer, spans, scratch, places, row, columns)
        index, account_count = _account_index(buffer, spans, accounts, account_count)
        columns.account[row] = index
        columns.data_end[row] = brace
        columns.valid[row] = True
    return account_count


@njit(cache=True, nogil=True)
def _scan_section(buffer, i, section, spans):  # type: ignore[no-untyped-def]
    """Index behind the object at ``i``, its known fields in ``spans``; -1 to give up."""
    if buffer[i] != 123:
        return -1
    i = skip_space(buffer, i + 1)
    seen = 0
    if buffer[i] == 125:
        return i + 1
    while True:
        if buffer[i] != 34:
            return -1
        start = i + 1
        end, _ = scan_string(buffer, start)
        if end < 0:
            return -1
        field = known_field(buffer, start, end - start, section)
        i = skip_space(buffer, end + 1)
        if buffer[i] != 58:
            return -1
        i = skip_space(buffer, i + 1)
        if field == UNKNOWN:
            i = skip_value(buffer, i, 2)
            if i < 0:
                return -1
        else:
            bit = 1 << field
            if seen & bit:
                return -1
            seen |= bit
            if buffer[i] == 110:
                if bit & _IS_REQUIRED:
                    return -1
                i = skip_literal(buffer, i)
                if i < 0:
                    return -1
            elif bit & _IS_NUMBER:
                i, mantissa, decimals = scan_number(buffer, i)
                if i < 0:
                    return -1
                spans[2 * field] = mantissa
                spans[2 * field + 1] = decimals
            else:
                if buffer[i] != 34:
                    return -1
                start = i + 1
                end, flags = scan_string(buffer, start)
                # ids are counted and searched for control characters, locations folded, as ASCII only
                if end < 0 or flags & 1 or (flags and field <= LOCATION):
                    return -1
                spans[2 * field] = start
                spans[2 * field + 1] = end - start
                i = end + 1
        i = skip_space(buffer, i)
        if buffer[i] == 44:
            i = skip_space(buffer, i + 1)
        elif buffer[i] == 125:
            return i + 1
        else:
            return -1


@njit(cache=True, nogil=True)
def _scan_structure(buffer, start, end, spans):  # type: ignore[no-untyped-def]
    """Index of the record's last brace, or -1; every known field in ``spans``."""
    for field in range(FIELDS):
        spans[2 * field] = start
        spans[2 * field + 1] = -1
    i = skip_space(buffer, start)
    if buffer[i] != 123:
        return -1
    seen = 0
    i = skip_space(buffer, i + 1)
    while True:
        if buffer[i] != 34 or buffer[i + 5] != 34:
            return -1
        key = load_u64(buffer, i + 1) & _FOUR_BYTES
        if key == _META_KEY:
            section = META
        elif key == _DATA_KEY:
            section = DATA
        else:
            return -1
        if seen & (1 << section):
            return -1
        seen |= 1 << section
        i = skip_space(buffer, i + 6)
        if buffer[i] != 58:
            return -1
        i = _scan_section(buffer, skip_space(buffer, i + 1), section, spans)
        if i < 0:
            return -1
        i = skip_space(buffer, i)
        if buffer[i] == 44:
            i = skip_space(buffer, i + 1)
        elif buffer[i] == 125:
            break
        else:
            return -1
    if seen != 3 or skip_space(buffer, i + 1) != end:
        return -1
    return i


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
def _read_row(  # type: ignore[no-untyped-def]
    buffer, spans, words, scratch, latest_ms, partition, partition_count, row, columns
):
    """Read everything but the place into the row; False when something is not plainly right."""
    user, user_length = spans[2 * USER], spans[2 * USER + 1]
    account, account_length = spans[2 * ACCOUNT], spans[2 * ACCOUNT + 1]
    tx, tx_length = spans[2 * TX], spans[2 * TX + 1]
    if not (
        id_is_plain(buffer, user, user_length)
        and id_is_plain(buffer, account, account_length)
        and id_is_plain(buffer, tx, tx_length)
        and _texts_fit(spans)
    ):
        return False
    if partition_count > 0:
        home = murmur2_partition_bytes(buffer, user, user + user_length, partition_count)
        if home != partition:
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
    latitude, longitude = np.nan, np.nan
    placed = spans[2 * LATITUDE + 1] >= 0
    if placed != (spans[2 * LONGITUDE + 1] >= 0):
        return False
    if placed:
        latitude, fits = coordinate(spans[2 * LATITUDE], spans[2 * LATITUDE + 1], 90.0)
        if not fits:
            return False
        longitude, fits = coordinate(spans[2 * LONGITUDE], spans[2 * LONGITUDE + 1], 180.0)
        if not fits:
            return False

    copy_bytes(scratch, 0, buffer, account, account_length)
    scratch[account_length] = 0
    copy_bytes(scratch, account_length + 1, buffer, user, user_length)
    first, second = siphash13_128(scratch, 0, account_length + 1 + user_length)
    columns.user_key[row, 0] = first
    columns.user_key[row, 1] = second
    columns.tx_key[row] = siphash13_64(buffer, tx, tx_length)
    columns.ts_ms[row] = ts_ms
    columns.amount_minor[row] = minor
    columns.currency[row] = currency
    columns.status[row] = status
    columns.country[row] = country
    columns.latitude[row] = latitude
    columns.longitude[row] = longitude
    words[0] = np.uint64(minor)
    words[1] = load_u64(buffer, spans[2 * CURRENCY]) & np.uint64(0xFFFFFF)
    words[4] = load_u64(buffer, spans[2 * COUNTRY]) & np.uint64(0xFFFF) if country >= 0 else _ZERO
    words[5] = _text_hash(buffer, spans, LOCATION)
    words[6] = _text_hash(buffer, spans, MERCHANT)
    words[7] = _text_hash(buffer, spans, CATEGORY)
    words[8] = _text_hash(buffer, spans, DEVICE)
    words[9] = _text_hash(buffer, spans, IP)
    words[10] = _text_hash(buffer, spans, CHANNEL)
    bits = words[2:4].view(np.float64)
    bits[0] = latitude
    bits[1] = longitude
    columns.merchant[row] = words[6]
    columns.merchant_category[row] = words[7]
    columns.device[row] = words[8]
    columns.ip[row] = words[9]
    columns.channel[row] = words[10]
    columns.payload_key[row] = hash_words(words, PAYLOAD_WORDS)
    if spans[2 * REPLY + 1] > 0:
        columns.reply_start[row] = spans[2 * REPLY]
        columns.reply_end[row] = spans[2 * REPLY] + spans[2 * REPLY + 1]
    return True


@njit(cache=True, nogil=True)
def _place_row(buffer, spans, scratch, places, row, columns):  # type: ignore[no-untyped-def]
    """Country and position of the row, from its own fields or from the place that it names."""
    slot_keys, slot_places, place_country, place_latitude, place_longitude, place_radius_km = places
    country = np.int64(columns.country[row])
    code = np.int64(load_u64(buffer, spans[2 * COUNTRY]) & np.uint64(0xFFFF)) | 0x2020 if country >= 0 else 0
    length = 0
    if spans[2 * LOCATION + 1] > 0:
        start = spans[2 * LOCATION]
        length = normalise_ascii(buffer, start, start + spans[2 * LOCATION + 1], scratch)
    place = find_place(
        scratch, length, country, code, columns.currency[row] == _USD, slot_keys, slot_places, place_country
    )
    if place >= 0 and country < 0:
        columns.country[row] = place_country[place]
    if spans[2 * LATITUDE + 1] >= 0:
        columns.radius_km[row] = 0.0
    elif place >= 0:
        columns.latitude[row] = place_latitude[place]
        columns.longitude[row] = place_longitude[place]
        columns.radius_km[row] = place_radius_km[place]


@njit(cache=True, nogil=True)
def _text_hash(buffer, spans, field):  # type: ignore[no-untyped-def]
    length = spans[2 * field + 1]
    return siphash13_64(buffer, spans[2 * field], length) if length > 0 else _ZERO


@njit(cache=True, nogil=True)
def _account_index(buffer, spans, accounts, count):  # type: ignore[no-untyped-def]
    """(index of the record's account, number of accounts); a new one is noted."""
    slots, starts, lengths = accounts
    start, length = spans[2 * ACCOUNT], spans[2 * ACCOUNT + 1]
    mask = np.uint64(len(slots) - 1)
    slot = siphash13_64(buffer, start, length) & mask
    while slots[slot] >= 0:
        known = slots[slot]
        if lengths[known] == length:
            same = True
            for i in range(length):
                if buffer[starts[known] + i] != buffer[start + i]:
                    same = False
                    break
            if same:
                return np.int64(known), count
        slot = (slot + _ONE) & mask
    slots[slot] = count
    starts[count] = start
    lengths[count] = length
    return np.int64(count), count + 1
