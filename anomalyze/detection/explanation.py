"""Why a transaction was flagged, in numbers that a person can check.

Only flagged rows come here, so that this may format text and take its time (about a tenth of a millisecond
each). Everything is a function of the row, its features and the bundle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from anomalyze.detection.row import Row
from anomalyze.detection.statistic import NAMES, TwoQuantile
from anomalyze.detection.wording import counted, duration_text, rarity_text, times_text, value_text
from anomalyze.events.batch import Severity
from anomalyze.features.spec import FeatureSpec
from anomalyze.features.state import HistoryFlag
from anomalyze.models.forest import ModelInput
from anomalyze.rules.compiled import CompiledRules
from anomalyze.rules.rule import Rule
from anomalyze.rules.show import MISSING, show

__all__ = ["Explainer", "Finding", "ordered"]

# A group of features has to carry this share of the score to be named as its cause.
NAMED_SHARE_MIN = 0.25
OFF_KNOWN_MAX = 10_000  # accounts × kinds of gaps whose rules are remembered as off
# Groups below this share are summed up as "the rest".
SHOWN_SHARE_MIN = 0.05
# What is NULL for want of a field in the transaction itself.
NEEDED_FIELDS = {
    "device_id": ("is_new_device", "user_device_count"),
    "merchant_id": ("is_new_merchant", "user_merchant_count"),
    "country": ("is_new_country", "user_country_count"),
    "place": ("travel_km", "travel_kmh"),
}
# Of these, what a transaction names itself.
EVENT_FIELDS = tuple(name for name in NEEDED_FIELDS if name != "place")
_SEVERITIES = tuple(Severity)
MERCHANT_NEWS_DAYS_MAX = 30  # frauds at a merchant longer ago are not named as a cause


@dataclass(slots=True)
class Finding:
    """What was found in one row.

    Attributes
    ----------
    rules
        Live rules that fired, ``ordered``, each with its sentence.
    statistics, statistic_severities
        Values of ``statistic.NAMES`` (NaN = unknown) and the severity each proposed.
    tail
        Tail probability of the model's score; NaN without a model.
    model_severity
        What the model proposed, after its cap.
    shares
        Share of each group in the model's score, by group, the largest first; empty without a model.
    changes
        What would have changed the verdict: (change in words, severity then).
    """

    rules: Sequence[tuple[Rule, str]]
    statistics: Sequence[float]
    statistic_severities: Sequence[int]
    tail: float
    model_severity: Severity
    shares: Mapping[str, float]
    changes: Sequence[tuple[str, Severity]] = ()


class _Described(NamedTuple):
    """An input of the model as people know it, with its quantiles in training (5 %, median, 95 %)."""

    name: str
    label: str
    unit: str
    usual: tuple[float | None, float | None, float | None]


class Explainer:
    """Writes sentences and details for one bundle.

    Parameters
    ----------
    spec, rules, inputs
        The bundle's features, compiled rules, and the model's inputs.
    two_quantile
        For the rarity of its score; None when the bundle has none.
    usual
        Quantiles of features in training: name to (5 %, median, 95 %).
    """

    def __init__(
        self,
        spec: FeatureSpec,
        rules: CompiledRules,
        inputs: Sequence[ModelInput],
        two_quantile: TwoQuantile | None,
        usual: Mapping[str, tuple[float, float, float]],
        *,
        starter: bool,
    ) -> None:
        self._spec = spec
        self._rules = rules
        self._two_quantile = two_quantile
        self._starter = starter
        self._groups: dict[str, list[_Described]] = {}
        for name, group in ((i.name, i.group) for i in inputs):
            about = spec.kinds[name]
            described = _Described(name, about.label, about.unit, usual.get(name, (None, None, None)))
            self._groups.setdefault(group, []).append(described)
        self._history_notes: dict[int, list[str]] = {}
        self._off_known: dict[tuple[str, frozenset[str]], dict[str, str]] = {}

    def tell(self, rules: Sequence[Rule], row: Row) -> list[tuple[Rule, str]]:
        """Each rule with its sentence."""
        return [(rule, self._rules.explain(rule.id, row.values, row.account_id)) for rule in rules]

    def sentence(self, row: Row, found: Finding) -> str:
        """What happened, most severe first: the rules' own sentences, then what statistics and model add."""
        clauses: dict[str, str] = {}
        for rule, text in found.rules:
            clauses.setdefault(rule.group, text)
        if any(found.statistic_severities):
            clauses.setdefault("amount", amount_clause(row) or "")
        if not any(clauses.values()):
            named = [group for group, share in found.shares.items() if share >= NAMED_SHARE_MIN]
            for group in named:
                clauses[group] = CLAUSES[group](row) or ""
            if not named and found.shares:
                clauses["model"] = f"An unusual combination of {listed(list(found.shares)[:3])}"
            clauses["rarity"] = "" if math.isnan(found.tail) else f"as strange as {rarity_text(found.tail)}"
        if not any(clauses.values()):  # raised by the budget for its amount, without a model
            clauses["amount"] = amount_clause(row) or ""
        return first_upper("; ".join(dict.fromkeys(c.rstrip(".") for c in clauses.values() if c)))

    def details(self, row: Row, found: Finding) -> dict[str, Any]:
        """JSON values for the section ``analysis``; parts that have nothing to say are left out."""
        off = self._off(row)
        details = {
            "rules": [self._rule(rule, text, row) for rule, text in found.rules],
            "statistics": self._statistics(found),
            "model": self._model(row, found),
            "would_change": [
                {"change": change, "severity": severity.name} for change, severity in found.changes
            ],
            "notes": self._notes(row),
            "rules_off": off,
        }
        return {name: value for name, value in details.items() if value}

    def _rule(self, rule: Rule, text: str, row: Row) -> dict[str, Any]:
        compared = self._rules.comparisons(rule.id, row.values, row.account_id)
        return {
            "id": rule.id,
            "severity": rule.severity.name,
            "group": rule.group,
            "text": text,
            "values": [
                {"what": c.left, "here": c.left_shown, "operator": c.operator, "limit": c.right_shown}
                for c in compared
                if c.holds
            ],
        }

    def _statistics(self, found: Finding) -> list[dict[str, Any]]:
        if not any(found.statistic_severities):
            return []
        told = []
        for name, value, severity in zip(NAMES, found.statistics, found.statistic_severities, strict=True):
            if severity:
                entry = {"name": name, "value": round(value, 3), "severity": _SEVERITIES[severity].name}
                if name == "two_quantile" and self._two_quantile is not None:
                    entry["words"] = rarity_text(self._two_quantile.rarity(value))
                told.append(entry)
        return told

    def _model(self, row: Row, found: Finding) -> dict[str, Any]:
        if math.isnan(found.tail):
            return {}
        shown = {group: share for group, share in found.shares.items() if share >= SHOWN_SHARE_MIN}
        return {
            "tail": found.tail,
            "words": rarity_text(found.tail),
            "severity": found.model_severity.name,
            "starter": self._starter,
            "combination": bool(shown) and max(shown.values()) < NAMED_SHARE_MIN,
            "groups": [
                {
                    "group": group,
                    "share": round(share, 3),
                    "features": [self._feature(described, row) for described in self._groups[group]],
                }
                for group, share in shown.items()
            ],
        }

    def _feature(self, described: _Described, row: Row) -> dict[str, Any]:
        name, unit = described.name, described.unit
        value = row.number(name)
        low, median, high = described.usual
        if name == "amount_base" and row.number("user_amount_median") is not None:
            # The user's own range where he has one, else that of the training history.
            own_low = row.number("user_amount_iqr_low")
            low = None if own_low is None else max(own_low, 0.0)
            median, high = row.number("user_amount_median"), row.number("user_amount_p95")
        return {
            "name": name,
            "label": described.label,
            "unit": unit,
            "here": value,
            "shown": MISSING if value is None else value_text(value, unit, str(row.values["base_currency"])),
            "low": low,
            "median": median,
            "high": high,
        }

    def _notes(self, row: Row) -> list[str]:
        notes = []
        needed = self._spec.document.baseline.purchases_min
        known = row.number("user_amount_n")
        if row.number("user_amount_median") is None and known is not None:
            notes.append(f"{counted(int(known), 'transaction')} of this user; usual ranges start at {needed}")
        of_history = self._history_notes.get(row.history)
        if of_history is None:
            of_history = [text for flag, text in HISTORY_NOTES.items() if row.history & flag]
            self._history_notes[row.history] = of_history
        notes += of_history
        if self._starter:
            notes.append("Starter bundle, trained on simulated history: expect false alarms")
        return notes

    def _off(self, row: Row) -> dict[str, str]:
        values = row.values
        missing = [name for name in EVENT_FIELDS if values.get(name) is None]
        if values.get("travel_km") is None and values.get("location") is None:
            missing.append("place")
        if not missing:
            return {}
        key = (row.account_id, frozenset(missing))
        reasons = self._off_known.get(key)
        if reasons is None:
            lacking = tuple(prefix for name in missing for prefix in (name, *NEEDED_FIELDS[name]))
            present = frozenset(c for c in self._rules.columns if not c.startswith(lacking))
            off = self._rules.off(present, row.account_id)
            reasons = {rule: reason for rule, reason in sorted(off.items()) if "needs" in reason}
            if len(self._off_known) >= OFF_KNOWN_MAX:
                self._off_known.clear()
            self._off_known[key] = reasons
        return reasons


HISTORY_NOTES = {
    HistoryFlag.INCOMPLETE: "Older than what is remembered of this user: judged on an incomplete history",
    HistoryFlag.TRUNCATED: "More transactions than are remembered: long windows count the newest only",
    HistoryFlag.GUEST: "This user id stands for nobody in particular: no usual ranges",
    HistoryFlag.STATE_FULL: "Too many users are remembered already: no usual ranges",
    HistoryFlag.LATE: "Arrived after newer transactions of this user",
}


def ordered(rules: Sequence[Rule]) -> list[Rule]:
    """Most severe first, then the heavier, then by id."""
    return sorted(rules, key=lambda rule: (-rule.severity, -rule.weight, rule.id))


def amount_clause(row: Row) -> str | None:
    """``4,500.50 USD is 37.5 times this user's usual 120.00``."""
    amount, base = row.number("amount"), row.number("amount_base")
    currency, base_currency = str(row.values["currency"]), str(row.values["base_currency"])
    paid = show(amount, "money", currency)
    if base is not None and currency != base_currency:
        paid += f" ({show(base, 'base_money', base_currency)})"
    usual = row.number("user_amount_median")
    if base is None or usual is None or usual <= 0 or base <= usual:
        return paid
    return (
        f"{paid} is {times_text(base / usual)} this user's usual {show(usual, 'base_money', base_currency)}"
    )


def place_clause(row: Row) -> str | None:
    """``8,440 km from the last one, 72 seconds earlier``."""
    km, seconds = row.number("travel_km"), row.number("user_seconds_since_last")
    if km is None:
        return None
    text = f"{show(km, 'km')} from the last one"
    return text if seconds is None else f"{text}, {duration_text(seconds)} earlier"


def speed_clause(row: Row) -> str | None:
    """``5th transaction in 1 hour``."""
    count = row.number("user_tx_count_1h")
    return None if count is None else f"{show(count, 'ordinal')} transaction in 1 hour"


def device_clause(row: Row) -> str | None:
    """``a device not seen with this user before``."""
    return "a device not seen with this user before" if row.number("is_new_device") else None


def merchant_clause(row: Row) -> str | None:
    """``frauds at m_0417 of late, the last 8 days ago``, or ``the first payment to m_0417``."""
    merchant = row.values.get("merchant_id")
    days = row.number("merchant_unexplained_age_days")
    if merchant and days is not None and days < MERCHANT_NEWS_DAYS_MAX:
        return f"frauds at {merchant} of late, the last known {counted(round(days), 'day')} ago"
    return f"the first payment to {merchant}" if merchant and row.number("is_new_merchant") else None


def time_clause(row: Row) -> str | None:
    """``at 03:00, an hour at which this user rarely pays``."""
    hour = row.number("local_hour")
    return None if hour is None else f"at {show(hour, 'hour')}, an hour at which this user rarely pays"


CLAUSES = {
    "amount": amount_clause,
    "speed": speed_clause,
    "place": place_clause,
    "device": device_clause,
    "merchant": merchant_clause,
    "time": time_clause,
}


def listed(names: Sequence[str]) -> str:
    """``amount, place and time``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def first_upper(text: str) -> str:
    """The sentence with a capital at its beginning."""
    return text[:1].upper() + text[1:]
