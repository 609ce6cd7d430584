"""Accounts' documents in a bundle: read from it, laid over it, carried from one to the next, and what they change.

A document travels whole in ``Bundle.overlays``; what it says of rules is also laid over the bundle's rule set, as
far as these rules are still there.

Of two bundles the higher version of an account's document is the newer one, whichever bundle is younger: so a model
that was trained before an edit takes the edit along when it is promoted (`with_newest_documents`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from anomalyze.detection.account import AccountDocument, Thresholds, Versioned
from anomalyze.detection.budget import with_thresholds
from anomalyze.detection.bundle import RULES, Bundle
from anomalyze.detection.policy import Policy
from anomalyze.errors import ConfigError, ContractError
from anomalyze.events.batch import Severity
from anomalyze.events.money import RateTable
from anomalyze.rules.column import ColumnTypes
from anomalyze.rules.compiled import check_rules
from anomalyze.rules.rule import RuleSet

__all__ = [
    "account_policies",
    "account_rates",
    "core_id",
    "document_of",
    "version_of",
    "with_documents",
    "with_newest_documents",
]


def version_of(bundle: Bundle, account_id: str) -> int:
    """Version of the account's document in a bundle; 0: no saved one."""
    return int(bundle.overlays.get(account_id, {}).get("saved", 0))


def document_of(bundle: Bundle, account_id: str) -> Versioned:
    """The account's document as a bundle has it, from wherever it came; an empty one where it has none."""
    overlay = dict(bundle.overlays.get(account_id, {}))
    version = int(overlay.pop("saved", 0))
    if not version:  # files may say the same of rules in two places; the rule set has the sum
        overlaid = rule_set_of(bundle).overlays.get(account_id, {})
        overlay["rules"] = {
            rule_id: {
                **({} if one.mode is None else {"mode": one.mode.name.lower()}),
                "parameters": {n: list(v) if isinstance(v, tuple) else v for n, v in one.parameters.items()},
            }
            for rule_id, one in overlaid.items()
        }
    known = {name: value for name, value in overlay.items() if name in AccountDocument.model_fields}
    try:
        return Versioned(version, AccountDocument.model_validate(known))
    except ValidationError as error:
        raise ContractError(
            f"bundle {bundle.id}: the overlay of {account_id} is malformed: {error}"
        ) from error


def rule_set_of(bundle: Bundle) -> RuleSet:
    """The bundle's rules with what accounts change about them."""
    return RuleSet.from_json(bundle.rules[RULES].encode()) if bundle.rules else RuleSet()


def with_documents(bundle: Bundle, documents: Mapping[str, Versioned]) -> Bundle:
    """The bundle with these accounts' documents in the place of whatever it had of them.

    What a document says of a rule or a parameter that the bundle does not have (any more) stays in the document and
    has no effect.
    """
    if not documents:
        return bundle
    overlays = dict(bundle.overlays)
    rules = rule_set_of(bundle)
    laid = dict(rules.overlays)
    for account_id, one in documents.items():
        saved = {"saved": one.version} if one.version else {}
        overlays[account_id] = saved | one.document.to_json()
        own = one.document.rule_overlays()
        if not one.version:
            own = {**laid.get(account_id, {}), **own}
        laid[account_id] = own
    made = replace(bundle, overlays=overlays)
    if not bundle.rules:
        return made
    fitting = _fitting(RuleSet(rules.rules, laid), bundle)
    return replace(made, rules={**bundle.rules, RULES: fitting.to_json().decode()})


def _fitting(rules: RuleSet, bundle: Bundle) -> RuleSet:
    """The rule set without overlays of rules and parameters that it lacks."""
    from anomalyze.features.spec import FeatureSpec  # here: it loads compiled code

    columns = ColumnTypes.of_features(FeatureSpec.from_yaml(bundle.features, "features.yaml").kinds)
    _, mistakes = check_rules(rules, columns)
    wrong = {mistake.path for mistake in mistakes if mistake.overlay}
    laid = {
        account: {
            rule_id: replace(
                one,
                parameters={
                    name: value
                    for name, value in one.parameters.items()
                    if (account, rule_id, "parameters", name) not in wrong
                },
            )
            for rule_id, one in by_rule.items()
            if (account, rule_id) not in wrong
        }
        for account, by_rule in rules.overlays.items()
    }
    return RuleSet(rules.rules, {account: by_rule for account, by_rule in laid.items() if by_rule})


def with_newest_documents(bundle: Bundle, other: Bundle) -> Bundle:
    """The bundle with those saved documents of another that are newer than its own; itself where none is."""
    newer = {
        account: document_of(other, account)
        for account in other.overlays
        if version_of(other, account) > version_of(bundle, account)
    }
    return with_documents(bundle, newer)


def core_id(bundle: Bundle) -> str:
    """What a bundle is apart from accounts' documents and the alert budget's fitted thresholds."""
    rules = dict(bundle.rules)
    if RULES in rules:
        rules[RULES] = RuleSet(rule_set_of(bundle).rules).to_json().decode()
    return replace(with_thresholds(bundle, {}), overlays={}, rules=rules).id


def account_policies(bundle: Bundle, policy: Policy) -> dict[str, Policy]:
    """The policy of each account that has thresholds of its own.

    Raises
    ------
    ContractError
        An overlay is malformed.
    """
    found: dict[str, Policy] = {}
    for account_id, overlay in bundle.overlays.items():
        if overlay.get("thresholds"):
            found[account_id] = _laid_over(policy, document_of(bundle, account_id).document.thresholds)
    return found


def _laid_over(policy: Policy, own: Thresholds) -> Policy:
    statistics = {
        name: getattr(own, name)
        for name in ("amount_base_min", "robust_z", "iqr", "two_quantile")
        if getattr(own, name) is not None
    }
    caps = {
        name: asked
        for name, asked in own.caps.model_dump().items()
        if asked is not None and Severity[asked] < Severity[getattr(policy.caps, name)]
    }
    changed: dict[str, Any] = {
        "statistics": policy.statistics.model_copy(update=statistics),
        "caps": policy.caps.model_copy(update=caps),
    }
    if own.model is not None:
        changed["model"] = policy.model.model_copy(update={"levels": own.model})
    if own.supervised is not None:
        changed["supervised"] = policy.supervised.model_copy(update={"levels": own.supervised})
    return policy.model_copy(update=changed)


def account_rates(bundle: Bundle) -> dict[str, RateTable]:
    """Tables of the accounts that have their own. Raises ``ContractError`` where one cannot be read."""
    found: dict[str, RateTable] = {}
    for account_id, overlay in bundle.overlays.items():
        if overlay.get("currency_rates"):
            try:
                found[account_id] = RateTable.parse(overlay["currency_rates"], f"{account_id}.currency_rates")
            except ConfigError as error:
                raise ContractError(f"bundle {bundle.id}: {error}") from error
    return found
