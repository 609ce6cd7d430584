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
from anomalyze.rules.column import TEXT_COLUMNS

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
    columns = {name for name in TEXT_COLUMNS if has & {*GIVEN.get(name, (name,))}}
    rule_set = RuleSet.from_json(bundle.rules[RULES].encode()) if bundle.rules else RuleSet()
    rules = compile_rules(rule_set, ColumnTypes.of_features(spec.kinds))
    available = {"amount", *columns, *(name for name in spec.names if name not in features)}
    # Those that are off with every column there are somebody's choice, and no matter of this file.
    always = rules.off({"amount", *TEXT_COLUMNS, *spec.names}, account_id)
    off: dict[str, str] = {}
    for rule_id in rules.off(available, account_id):
        if rule_id not in always:
            wanted = rules.needs(rule_id) - available
            fields = dict.fromkeys(
                features.get(name) or " or ".join(GIVEN.get(name, (name,))) for name in sorted(wanted)
            )
            off[rule_id] = ", ".join(fields)
    return Lacking(features, off)


def _missing(name: str, spec: FeatureSpec, has: Set[str], *, days_only: bool) -> str:
    """The fields without which a feature is NULL; empty when it is not."""
    measure, _, window = name.rpartition("_")
    windowed = name not in MEASURES and measure in WINDOW_MEASURES
    measure = measure if windowed else name
    needed = ("merchant_id",) if name in spec.profile_names else NEEDS.get(measure, ())
    missing = [" or ".join(needed)] if needed and not has & {*needed} else []
    if days_only and (measure in INTRADAY or (windowed and parse_duration_ms(window) < DAY_MS)):
        missing.append(TIMES)
    return ", ".join(missing)
