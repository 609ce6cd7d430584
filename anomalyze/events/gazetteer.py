"""Where a transaction happened: countries, US states, larger cities, and the operator's own places.

``location`` is free text. It is normalised (accents, case, full stops, apostrophes and hyphens do not
matter) and looked up whole; "Lagos, NG", "Lagos, Nigeria" and "Austin, TX, USA" are names of their own.
What a text means, in this order:

1. With a ``country`` field: the place of that name in that country; nothing of that name there, or the name
   lies elsewhere: the country as a whole.
2. An operator's own place (``places.yaml``).
3. A clash of a US state with a country ("CA", "DE", "Georgia") is the state when the amount is in USD, and
   the country otherwise.
4. A country (name, alpha-2, alpha-3), a US state (name, code), a city; among cities of one name the one with
   the most people. The larger kind wins because its larger radius raises no false alarm of travel.

Every place has a radius: how far from its coordinates somebody who names it may be.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numba import njit

from anomalyze.errors import ConfigError
from anomalyze.events.hashing import siphash13_64, text_keys
from anomalyze.events.memory import byte_at

__all__ = [
    "COUNTRIES",
    "COUNTRY_INDEX",
    "COUNTRY_NAMES",
    "LOCATION_NORMALISED_MAX",
    "Gazetteer",
    "Place",
    "find_place",
    "normalise_ascii",
    "normalise_location",
]

# Longer normalised text (UTF-8 bytes) names no place.
LOCATION_NORMALISED_MAX = 96
_OPERATOR_PLACES_MAX = 10_000
_DATA = resources.files("anomalyze.events") / "data"
_TABLES = ("countries.csv", "us_states.csv", "cities.csv")


def _rows(table: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table)))


_COUNTRY_ROWS = _rows((_DATA / "countries.csv").read_text(encoding="utf-8"))

# ISO 3166-1 alpha-2 codes (and XK), sorted; ``MicroBatch.country`` indexes them.
COUNTRIES: tuple[str, ...] = tuple(row["code"] for row in _COUNTRY_ROWS)
COUNTRY_INDEX: dict[str, int] = {code: i for i, code in enumerate(COUNTRIES)}
COUNTRY_NAMES: dict[str, str] = {row["code"]: row["name"] for row in _COUNTRY_ROWS}
assert len(COUNTRIES) < 256
assert list(COUNTRIES) == sorted(COUNTRIES)

_LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i"})
_DROPPED = str.maketrans(
    {".": None, "'": None, "’": None, "ʻ": None, "-": " ", "\t": " ", "\n": " ", "\r": " "}
)


def normalise_location(text: str) -> str:
    """The form in which places are looked up.

    >>> normalise_location("  São  Paulo ,BR"), normalise_location("St. Louis"), normalise_location("L.A.")
    ('sao paulo,br', 'st louis', 'la')
    """
    if not text.isascii():
        folded = unicodedata.normalize("NFKD", text.casefold())
        text = "".join(c for c in folded if not unicodedata.combining(c)).translate(_LETTERS)
    parts = text.lower().translate(_DROPPED).split(",")
    return ",".join(" ".join(word for word in part.split(" ") if word) for part in parts)


@njit(cache=True, nogil=True)
def normalise_ascii(buffer, start, end, scratch):  # type: ignore[no-untyped-def]
    """``normalise_location`` of ASCII text into ``scratch``; its length, or -1 when it is too long."""
    length = 0
    pending = False
    for i in range(start, end):
        byte = byte_at(buffer, i)
        if byte == 46 or byte == 39:  # full stop, apostrophe
            continue
        if byte == 32 or byte == 45 or byte == 9 or byte == 10 or byte == 13:
            pending = True
            continue
        if byte == 44:
            pending = False
        elif pending:
            pending = False
            if length > 0 and scratch[length - 1] != 44:
                if length >= LOCATION_NORMALISED_MAX:
                    return -1
                scratch[length] = 32
                length += 1
        if length >= LOCATION_NORMALISED_MAX:
            return -1
        scratch[length] = byte + 32 if 65 <= byte <= 90 else byte
        length += 1
    return length


@njit(cache=True, nogil=True)
def _probe(scratch, length, slot_keys, slot_places):  # type: ignore[no-untyped-def]
    key = siphash13_64(scratch, 0, length)
    mask = np.uint64(len(slot_keys) - 1)
    slot = key & mask
    while slot_keys[slot] != np.uint64(0):
        if slot_keys[slot] == key:
            return np.int64(slot_places[slot])
        slot = (slot + np.uint64(1)) & mask
    return np.int64(-1)


@njit(cache=True, nogil=True)
def find_place(  # type: ignore[no-untyped-def]
    scratch, length, country, country_code, dollar, slot_keys, slot_places, place_country
):
    """Index of the place that a normalised text names, or -1.

    ``scratch`` holds the text (uint8, ``LOCATION_NORMALISED_MAX`` + 16 long) and is written behind it.
    ``country`` is the index of the transaction's ``country`` field or -1, ``country_code`` its two
    letters in lower case (first + 256 * second), ``dollar`` whether the amount is in USD.
    """
    if length <= 0:
        return np.int64(country)
    if country >= 0:
        scratch[length] = 44
        scratch[length + 1] = country_code & 255
        scratch[length + 2] = country_code >> 8
        place = _probe(scratch, length + 3, slot_keys, slot_places)
        if place < 0:
            place = _probe(scratch, length, slot_keys, slot_places)
            if place < 0 or place_country[place] != country:
                place = np.int64(country)
        return place
    if dollar:
        scratch[length] = 44
        scratch[length + 1] = 36
        place = _probe(scratch, length + 2, slot_keys, slot_places)
        if place >= 0:
            return place
    return _probe(scratch, length, slot_keys, slot_places)


@dataclass(frozen=True, slots=True)
class Place:
    """A named place: coordinates in degrees, radius in km, alpha-2 country."""

    name: str
    latitude: float
    longitude: float
    radius_km: float
    country: str


class Gazetteer:
    """All places as arrays, and the table that finds them by name.

    The first ``len(COUNTRIES)`` places are the countries, in their order.

    Attributes
    ----------
    latitude, longitude, radius_km
        float64 ``[P]``.
    country
        int16 ``[P]``: index into ``COUNTRIES``.
    slot_keys, slot_places
        Open-addressing table (linear probing, a power of two of slots): uint64 hash of the normalised
        name, 0 for an empty slot, and int32 index of its place.
    content
        What a bundle stores; ``from_content`` makes the same gazetteer of it.
    """

    def __init__(self, tables: Mapping[str, str], operator_places: Mapping[str, Mapping[str, Any]]) -> None:
        self._tables = dict(tables)
        self._operator = {name: dict(operator_places[name]) for name in sorted(operator_places)}
        self.places: list[Place] = []
        self.names: dict[str, int] = {}
        self._add_countries()
        self._add_cities(self._add_states())
        self._add_operator_places()
        self.latitude = np.array([p.latitude for p in self.places])
        self.longitude = np.array([p.longitude for p in self.places])
        self.radius_km = np.array([p.radius_km for p in self.places])
        self.country = np.array([COUNTRY_INDEX[p.country] for p in self.places], dtype=np.int16)
        self._fill_slots()
        canonical = {"tables": self._tables, "places": self._operator}
        self.content = json.dumps(canonical, sort_keys=True, ensure_ascii=False).encode()
        self.hash = hashlib.sha256(self.content).hexdigest()

    @classmethod
    def load(cls, config_dir: Path | None = None) -> Gazetteer:
        """The shipped places and, where there is one, the operator's ``places.yaml``.

        Raises
        ------
        ConfigError
            A place without its four values, coordinates out of range, an unknown country.
        """
        path = None if config_dir is None else config_dir / "places.yaml"
        if path is None or not path.exists():
            return _shipped()
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: expected places in YAML, got {error}") from error
        return cls(_shipped()._tables, _parse_places(document, str(path)))

    @classmethod
    def from_content(cls, content: bytes) -> Gazetteer:
        """The gazetteer whose ``content`` this is."""
        document = json.loads(content)
        return cls(document["tables"], document["places"])

    def lookup(self, location: str | None, country: str | None = None, currency: str | None = None) -> int:
        """Index of the place that a transaction names, or -1.

        >>> gazetteer = Gazetteer.load()
        >>> [gazetteer.places[gazetteer.lookup(t)].name for t in ("NY", "Lagos, NG", "CA")]
        ['New York', 'Lagos', 'Canada']
        >>> gazetteer.places[gazetteer.lookup("CA", country="US")].name
        'California'
        """
        whole = COUNTRY_INDEX.get(country or "", -1)
        key = normalise_location(location or "")
        if not key or len(key.encode()) > LOCATION_NORMALISED_MAX:
            return whole
        if whole >= 0:
            place = self.names.get(f"{key},{COUNTRIES[whole].lower()}", -1)
            if place < 0:
                place = self.names.get(key, -1)
                if place < 0 or self.places[place].country != country:
                    place = whole
            return place
        if currency == "USD" and f"{key},$" in self.names:
            return self.names[f"{key},$"]
        return self.names.get(key, -1)

    def _add(self, place: Place, names: Iterable[str]) -> int:
        index = len(self.places)
        self.places.append(place)
        for name in names:
            self.names.setdefault(name, index)
        return index

    def _add_countries(self) -> None:
        self._suffixes: dict[str, list[str]] = {}
        for row in _rows(self._tables["countries.csv"]):
            aliases = [row["name"], row["alpha3"], *filter(None, row["aliases"].split(";"))]
            names = [row["code"].lower(), *map(normalise_location, aliases)]
            self._suffixes[row["code"]] = names
            self._add(_place(row["name"], row, row["code"]), names)

    def _add_states(self) -> dict[str, list[str]]:
        states: dict[str, list[str]] = {}
        for row in _rows(self._tables["us_states.csv"]):
            names = [row["code"].lower(), normalise_location(row["name"])]
            states[row["code"]] = names
            clashes = [f"{name},$" for name in names if name in self.names]
            qualified = [f"{name},{us}" for name in names for us in self._suffixes["US"]]
            self._add(_place(row["name"], row, "US"), [*names, *qualified, *clashes])
        return states

    def _add_cities(self, states: Mapping[str, list[str]]) -> None:
        for row in _rows(self._tables["cities.csv"]):
            aliases = [row["name"], *filter(None, row["aliases"].split(";"))]
            names = list(dict.fromkeys(map(normalise_location, aliases)))
            inside = self._suffixes[row["country"]]
            suffixes = [*inside]
            for state in states.get(row["state"], []):
                suffixes += [state, *(f"{state},{country}" for country in inside)]
            self._add(
                _place(row["name"], row, row["country"]),
                [*names, *(f"{name},{suffix}" for name in names for suffix in suffixes)],
            )

    def _add_operator_places(self) -> None:
        for name, row in self._operator.items():
            index = self._add(_place(name, row, str(row["country"])), [])
            key = normalise_location(name)
            self.names[key] = index
            for suffix in self._suffixes[str(row["country"])]:
                self.names[f"{key},{suffix}"] = index
            self.names.pop(f"{key},$", None)

    def _fill_slots(self) -> None:
        keys = text_keys(list(self.names))
        size = 1 << int(2 * len(keys)).bit_length()
        self.slot_keys = np.zeros(size, dtype=np.uint64)
        self.slot_places = np.full(size, -1, dtype=np.int32)
        _insert_all(
            keys, np.array(list(self.names.values()), dtype=np.int32), self.slot_keys, self.slot_places
        )


@njit(cache=True, nogil=True)
def _insert_all(keys, places, slot_keys, slot_places):  # type: ignore[no-untyped-def]
    mask = np.uint64(len(slot_keys) - 1)
    for i in range(len(keys)):
        slot = keys[i] & mask
        while slot_keys[slot] != np.uint64(0):
            slot = (slot + np.uint64(1)) & mask
        slot_keys[slot] = keys[i]
        slot_places[slot] = places[i]


@cache
def _shipped() -> Gazetteer:
    return Gazetteer({name: (_DATA / name).read_text(encoding="utf-8") for name in _TABLES}, {})


def _place(name: str, row: Mapping[str, Any], country: str) -> Place:
    return Place(name, float(row["latitude"]), float(row["longitude"]), float(row["radius_km"]), country)


def _parse_places(document: Any, where: str) -> dict[str, dict[str, Any]]:
    places = document.get("places") if isinstance(document, Mapping) else None
    if not isinstance(places, Mapping) or set(document) != {"places"}:
        raise ConfigError(
            f"{where}: expected one key, places, with a mapping of names, got {document!r:.120}"
        )
    if len(places) > _OPERATOR_PLACES_MAX:
        raise ConfigError(f"{where}: expected at most {_OPERATOR_PLACES_MAX} places, got {len(places)}")
    limits = {"latitude": (-90.0, 90.0), "longitude": (-180.0, 180.0), "radius_km": (0.0, 20_000.0)}
    checked: dict[str, dict[str, Any]] = {}
    for name, row in places.items():
        if (
            not isinstance(row, Mapping)
            or set(row) != {*limits, "country"}
            or not normalise_location(str(name))
        ):
            raise ConfigError(
                f"{where}: {name!r}: expected latitude, longitude, radius_km, country, got {row!r:.120}"
            )
        for key, (low, high) in limits.items():
            value = row[key]
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise ConfigError(f"{where}: {name!r}: {key}: expected {low:g} to {high:g}, got {value!r}")
        if row["country"] not in COUNTRY_INDEX:
            raise ConfigError(
                f"{where}: {name!r}: country: expected ISO 3166 alpha-2 such as NG, got {row['country']!r}"
            )
        checked[str(name)] = {**{key: float(row[key]) for key in limits}, "country": row["country"]}
    return checked
