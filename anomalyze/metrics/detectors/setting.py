"""What ``detectors`` of a metric may hold: a name, or a name with its keys."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from anomalyze.config import StrictModel, closest
from anomalyze.metrics.duration import Duration

__all__ = [
    "DETECTORS_MAX",
    "PLAIN",
    "PYOD_NAMES",
    "DetectorSetting",
    "Ensemble",
    "KnnShape",
    "LevelShift",
    "Pyod",
    "SeasonalZ",
    "check_once",
    "from_words",
]

# The default detector's two outputs: every series has them, these words only say whether they alert.
PLAIN = ("novelty", "rarity")
DETECTORS_MAX = 20
# Those of PyOD's detectors that serve: the score of a row depends on that row and on what was learned, and grows with
# its distance.
PyodName = Literal[
    "default", "iforest", "ecod", "copod", "hbos", "pca", "knn", "lof", "mcd", "ocsvm", "kde", "gmm"
]
PYOD_NAMES: tuple[str, ...] = PyodName.__args__  # type: ignore[attr-defined]
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


class KnnShape(StrictModel):
    """How far the newest values as one shape lie from the nearest earlier ones."""

    lags: int = Field(default=50, ge=2, le=200, description="values of one shape")
    memory: int = Field(default=2_000, ge=200, le=8_000, description="earlier shapes that it looks among")
    neighbours: int = Field(
        default=3, ge=1, le=50, description="the distance is that to the so-many-th nearest"
    )
    quantile: Annotated[float, Field(ge=0.9, lt=1)] = Field(
        default=0.999, description="of its own earlier distances, where it alerts"
    )


class Search(StrictModel):
    """Try other parameters on the training values, and take what finds injected anomalies best."""

    trials: int = Field(default=8, ge=2, le=20)
    timeout: Duration = Field(
        default=dt.timedelta(seconds=60),
        description="a training that takes longer fails, and the run names its metric",
    )


def _known_pyod(value: Any) -> Any:
    if not isinstance(value, str) or value in PYOD_NAMES:
        return value
    reason = "LODA calls ordinary what lies beyond its histograms" if value.lower() == "loda" else ""
    others = "PyOD's others are left out as they take seconds to load or to score a metric"
    raise ValueError(f"{_expected(PYOD_NAMES, value)}, found {value!r}; {reason or others}")


class Pyod(StrictModel):
    """One of PyOD's detectors, trained for each metric on its values and those before."""

    name: Annotated[PyodName, BeforeValidator(_known_pyod)]
    lags: int = Field(default=5, ge=0, le=100, description="values before, beside the newest")
    differences: bool = Field(default=False, description="from value to value, instead of values")
    train: int = Field(default=2_000, ge=100, le=20_000, description="values that it learns from, the newest")
    refit: Duration = Field(default=dt.timedelta(days=7), description="it learns again so often")
    quantile: Annotated[float, Field(ge=0.9, lt=1)] = Field(
        default=0.999, description="of what training values score, where it alerts"
    )
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    search: Search | None = None


def _pyod_by_name(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return {"name": _known_pyod(value)}


class _Member(StrictModel):
    """One key: the detector's name."""

    novelty: _Plain | None = None
    rarity: _Plain | None = None
    seasonal_z: SeasonalZ | None = None
    level_shift: LevelShift | None = None
    knn_shape: KnnShape | None = None
    pyod: Annotated[Pyod, BeforeValidator(_pyod_by_name)] | None = None

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
        if self.level_shift is not None:
            return "shift"
        return f"pyod_{self.pyod.name}" if self.pyod else self.key

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [handler.resolve_ref_schema(handler(core)), {"enum": list(_words(cls))}]}


class Ensemble(StrictModel):
    """Several detectors as one: what they say is combined on the scale on which each alerts at 3."""

    of: Annotated[tuple[_Member, ...], BeforeValidator(lambda value: from_words(_Member, value))] = Field(
        min_length=2, max_length=10
    )
    combine: Literal["mean", "max", "median", "rank"] = Field(
        default="mean",
        description="max alerts when one does, median when half of them do, rank when they rank it high on average",
    )

    @model_validator(mode="after")
    def _once(self) -> Ensemble:
        check_once(self.of)
        return self


class DetectorSetting(_Member):
    """An entry of ``detectors``."""

    ensemble: Ensemble | None = None


def _words(model: type[_Member]) -> tuple[str, ...]:
    """Names that may stand without keys."""
    return tuple(name for name in model.model_fields if name not in ("pyod", "ensemble"))


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
        raise ValueError(_expected((*known, "pyod: NAME"), wrong[0]) + f", found {wrong[0]!r}")
    return [{one: {}} if isinstance(one, str) else one for one in value]


def check_once(entries: tuple[_Member, ...]) -> None:
    """Raise ``ValueError`` when two entries are of one kind: their scores could not be told apart."""
    kinds = [one.kind for one in entries]
    twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
    if twice:
        raise ValueError(f"expected each detector once, got {' and '.join(twice)} twice")


def version_of(setting: _Member, code: str) -> int:
    """31 bits that stand for a detector with its parameters and its code's version.

    >>> version_of(DetectorSetting(seasonal_z=SeasonalZ()), "1") == version_of(
    ...     DetectorSetting(seasonal_z=SeasonalZ(weeks=4)), "1"
    ... )
    True
    """
    text = f"{code} {setting.kind} {getattr(setting, setting.key).model_dump_json()}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
