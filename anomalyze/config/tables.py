"""The shape of the two files that hold tables: ``currency_rates.yaml`` and ``places.yaml``.

``anomalyze.events`` reads and checks their content; these models give editors a schema and mistakes a place.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from pydantic import Field, StringConstraints

from anomalyze.config.validation import StrictModel

__all__ = ["PlacesFile", "RatesFile"]

Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class RatesOfDay(StrictModel):
    """Rates from a day on."""

    day: dt.date = Field(description="first day (UTC) on which the rates hold")
    rates: dict[Currency, Rate] = Field(description="how many units of each currency one pivot buys")


class RatesFile(StrictModel):
    """``currency_rates.yaml``."""

    pivot: Currency
    tables: list[RatesOfDay] = Field(min_length=1)


class PlaceEntry(StrictModel):
    """One place of the operator's own."""

    latitude: float = Field(ge=-90, le=90)
    longitude: float = Field(ge=-180, le=180)
    radius_km: float = Field(ge=0, le=20_000, description="how far from there it may still be")
    country: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")] = Field(description="ISO 3166 alpha-2")


class PlacesFile(StrictModel):
    """``places.yaml``."""

    places: dict[str, PlaceEntry]
