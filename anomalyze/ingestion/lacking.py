"""What a file cannot tell: features that are NULL for want of a column, and rules that cannot fire without them."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from anomalyze.detection.bundle import Bundle
from anomalyze.detection.detector import RULES
from anomalyze.features.catalogue import INTRADAY, MEASURES, WINDOW_MEASURES
from anomalyze.features.spec import FeatureSpec, parse_duration_ms
from anomalyze.ingestion.mapping import FileMapping
from anomalyze.rules import ColumnTypes, RuleSet, compile_rules
from anomalyze.rules import expression as tree
from anomalyze.rules.column import TEXT_COLUMNS
from anomalyze.rules.parse import parse_expression

__all__ = ["Lacking", "find_lacking"]

DAY_MS = 86_400_000
TIMES = "times of day"
PLACES = ("country", "location")
# Measures that are NULL where the transactions name no such thing; any one of the fields will do.
NEEDS: dict[str, tuple[str, ...]] = {
    "user_merchant_count": ("merchant_id",),
    "is_new_merchant": ("merchant_id",),
    "user_device_count": ("device_id",),
    "is_new_device": ("device_id",),
    "user_country_count": PLACES,
    "is_new_country": PLACES,
    "travel_km": ("location", "latitude"),
    "travel_kmh": ("location", "latitude"),
}
# Of whom a profile is, by the first word of its features.
PROFILED = {"merchant": ("merchant_id",), "device": ("device_id",), "ip": ("ip",), "country": PLACES}
# A location names a country too; without a status every payment counts as approved.
GIVEN = {"country": PLACES, "status": ("user_id",), "user_id": ("user_id",)}


@dataclass(frozen=True, slots=True)
class Lacking:
    """Features that are NULL on every row, and rules that cannot fire: each with the fields that are missing."""

    features: dict[str, str]
    rules: dict[str, str]


def find_lacking(bundle: Bundle, mapping: FileMapping, account_id: str) -> Lacking:
    """What a bundle cannot do on a file read so.

    Raises
    ------
    ContractError
        The bundle contradicts itself.
    """
    spec = FeatureSpec.from_yaml(bundle.features, f"{bundle.id}/features.yaml")
    has = {*mapping.fields, *mapping.constants}
    days_only = mapping.time_resolution == "day"
    features = {
        name: missing for name in spec.names if (missing := _missing(name, spec, has, days_only=days_only))
    }
    nulls = dict(features)
    for name in TEXT_COLUMNS:
        fields = GIVEN.get(name, (name,))
        if not has & {*fields}:
            nulls[name] = " or ".join(fields)
    rule_set = RuleSet.from_json(bundle.rules[RULES].encode()) if bundle.rules else RuleSet()
    known = ColumnTypes.of_features(spec.kinds)
    # Those that are off with every column there are somebody's choice, and no matter of this file.
    chosen_off = compile_rules(rule_set, known).off({*known}, account_id)
    off: dict[str, str] = {}
    for rule in rule_set:
        expression = parse_expression(rule.expression, known, rule.parameters, rule.id)
        if rule.id not in chosen_off and not may_be(expression.root, nulls.keys(), want=True):
            wanted = [
                word for name in sorted(expression.columns & nulls.keys()) for word in nulls[name].split(", ")
            ]
            off[rule.id] = ", ".join(dict.fromkeys(wanted))
    return Lacking(features, off)


def may_be(node: tree.Node, nulls: Set[str], *, want: bool) -> bool:
    """Whether a condition may be TRUE (or FALSE) on rows whose columns ``nulls`` are NULL."""
    match node:
        case tree.And(terms=terms):
            return (all if want else any)(may_be(term, nulls, want=want) for term in terms)
        case tree.Or(terms=terms):
            return (any if want else all)(may_be(term, nulls, want=want) for term in terms)
        case tree.Not(term=term):
            return may_be(term, nulls, want=not want)
        case tree.Flag(value=value):
            return value is want
        case tree.IsNull(value=value):
            return want or not _is_null(value, nulls)
        case tree.InList(column=column):
            return not _is_null(column, nulls)
        case _:
            return not _is_null(node, nulls)


def _is_null(node: tree.Node, nulls: Set[str]) -> bool:
    """Whether a value is NULL on every such row."""
    match node:
        case tree.ColumnRef(name=name):
            return name in nulls
        case tree.Call(function="coalesce", arguments=arguments):
            return all(_is_null(argument, nulls) for argument in arguments)
        case tree.Member(value=value):
            return _is_null(value, nulls)
        case _:
            return any(_is_null(child, nulls) for child in tree.children(node))


def _missing(name: str, spec: FeatureSpec, has: Set[str], *, days_only: bool) -> str:
    """The fields without which a feature is NULL; empty when it is not."""
    measure, _, window = name.rpartition("_")
    windowed = name not in MEASURES and name not in spec.profile_names and measure in WINDOW_MEASURES
    measure = measure if windowed else name
    profiled = name in spec.profile_names
    needed = PROFILED.get(name.partition("_")[0], ()) if profiled else NEEDS.get(measure, ())
    missing = [" or ".join(needed)] if needed and not has & {*needed} else []
    if days_only and (measure in INTRADAY or (windowed and parse_duration_ms(window) < DAY_MS)):
        missing.append(TIMES)
    return ", ".join(missing)
