"""``features.yaml``: which features there are, what they are called, and the numbers behind them."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from anomalyze.errors import ConfigError
from anomalyze.events.money import CURRENCY_INDEX
from anomalyze.features.catalogue import DAILY_PROFILE, MEASURES, MERCHANT_PROFILE, WINDOW_MEASURES
from anomalyze.features.local_time import offset_table

__all__ = ["FeatureDocument", "FeatureKind", "FeatureSpec", "parse_duration_ms"]

Group = Literal["amount", "speed", "place", "device", "merchant", "time"]
Unit = Literal[
    "count",
    "money",
    "deviations",
    "share",
    "log_ratio",
    "ratio",
    "seconds",
    "days",
    "flag",
    "km",
    "kmh",
    "hour",
    "weekday",
]

_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
WINDOWS_MAX = 12
# Each refresh reads all labels of months; fresher ones bring less than what chance moves (docs/detection.md).
PROFILE_REFRESH_MS_MIN = 3_600_000
BASELINE_PURCHASES_MAX = 250


def parse_duration_ms(text: str) -> int:
    """Milliseconds of a duration such as ``10m``.

    Raises
    ------
    ValueError
        Not a whole number followed by s, m, h or d.

    >>> parse_duration_ms("24h")
    86400000
    """
    match = re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", text)
    if not match:
        raise ValueError("expected a duration such as 10m, 24h or 30d")
    return int(match[1]) * _UNIT_MS[match[2]]


def _duration(text: str) -> str:
    parse_duration_ms(text)
    return text


def _known_zone(name: str) -> str:
    try:
        offset_table(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError("expected a time zone such as Europe/Berlin") from error
    return name


def _known_currency(code: str) -> str:
    if code not in CURRENCY_INDEX:
        raise ValueError("expected an ISO 4217 code such as USD")
    return code


Duration = Annotated[str, AfterValidator(_duration)]
Hour = Annotated[int, Field(ge=0, le=24)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Night(_Strict):
    from_hour: Hour = 0
    to_hour: Hour = 6


class _Baseline(_Strict):
    purchases: int = Field(60, ge=10, le=BASELINE_PURCHASES_MAX)
    older_than: Duration = "24h"
    purchases_min: int = Field(10, ge=2, le=BASELINE_PURCHASES_MAX)
    scale_min_share: float = Field(0.1, gt=0, le=1)
    scale_min_units: float = Field(1.0, gt=0, le=1e6)
    shrink_purchases: float = Field(3.0, ge=0, le=100)

    @model_validator(mode="after")
    def _reachable(self) -> _Baseline:
        if self.purchases_min > self.purchases:
            raise ValueError(f"expected purchases_min of at most purchases ({self.purchases})")
        return self


class _Guest(_Strict):
    transactions_per_day: int = Field(200, ge=10)
    account_share: float = Field(0.05, gt=0, le=1)


class _Entry(_Strict):
    label: str = Field(min_length=1, max_length=80)
    unit: Unit
    group: Group


class _Profiles(_Strict):
    refresh: Duration = "6h"
    merchant: dict[str, _Entry] = {}
    daily: dict[str, _Entry] = {}


class FeatureDocument(_Strict):
    """The YAML's content; its JSON Schema is what editors use."""

    version: Literal[1]
    time_zone: Annotated[str, AfterValidator(_known_zone)] = "UTC"
    base_currency: Annotated[str, AfterValidator(_known_currency)] = "USD"
    population_amount_median: float = Field(50.0, gt=0, le=1e9)
    night: _Night = _Night()
    baseline: _Baseline = _Baseline()
    guest: _Guest = _Guest()
    forget_after: Duration = "180d"
    windows: list[Duration] = Field(min_length=1, max_length=WINDOWS_MAX)
    windowed: dict[str, _Entry]
    features: dict[str, _Entry]
    profiles: _Profiles = _Profiles()
    published: dict[str, Annotated[int, Field(ge=0, le=6)]] = {}


@dataclass(frozen=True, slots=True)
class FeatureKind:
    """What a feature is, for type checks and for people.

    ``kind`` is ``number`` or ``flag`` (0 or 1); ``unit`` says how to print it; ``group`` is the one of six
    that explanations name.
    """

    kind: Literal["number", "flag"]
    unit: Unit
    label: str
    group: Group


@dataclass(frozen=True, slots=True, eq=False)
class FeatureSpec:
    """Declared features, in the order of the matrix' columns.

    Attributes
    ----------
    names
        Column order of every feature matrix.
    published
        Decimals of the features that go into ``enrichment.features``.
    kinds
        Meaning of each feature.
    content_hash
        SHA-256 of the YAML text, hexadecimal.
    text
        The YAML itself, which a bundle stores.
    document
        The parsed document: defaults of accounts and all parameters.
    window_ms
        int64 ``[W]``, ascending.
    source
        int32 ``[stream]``: where the kernel keeps the value of each column that it computes; the columns after
        them come from profiles.
    """

    names: tuple[str, ...]
    published: dict[str, int]
    kinds: dict[str, FeatureKind]
    content_hash: str
    text: str
    document: FeatureDocument
    window_ms: npt.NDArray[np.int64]
    source: npt.NDArray[np.int32]

    @classmethod
    def load(cls, path: Path) -> FeatureSpec:
        """Read ``features.yaml``; see ``from_yaml``."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: expected a readable UTF-8 file, got {error}") from error
        return cls.from_yaml(text, str(path))

    @classmethod
    def from_yaml(cls, text: str, where: str = "features.yaml") -> FeatureSpec:
        """Parse and check.

        Raises
        ------
        ConfigError
            Every mistake, one a line, each with file and line.
        """
        content, lines = _load_yaml(text, where)
        try:
            document = FeatureDocument.model_validate(content)
        except ValidationError as error:
            raise ConfigError("\n".join(_describe(error, lines, where))) from error
        mistakes = [f"{where}:{_line(lines, path)}: {what}" for path, what in _check(document)]
        if mistakes:
            raise ConfigError("\n".join(mistakes))
        return cls._build(document, text)

    @classmethod
    def _build(cls, document: FeatureDocument, text: str) -> FeatureSpec:
        kinds: dict[str, FeatureKind] = {}
        source: list[int] = []
        for measure, entry in document.windowed.items():
            for w, window in enumerate(document.windows):
                kinds[f"{measure}_{window}"] = _kind(entry, window)
                source.append(w * len(WINDOW_MEASURES) + WINDOW_MEASURES.index(measure))
        first = len(document.windows) * len(WINDOW_MEASURES)
        for name, entry in document.features.items():
            kinds[name] = _kind(entry, "")
            source.append(first + MEASURES.index(name))
        for name, entry in (*document.profiles.merchant.items(), *document.profiles.daily.items()):
            kinds[name] = _kind(entry, "")
        return cls(
            names=tuple(kinds),
            published=dict(document.published),
            kinds=kinds,
            content_hash=hashlib.sha256(text.encode()).hexdigest(),
            text=text,
            document=document,
            window_ms=np.array([parse_duration_ms(w) for w in document.windows], dtype=np.int64),
            source=np.array(source, dtype=np.int32),
        )

    @property
    def profile_names(self) -> tuple[str, ...]:
        """The last columns: those that come from profiles, first ``label_names``, then ``daily_names``."""
        return self.names[len(self.source) :]

    @property
    def label_names(self) -> tuple[str, ...]:
        """What labels say of merchants, refreshed within the day."""
        return tuple(self.document.profiles.merchant)

    @property
    def daily_names(self) -> tuple[str, ...]:
        """Profiles of whole days."""
        return tuple(self.document.profiles.daily)

    @property
    def profile_refresh_ms(self) -> int:
        """Time between two snapshots of profiles, whose instants are its multiples."""
        return parse_duration_ms(self.document.profiles.refresh)

    def index(self, name: str) -> int:
        """Column of a feature."""
        return self.names.index(name)


def _kind(entry: _Entry, window: str) -> FeatureKind:
    label = entry.label.replace("{window}", window)
    return FeatureKind("flag" if entry.unit == "flag" else "number", entry.unit, label, entry.group)


def _check(document: FeatureDocument) -> list[tuple[tuple[str | int, ...], str]]:
    """What pydantic cannot see: names against the catalogue and against each other."""
    found: list[tuple[tuple[str | int, ...], str]] = []
    spans = [parse_duration_ms(window) for window in document.windows]
    if spans != sorted(set(spans)):
        found.append((("windows",), f"windows: expected each once, shortest first, got {document.windows}"))
    if parse_duration_ms(document.forget_after) < spans[-1]:
        found.append((("forget_after",), "forget_after: expected at least the longest window"))
    for section, names, known in (
        ("windowed", document.windowed, WINDOW_MEASURES),
        ("features", document.features, MEASURES),
    ):
        for name in names:
            if name not in known:
                found.append(((section, name), f"{section}: {_unknown(name, known)}"))
    profiles, daily = document.profiles.merchant, document.profiles.daily
    if not PROFILE_REFRESH_MS_MIN <= parse_duration_ms(document.profiles.refresh) <= spans[-1]:
        found.append((("profiles", "refresh"), "profiles.refresh: expected 1h to the longest window"))
    for name in profiles:
        if name not in MERCHANT_PROFILE:
            found.append(
                (("profiles", "merchant", name), f"profiles.merchant: {_unknown(name, MERCHANT_PROFILE)}")
            )
    declared = [f"{m}_{w}" for m in document.windowed for w in document.windows]
    declared += [*document.features, *profiles]
    for name in daily:
        path = ("profiles", "daily", name)
        if name not in DAILY_PROFILE:
            found.append((path, f"profiles.daily: {_unknown(name, tuple(DAILY_PROFILE))}"))
        elif name in declared:
            found.append((path, f"profiles.daily: {name}: expected once, it is declared as a window already"))
    declared += daily
    for name in document.published:
        if name not in declared:
            found.append((("published", name), f"published: {_unknown(name, declared)}"))
    return found


def _unknown(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else f"; known are {', '.join(sorted(known)[:40])}"
    return f"expected a feature that exists, got {name!r}{hint}"


def _load_yaml(text: str, where: str) -> tuple[Any, dict[tuple[str | int, ...], int]]:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[tuple[str | int, ...], int] = {(): 1}
        if root is not None:
            _collect_lines(root, (), lines, where)
        return yaml.safe_load(text), lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{where}:{line}: expected YAML, got: {problem}") from error


def _collect_lines(
    node: yaml.Node, path: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int], where: str
) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            if inner in lines:
                raise ConfigError(
                    f"{where}:{key.start_mark.line + 1}: {key.value}: expected once, got it twice"
                )
            lines[inner] = key.start_mark.line + 1
            _collect_lines(value, inner, lines, where)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            lines[(*path, i)] = value.start_mark.line + 1
            _collect_lines(value, (*path, i), lines, where)


def _line(lines: dict[tuple[str | int, ...], int], path: Sequence[str | int]) -> int:
    """Line of the deepest part of ``path`` that the file has."""
    for end in range(len(path), 0, -1):
        if tuple(path[:end]) in lines:
            return lines[tuple(path[:end])]
    return 1


def _describe(error: ValidationError, lines: dict[tuple[str | int, ...], int], where: str) -> list[str]:
    described = []
    for item in error.errors(include_url=False):
        path = item["loc"]
        message = item["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        got = "" if item["type"] == "missing" else f", got {item['input']!r:.80}"
        described.append(f"{where}:{_line(lines, path)}: {'.'.join(map(str, path))}: {message}{got}")
    return described
