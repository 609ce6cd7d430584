"""Known fields of a transaction: which key is which, and what their plain texts mean.

Part of the compiled scanner (``scan.py``): a reading is either right or refused, and a record with a refused
one goes to the plain parser, which says what is wrong.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from anomalyze.events.gazetteer import COUNTRIES
from anomalyze.events.memory import byte_at, load_u64
from anomalyze.events.money import CURRENCIES, CURRENCY_EXPONENTS, amount_minor_max
from anomalyze.events.schema import ID_CHARACTERS_MAX, SOURCES, STATUS_INDEX

# Fields by number; those of ``meta`` come first, then those of ``data``.
TIMESTAMP, USER, ACCOUNT, SOURCE, TRACE, REPLY = range(6)
TX, AMOUNT, CURRENCY, LOCATION, LATITUDE, LONGITUDE, COUNTRY = range(6, 13)
MERCHANT, CATEGORY, DEVICE, IP, CHANNEL, STATUS, RESOLUTION = range(13, 20)
FIELDS = 20
UNKNOWN = -1
META, DATA = 0, 1

_DELETES = np.uint64(0x7F7F7F7F7F7F7F7F)
_ONES = np.uint64(0x0101010101010101)
_HIGHS = np.uint64(0x8080808080808080)
_FULL = np.uint64(0xFFFFFFFFFFFFFFFF)
_EIGHT = np.uint64(8)
_SIXTY_FOUR = np.uint64(64)
_ZERO = np.uint64(0)

_MANTISSA_EXACT_MAX = 1 << 53  # a double holds it, and 10^22: one division gives the nearest double
_POWERS = np.array([10.0**i for i in range(23)])
_INTEGER_POWERS = np.array([10**i for i in range(5)], dtype=np.int64)


def _word(text: str, part: int = 0) -> np.uint64:
    return np.uint64(int.from_bytes(text.encode()[8 * part : 8 * part + 8], "little"))


_K_TIMESTAMP, _K_TIMESTAMP_1 = _word("timestamp"), _word("timestamp", 1)
_K_USER, _K_ACCOUNT, _K_ACCOUNT_1 = _word("user_id"), _word("account_id"), _word("account_id", 1)
_K_SOURCE, _K_TRACE, _K_REPLY = _word("source"), _word("trace_id"), _word("reply_to")
_K_TX, _K_AMOUNT, _K_CURRENCY = _word("tx_id"), _word("amount"), _word("currency")
_K_LOCATION, _K_LATITUDE = _word("location"), _word("latitude")
_K_LONGITUDE, _K_LONGITUDE_1 = _word("longitude"), _word("longitude", 1)
_K_COUNTRY, _K_MERCHANT, _K_MERCHANT_1 = _word("country"), _word("merchant_id"), _word("merchant_id", 1)
_K_CATEGORY, _K_CATEGORY_1 = _word("merchant_category"), _word("merchant_category", 1)
_K_DEVICE, _K_DEVICE_1 = _word("device_id"), _word("device_id", 1)
_K_IP, _K_CHANNEL, _K_STATUS = _word("ip"), _word("channel"), _word("status")
_K_RESOLUTION, _K_RESOLUTION_1 = _word("time_resolution"), _word("time_resolution", 1)
_Y = ord("y")

_SOURCE_WORDS = np.array([[_word(s), _word(s, 1), len(s)] for s in SOURCES], dtype=np.uint64)
_STATUS_WORDS = np.array([[_word(s), len(s), code] for s, code in STATUS_INDEX.items()], dtype=np.uint64)


def _code_table(codes: tuple[str, ...], letters: int) -> npt.NDArray[np.int16]:
    table = np.full(26**letters, -1, dtype=np.int16)
    for index, code in enumerate(codes):
        slot = 0
        for letter in code:
            slot = slot * 26 + ord(letter) - 65
        table[slot] = index
    return table


_CURRENCY_TABLE = _code_table(CURRENCIES, 3)
_COUNTRY_TABLE = _code_table(COUNTRIES, 2)
_CURRENCY_MAX = np.array([amount_minor_max(i) for i in range(len(CURRENCIES))], dtype=np.int64)


@njit(cache=True, nogil=True)
def known_field(buffer, start, length, section):  # type: ignore[no-untyped-def]
    """Number of the field that the key names, or ``UNKNOWN``."""
    if length < 2 or length > 17:
        return UNKNOWN
    head = load_u64(buffer, start)
    tail = _ZERO
    if length < 8:
        head &= _FULL >> (_SIXTY_FOUR - _EIGHT * np.uint64(length))
    elif 8 < length < 16:
        tail = load_u64(buffer, start + 8) & (_FULL >> (_SIXTY_FOUR - _EIGHT * np.uint64(length - 8)))
    elif length >= 16:
        tail = load_u64(buffer, start + 8)
    if section == META:
        if length == 7 and head == _K_USER:
            return USER
        if length == 9 and head == _K_TIMESTAMP and tail == _K_TIMESTAMP_1:
            return TIMESTAMP
        if length == 10 and head == _K_ACCOUNT and tail == _K_ACCOUNT_1:
            return ACCOUNT
        if length == 6 and head == _K_SOURCE:
            return SOURCE
        if length == 8:
            return TRACE if head == _K_TRACE else REPLY if head == _K_REPLY else UNKNOWN
        return UNKNOWN
    if length == 8:
        if head == _K_CURRENCY:
            return CURRENCY
        if head == _K_LOCATION:
            return LOCATION
        return LATITUDE if head == _K_LATITUDE else UNKNOWN
    if length == 6:
        return AMOUNT if head == _K_AMOUNT else STATUS if head == _K_STATUS else UNKNOWN
    if length == 9:
        if head == _K_DEVICE and tail == _K_DEVICE_1:
            return DEVICE
        return LONGITUDE if head == _K_LONGITUDE and tail == _K_LONGITUDE_1 else UNKNOWN
    if length == 7:
        return COUNTRY if head == _K_COUNTRY else CHANNEL if head == _K_CHANNEL else UNKNOWN
    if length == 5:
        return TX if head == _K_TX else UNKNOWN
    if length == 11:
        return MERCHANT if head == _K_MERCHANT and tail == _K_MERCHANT_1 else UNKNOWN
    if length == 17 and head == _K_CATEGORY and tail == _K_CATEGORY_1 and byte_at(buffer, start + 16) == _Y:
        return CATEGORY
    if length == 15 and head == _K_RESOLUTION and tail == _K_RESOLUTION_1:
        return RESOLUTION
    return IP if length == 2 and head == _K_IP else UNKNOWN


@njit(cache=True, nogil=True)
def _two_digits(buffer, i):  # type: ignore[no-untyped-def]
    """Two decimal digits, or -1000."""
    tens = byte_at(buffer, i) - 48
    units = byte_at(buffer, i + 1) - 48
    if tens < 0 or tens > 9 or units < 0 or units > 9:
        return -1000
    return tens * 10 + units


@njit(cache=True, nogil=True)
def scan_timestamp(buffer, i, length):  # type: ignore[no-untyped-def]
    """Milliseconds since 1970 UTC, or -1 when the form is not plainly right."""
    if length < 20 or length > 35 or byte_at(buffer, i + 4) != 45 or byte_at(buffer, i + 7) != 45:
        return -1
    if byte_at(buffer, i + 13) != 58 or byte_at(buffer, i + 16) != 58:
        return -1
    separator = byte_at(buffer, i + 10)
    if separator != 84 and separator != 116 and separator != 32:
        return -1
    year = _two_digits(buffer, i) * 100 + _two_digits(buffer, i + 2)
    month, day = _two_digits(buffer, i + 5), _two_digits(buffer, i + 8)
    hour, minute = _two_digits(buffer, i + 11), _two_digits(buffer, i + 14)
    second = _two_digits(buffer, i + 17)
    if year < 1970 or month < 1 or month > 12 or day < 1 or hour < 0 or hour > 23:
        return -1
    if minute < 0 or minute > 59 or second < 0 or second > 59:
        return -1
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if month == 2:
        days_in_month = 29 if leap else 28
    elif month == 4 or month == 6 or month == 9 or month == 11:
        days_in_month = 30
    else:
        days_in_month = 31
    if day > days_in_month:
        return -1
    end = i + length
    i += 19
    milliseconds = np.int64(0)
    if byte_at(buffer, i) == 46:
        i += 1
        weight = 100
        point = i
        while 48 <= byte_at(buffer, i) <= 57:
            milliseconds += weight * (byte_at(buffer, i) - 48)
            weight //= 10
            i += 1
        if i == point or i - point > 9:
            return -1
    offset_s = 0
    sign = byte_at(buffer, i)
    if sign == 90 or sign == 122:
        i += 1
    elif sign == 43 or sign == 45:
        offset_hour, offset_minute = _two_digits(buffer, i + 1), _two_digits(buffer, i + 4)
        if byte_at(buffer, i + 3) != 58 or offset_hour < 0 or offset_hour > 23:
            return -1
        if offset_minute < 0 or offset_minute > 59:
            return -1
        offset_s = offset_hour * 3600 + offset_minute * 60
        if sign == 45:
            offset_s = -offset_s
        i += 6
    if i != end or (sign != 90 and sign != 122 and sign != 43 and sign != 45):
        return -1
    # Days before 1 March of an era's year: Howard Hinnant, "chrono-compatible low-level date algorithms".
    shifted_year = year - 1 if month <= 2 else year
    era = shifted_year // 400
    year_of_era = shifted_year - era * 400
    day_of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    days = era * 146097 + day_of_era - 719468
    seconds = days * 86400 + hour * 3600 + minute * 60 + second - offset_s
    return seconds * 1000 + milliseconds


@njit(cache=True, nogil=True)
def id_is_plain(buffer, start, length):  # type: ignore[no-untyped-def]
    """Whether an ASCII id has 1 to 128 characters without DEL (a DEL shortly behind it may say no)."""
    if length < 1 or length > ID_CHARACTERS_MAX:
        return False
    i = start
    while i < start + length:
        word = load_u64(buffer, i) ^ _DELETES
        if (word - _ONES) & ~word & _HIGHS != _ZERO:
            return False
        i += 8
    return True


@njit(cache=True, nogil=True)
def _code_index(buffer, start, length, letters, table):  # type: ignore[no-untyped-def]
    """Index of an upper-case code in a table by letters, or -1."""
    if length != letters:
        return -1
    slot = np.int64(0)
    for i in range(start, start + length):
        letter = byte_at(buffer, i) - 65
        if letter < 0 or letter > 25:
            return -1
        slot = slot * 26 + letter
    return np.int64(table[slot])


@njit(cache=True, nogil=True)
def currency_index(buffer, start, length):  # type: ignore[no-untyped-def]
    """Index into ``CURRENCIES``, or -1."""
    return _code_index(buffer, start, length, 3, _CURRENCY_TABLE)


@njit(cache=True, nogil=True)
def country_index(buffer, start, length):  # type: ignore[no-untyped-def]
    """Index into ``COUNTRIES``, or -1."""
    return _code_index(buffer, start, length, 2, _COUNTRY_TABLE)


@njit(cache=True, nogil=True)
def source_is_known(buffer, start, length):  # type: ignore[no-untyped-def]
    if length < 1 or length > 16:
        return False
    head = load_u64(buffer, start)
    tail = _ZERO
    if length < 8:
        head &= _FULL >> (_SIXTY_FOUR - _EIGHT * np.uint64(length))
    elif length > 8:
        tail = load_u64(buffer, start + 8) & (_FULL >> (_SIXTY_FOUR - _EIGHT * np.uint64(length - 8)))
    for row in range(len(_SOURCE_WORDS)):
        if _SOURCE_WORDS[row, 0] == head and _SOURCE_WORDS[row, 1] == tail:
            return _SOURCE_WORDS[row, 2] == np.uint64(length)
    return False


@njit(cache=True, nogil=True)
def status_code(buffer, start, length):  # type: ignore[no-untyped-def]
    """Status of a text, or -1."""
    if length <= 0:
        return 0
    if length != 7 and length != 8:
        return -1
    word = load_u64(buffer, start)
    if length == 7:
        word &= _FULL >> _EIGHT
    for row in range(len(_STATUS_WORDS)):
        if _STATUS_WORDS[row, 0] == word and _STATUS_WORDS[row, 1] == np.uint64(length):
            return np.int64(_STATUS_WORDS[row, 2])
    return -1


@njit(cache=True, nogil=True)
def amount_minor(mantissa, decimals, currency):  # type: ignore[no-untyped-def]
    """(minor units, whether they are plainly right)."""
    exponent = np.int64(CURRENCY_EXPONENTS[currency])
    limit = _CURRENCY_MAX[currency]
    while decimals > exponent:
        if mantissa % 10 != 0:
            return mantissa, False
        mantissa //= 10
        decimals -= 1
    power = _INTEGER_POWERS[exponent - decimals]
    if abs(mantissa) > limit // power:
        return mantissa, False
    return mantissa * power, True


@njit(cache=True, nogil=True)
def coordinate(mantissa, decimals, limit):  # type: ignore[no-untyped-def]
    """(degrees, whether one division gives the nearest double and it is in range)."""
    if abs(mantissa) > _MANTISSA_EXACT_MAX:
        return np.nan, False
    degrees = mantissa / _POWERS[decimals] + 0.0
    return degrees, -limit <= degrees <= limit


_DAY, _SECOND = _word("day"), _word("second")


@njit(cache=True, nogil=True)
def day_only_code(buffer, start, length):  # type: ignore[no-untyped-def]
    """1 for ``day``, 0 for ``second`` or nothing, -1 for another word."""
    if length <= 0:
        return 0
    if length > 7:
        return -1
    word = load_u64(buffer, start) & (_FULL >> (_SIXTY_FOUR - _EIGHT * np.uint64(length)))
    if word == _DAY:
        return 1
    return 0 if word == _SECOND else -1
