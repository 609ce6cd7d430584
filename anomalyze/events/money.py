"""Money: currencies, minor units, and conversion to a base currency by a dated table.

Amounts are int64 counts of the currency's minor unit, so that sums do not depend on their order.
Conversion is one IEEE double multiplication and one rounding (half to even): the same bits on every
machine, and exact where the currency is the base itself.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from anomalyze.errors import ConfigError, EventError
from anomalyze.events.batch import AMOUNT_MINOR_MAX

__all__ = [
    "AMOUNT_MAJOR_MAX",
    "CURRENCIES",
    "CURRENCY_EXPONENTS",
    "CURRENCY_INDEX",
    "RateTable",
    "amount_minor_max",
    "format_minor",
    "parse_amount",
]

_TWO_DECIMALS = """
AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF
CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG
HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR
MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD
SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XAD XCD
XCG YER ZAR ZMW ZWG ANG CUC HRK SLL ZWL
"""
_NO_DECIMALS = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_THREE_DECIMALS = "BHD IQD JOD KWD LYD OMR TND"
_FOUR_DECIMALS = "CLF UYW"
_EXPONENTS = {
    code: exponent
    for exponent, codes in ((0, _NO_DECIMALS), (2, _TWO_DECIMALS), (3, _THREE_DECIMALS), (4, _FOUR_DECIMALS))
    for code in codes.split()
}

# ISO 4217 codes, sorted; ``MicroBatch.currency`` indexes them. Codes withdrawn lately are kept for history.
CURRENCIES: tuple[str, ...] = tuple(sorted(_EXPONENTS))
CURRENCY_INDEX: dict[str, int] = {code: i for i, code in enumerate(CURRENCIES)}
CURRENCY_EXPONENTS: npt.NDArray[np.int8] = np.array([_EXPONENTS[c] for c in CURRENCIES], dtype=np.int8)
assert len(CURRENCIES) < 256

# No payment is larger than this many units of any currency; what is larger is a mistake of the sender.
AMOUNT_MAJOR_MAX = 1_000_000_000_000

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
_NUMBER_CHARACTERS_MAX = 64
_DAY_MS = 86_400_000


@cache
def amount_minor_max(currency: int) -> int:
    """Largest magnitude accepted, in minor units of ``CURRENCIES[currency]``."""
    return min(AMOUNT_MINOR_MAX, AMOUNT_MAJOR_MAX * 10 ** int(CURRENCY_EXPONENTS[currency]))


def parse_amount(text: str, currency: int) -> int:
    """Minor units of a JSON number, from its decimal text.

    Raises
    ------
    EventError
        Not a number, more decimals than the currency has, or beyond ``amount_minor_max``.

    >>> parse_amount("4500.50", CURRENCY_INDEX["USD"]), parse_amount("-1e3", CURRENCY_INDEX["JPY"])
    (450050, -1000)
    """
    if len(text) > _NUMBER_CHARACTERS_MAX or not _NUMBER.fullmatch(text):
        raise EventError("data.amount", f"a number of at most {_NUMBER_CHARACTERS_MAX} characters", text)
    code, exponent = CURRENCIES[currency], int(CURRENCY_EXPONENTS[currency])
    plain = format(Decimal(text), "f") if "e" in text or "E" in text else text
    whole, _, fraction = plain.partition(".")
    fraction = fraction.rstrip("0")
    if len(fraction) > exponent:
        raise EventError("data.amount", f"at most {exponent} decimals for {code}", text)
    minor = int(whole + fraction.ljust(exponent, "0"))
    limit = amount_minor_max(currency)
    if abs(minor) > limit:
        raise EventError("data.amount", f"at most {format_minor(limit, currency)} {code}", text)
    return minor


def format_minor(amount_minor: int, currency: int) -> str:
    """Decimal text of an amount, with all decimals of its currency.

    >>> format_minor(-450050, CURRENCY_INDEX["USD"])
    '-4500.50'
    """
    exponent = int(CURRENCY_EXPONENTS[currency])
    return format(Decimal(int(amount_minor)).scaleb(-exponent), "f")


@dataclass(frozen=True, slots=True)
class RateTable:
    """Reference rates by day.

    An event uses the newest table that is not younger than its day (UTC), else the oldest.

    Attributes
    ----------
    days
        int64 ``[T]``: first day of each table, days since 1970, ascending.
    value
        float64 ``[T, C]``: value of one unit of each currency in ``pivot``; NaN when unknown.
    pivot
        Currency in which the tables are written.
    content
        Canonical JSON of the tables: what a bundle stores and hashes.
    """

    days: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    pivot: str
    content: bytes
    _known_factors: dict[str, npt.NDArray[np.float64]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def load(cls, path: Path) -> RateTable:
        """Read ``currency_rates.yaml``.

        Raises
        ------
        ConfigError
            Missing file, unknown currency, rate not above zero, two tables of one day.
        """
        try:
            return cls.parse(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: expected currency rates in YAML, got {error}") from error

    @classmethod
    def from_content(cls, content: bytes) -> RateTable:
        """The table whose ``content`` this is."""
        return cls.parse(json.loads(content), "bundle")

    @classmethod
    def parse(cls, document: Any, where: str) -> RateTable:
        """Check and build; ``document`` is the YAML's content, ``where`` names it in errors."""
        if not isinstance(document, Mapping) or set(document) - {"pivot", "tables"}:
            raise ConfigError(f"{where}: expected the keys pivot and tables, got {document!r:.120}")
        pivot = document.get("pivot")
        if pivot not in CURRENCY_INDEX:
            raise ConfigError(f"{where}: pivot: expected an ISO 4217 code, got {pivot!r}")
        tables: dict[str, dict[str, str]] = {}
        for entry in document.get("tables") or []:
            day, rates = _parse_table(entry, where)
            if day in tables:
                raise ConfigError(f"{where}: tables: expected one table a day, got {day} twice")
            tables[day] = rates
        if not tables:
            raise ConfigError(f"{where}: tables: expected at least one table, got none")
        value = np.full((len(tables), len(CURRENCIES)), np.nan)
        for row, day in enumerate(sorted(tables)):
            for code, rate in tables[day].items():
                # the file says how many units one pivot buys; one correctly rounded division
                value[row, CURRENCY_INDEX[code]] = float(1 / Fraction(rate))
            value[row, CURRENCY_INDEX[pivot]] = 1.0
        days = [dt.date.fromisoformat(day).toordinal() - 719163 for day in sorted(tables)]
        canonical = {"pivot": pivot, "tables": [{"day": d, "rates": tables[d]} for d in sorted(tables)]}
        content = json.dumps(canonical, sort_keys=True, separators=(",", ":")).encode()
        return cls(np.array(days, dtype=np.int64), value, pivot, content)

    @property
    def hash(self) -> str:
        """SHA-256 of ``content``."""
        return hashlib.sha256(self.content).hexdigest()

    def table_index(self, ts_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Row of ``value`` that an event of that time uses."""
        found = np.searchsorted(self.days, ts_ms // _DAY_MS, side="right") - 1
        return np.maximum(found, 0).astype(np.int64)

    def factors(self, base: str) -> npt.NDArray[np.float64]:
        """float64 ``[T, C]``: minor units of ``base`` for one minor unit of each currency; NaN unknown.

        ``np.rint(amount_minor * factors[table, currency])`` is the conversion, in a kernel too.
        """
        base_index = CURRENCY_INDEX[base]
        shift = CURRENCY_EXPONENTS[base_index].astype(np.int64) - CURRENCY_EXPONENTS.astype(np.int64)
        scale = np.array([float(Fraction(10) ** int(s)) for s in shift])
        factors: npt.NDArray[np.float64] = self.value / self.value[:, base_index : base_index + 1] * scale
        factors[:, base_index] = 1.0
        return factors

    def to_base_minor(
        self,
        amount_minor: npt.NDArray[np.int64],
        currency: npt.NDArray[np.int16],
        ts_ms: npt.NDArray[np.int64],
        base: str,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Amounts in minor units of ``base``, and where there is none (True: no rate, or beyond 2^47).

        >>> table = RateTable.parse(
        ...     {"pivot": "EUR", "tables": [{"day": "2025-01-01", "rates": {"USD": "1.25"}}]}, "example")
        >>> usd = np.array([CURRENCY_INDEX["USD"]], dtype=np.int16)
        >>> table.to_base_minor(np.array([1000]), usd, np.array([0]), "EUR")[0].tolist()
        [800]
        """
        factor = self._known_factors.get(base)
        if factor is None:
            factor = self._known_factors.setdefault(base, self.factors(base))
        factor = factor[self.table_index(ts_ms), currency]
        converted = np.rint(amount_minor.astype(np.float64) * factor)
        missing = ~(np.abs(converted) <= AMOUNT_MINOR_MAX)
        return np.where(missing, 0.0, converted).astype(np.int64), missing


def _parse_table(entry: Any, where: str) -> tuple[str, dict[str, str]]:
    if not isinstance(entry, Mapping) or set(entry) != {"day", "rates"}:
        raise ConfigError(f"{where}: tables: expected the keys day and rates, got {entry!r:.120}")
    try:
        day = dt.date.fromisoformat(str(entry["day"])).isoformat()
    except ValueError as error:
        raise ConfigError(f"{where}: day: expected YYYY-MM-DD, got {entry['day']!r}") from error
    rates: dict[str, str] = {}
    for code, rate in dict(entry["rates"] or {}).items():
        if code not in CURRENCY_INDEX:
            raise ConfigError(f"{where}: {day}: expected ISO 4217 codes, got {code!r}")
        text = str(rate)
        if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", text) or not Fraction(text):
            raise ConfigError(
                f"{where}: {day}: {code}: expected a rate above zero such as 1.08, got {rate!r}"
            )
        rates[code] = text
    return day, rates
