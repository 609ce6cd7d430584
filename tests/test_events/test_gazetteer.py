"""What a location means, by the plain look-up and by the compiled one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyze.errors import ConfigError
from anomalyze.events.gazetteer import (
    COUNTRIES,
    COUNTRY_INDEX,
    LOCATION_NORMALISED_MAX,
    Gazetteer,
    find_place,
    normalise_ascii,
    normalise_location,
)

GAZETTEER = Gazetteer.load()


def described(
    location: str, country: str | None = None, currency: str | None = None
) -> tuple[str, str] | None:
    index = GAZETTEER.lookup(location, country, currency)
    return None if index < 0 else (GAZETTEER.places[index].name, GAZETTEER.places[index].country)


@pytest.mark.parametrize(
    ("location", "country", "currency", "expected"),
    [
        ("NY", None, None, ("New York", "US")),
        ("new  york city", None, None, ("New York City", "US")),
        ("Lagos, NG", None, None, ("Lagos", "NG")),
        ("LAGOS,Nigeria", None, "USD", ("Lagos", "NG")),
        ("Berlin", None, None, ("Berlin", "DE")),
        ("DE", None, None, ("Germany", "DE")),
        ("DE", None, "EUR", ("Germany", "DE")),
        ("DE", None, "USD", ("Delaware", "US")),
        ("DE", "US", "EUR", ("Delaware", "US")),
        ("CA", "CA", "USD", ("Canada", "CA")),
        ("CA", "US", None, ("California", "US")),
        ("Georgia", None, None, ("Georgia", "GE")),
        ("Georgia", None, "USD", ("Georgia", "US")),
        ("São Paulo", None, None, ("São Paulo", "BR")),
        ("sao paulo", None, None, ("São Paulo", "BR")),
        ("Austin, TX, USA", None, None, ("Austin", "US")),
        ("Washington, D.C.", None, None, ("Washington", "US")),
        ("Kiev", None, None, ("Kyiv", "UA")),
        ("U.S.A.", None, None, ("United States", "US")),
        ("Berlin", "US", None, ("United States", "US")),  # the country's own field decides
        ("no such place", "NG", None, ("Nigeria", "NG")),
        ("", "NG", None, ("Nigeria", "NG")),
        ("no such place", None, None, None),
        ("x" * 500, None, None, None),
    ],
)
def test_meaning(
    location: str, country: str | None, currency: str | None, expected: tuple[str, str] | None
) -> None:
    assert described(location, country, currency) == expected


def test_positions_are_plausible() -> None:
    berlin = GAZETTEER.places[GAZETTEER.lookup("Berlin")]
    assert abs(berlin.latitude - 52.52) < 0.1
    assert abs(berlin.longitude - 13.41) < 0.1
    assert 5 <= berlin.radius_km <= 40
    assert [GAZETTEER.places[i].country for i in range(len(COUNTRIES))] == list(COUNTRIES)
    assert np.all(np.abs(GAZETTEER.latitude) <= 90)
    assert np.all(np.abs(GAZETTEER.longitude) <= 180)
    assert np.all(GAZETTEER.radius_km > 0)


NAMES = sorted(GAZETTEER.names)
TEXTS = st.one_of(
    st.text(alphabet=st.characters(max_codepoint=127), max_size=120),
    st.sampled_from(NAMES).filter(str.isascii).map(str.title),
    st.lists(st.sampled_from(["new", "York", " ", ",", ".", "-", "'", "us", "\t"]), max_size=8).map("".join),
)


@given(TEXTS, st.sampled_from([None, "US", "DE", "GE"]), st.sampled_from([None, "USD", "EUR"]))
@settings(max_examples=300, deadline=None)
def test_compiled_look_up_is_the_plain_one(text: str, country: str | None, currency: str | None) -> None:
    buffer = np.frombuffer(bytearray(text.encode() + bytes(16)), dtype=np.uint8)
    scratch = np.zeros(LOCATION_NORMALISED_MAX + 32, dtype=np.uint8)
    length = normalise_ascii(buffer, 0, len(text), scratch)
    plain = normalise_location(text).encode()
    if len(plain) <= LOCATION_NORMALISED_MAX:
        assert scratch[:length].tobytes() == plain
    else:
        assert length == -1
    code = int.from_bytes((country or "").lower().encode(), "little")
    index = find_place(
        scratch,
        length,
        COUNTRY_INDEX[country] if country else -1,
        code,
        currency == "USD",
        GAZETTEER.slot_keys,
        GAZETTEER.slot_places,
        GAZETTEER.country,
    )
    assert index == GAZETTEER.lookup(text, country, currency)


def test_operators_places_come_first(tmp_path: Path) -> None:
    (tmp_path / "places.yaml").write_text(
        "places:\n"
        "  Depot 7: {latitude: 6.6, longitude: 3.3, radius_km: 2, country: NG}\n"
        "  Berlin: {latitude: 1, longitude: 2, radius_km: 3, country: US}\n"
        "  Georgia: {latitude: 4, longitude: 5, radius_km: 6, country: GE}\n"
    )
    gazetteer = Gazetteer.load(tmp_path)
    assert gazetteer.places[gazetteer.lookup("DEPOT-7")].latitude == 6.6
    assert gazetteer.places[gazetteer.lookup("berlin")].country == "US"
    assert gazetteer.places[gazetteer.lookup("berlin", "DE")].country == "DE"
    assert gazetteer.places[gazetteer.lookup("Georgia", None, "USD")].latitude == 4
    assert gazetteer.hash != GAZETTEER.hash
    again = Gazetteer.from_content(gazetteer.content)
    assert again.hash == gazetteer.hash
    assert again.names == gazetteer.names
    assert Gazetteer.load(tmp_path / "nowhere").hash == GAZETTEER.hash


@pytest.mark.parametrize(
    "text",
    [
        "places: [1]",
        "place: {}",
        "places: {X: {latitude: 1, longitude: 2, radius_km: 3}}",
        "places: {X: {latitude: 91, longitude: 2, radius_km: 3, country: NG}}",
        "places: {X: {latitude: true, longitude: 2, radius_km: 3, country: NG}}",
        "places: {X: {latitude: 1, longitude: 2, radius_km: 3, country: ZZ}}",
        "places: {'.': {latitude: 1, longitude: 2, radius_km: 3, country: NG}}",
        "places: {",
    ],
)
def test_mistakes_in_places_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "places.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"places\.yaml"):
        Gazetteer.load(tmp_path)
