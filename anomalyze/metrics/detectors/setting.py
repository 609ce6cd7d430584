"""What ``detectors`` of a metric may hold: a name, or a name with its keys."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from anomalyze.config import StrictModel, closest

__all__ = [
    "DETECTORS_MAX",
    "PLAIN",
    "DetectorSetting",
    "LevelShift",
    "SeasonalZ",
    "check_once",
    "from_words",
]

# The default detector's two outputs: every series has them, these words only say whether they alert.
PLAIN = ("novelty", "rarity")
DETECTORS_MAX = 20
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Plain(StrictModel):
    """Nothing to set."""


class SeasonalZ(StrictModel):
    """A value against those of the same time of day, and of the week, in the weeks before."""

    weeks: int = Field(default=4, ge=2, le=12, description="how far back it looks")
    threshold: Annotated[Finite, Field(ge=1, le=1_000)] = Field(
        default=8.0, description="an alert at so many deviations (1.4826 times the median one)"
    )


class LevelShift(StrictModel):
    """The median of the newest values against those of the spans before."""

    points: int | None = Field(
        default=None,
        ge=4,
        le=100_000,
        description="of one span; else a day's, and of daily values a week's",
    )
    spans: int = Field(default=14, ge=4, le=60, description="how many spans before it is held against")
    threshold: Annotated[Finite, Field(ge=0.5, le=1_000)] = Field(
        default=4.0, description="an alert so many deviations beyond all levels before"
    )


class _Member(StrictModel):
    """One key: the detector's name."""

    novelty: _Plain | None = None
    rarity: _Plain | None = None
    seasonal_z: SeasonalZ | None = None
    level_shift: LevelShift | None = None

    @model_validator(mode="after")
    def _is_one(self) -> _Member:
        told = sorted(self.model_fields_set)
        if len(told) != 1 or getattr(self, told[0]) is None:
            raise ValueError(f"expected one detector an entry, got {' and '.join(told) or 'none'}")
        return self

    @property
    def key(self) -> str:
        """The detector's name in the file."""
        return next(iter(self.model_fields_set))

    @property
    def kind(self) -> str:
        """What its scores and incidents are called."""
        return "shift" if self.level_shift is not None else self.key

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [handler.resolve_ref_schema(handler(core)), {"enum": list(_words(cls))}]}


class DetectorSetting(_Member):
    """An entry of ``detectors``."""


def _words(model: type[_Member]) -> tuple[str, ...]:
    """Names that may stand without keys."""
    return tuple(model.model_fields)


def _expected(known: tuple[str, ...], got: str) -> str:
    meant = closest(got, known)
    return f"expected one of {', '.join(known)}" + (f"; perhaps {meant}" if meant else "")


def from_words(model: type[_Member], value: Any) -> Any:
    """A list whose words are entries without keys; text, from the environment, has commas between words."""
    if isinstance(value, str):
        value = [word.strip() for word in value.split(",") if word.strip()]
    if not isinstance(value, list | tuple):
        return value
    known = _words(model)
    wrong = [one for one in value if isinstance(one, str) and one not in known]
    if wrong:
        raise ValueError(_expected(known, wrong[0]) + f", found {wrong[0]!r}")
    return [{one: {}} if isinstance(one, str) else one for one in value]


def check_once(entries: tuple[_Member, ...]) -> None:
    """Raise ``ValueError`` when two entries are of one kind: their scores could not be told apart."""
    kinds = [one.kind for one in entries]
    twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
    if twice:
        raise ValueError(f"expected each detector once, got {' and '.join(twice)} twice")


def version_of(setting: _Member, code: int) -> int:
    """31 bits that stand for a detector with its parameters and its code's version.

    >>> version_of(DetectorSetting(seasonal_z=SeasonalZ()), 1) == version_of(DetectorSetting(seasonal_z=SeasonalZ(weeks=4)), 1)
    True
    """
    text = f"{code} {setting.kind} {getattr(setting, setting.key).model_dump_json()}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
