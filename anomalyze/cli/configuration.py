"""The kinds of configuration files, each with the loader of its owner and its JSON Schema.

``check`` runs them in this order; a later kind may need what an earlier one loaded (rules need the names of
the features).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anomalyze.config import ConfigProblems, Document, Problem, closest, load_document, problems_of
from anomalyze.errors import ConfigError

__all__ = ["KINDS", "CheckResult", "ConfigKind", "check_configuration"]


@dataclass(slots=True)
class CheckResult:
    """What checking a folder came to.

    Attributes
    ----------
    problems
        Every mistake of every file.
    files
        Files read, by name.
    loaded
        What each kind loaded without a mistake, by the kind's name.
    """

    problems: list[Problem] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    loaded: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConfigKind:
    """One kind of file.

    Attributes
    ----------
    name
        Also the name of its schema.
    pattern
        Where it lies in the configuration folder.
    required
        Whether the folder must have one.
    load
        Gives what the files hold, or raises ``ConfigError`` with a mistake a line, or ``ConfigProblems``.
    schema
        Its JSON Schema.
    """

    name: str
    pattern: str
    required: bool
    load: Callable[[Sequence[Document], Path, CheckResult], Any]
    schema: Callable[[], dict[str, Any]]


def check_configuration(folder: Path) -> CheckResult:
    """Load every file of a configuration folder and collect every mistake."""
    result = CheckResult()
    if not folder.is_dir():
        message = "expected a folder with features.yaml, policy.yaml and rules/, got none"
        result.problems.append(Problem(str(folder), 1, 1, "", message))
        return result
    claimed: set[Path] = set()
    for kind in KINDS:
        paths = sorted(folder.glob(kind.pattern))
        claimed.update(paths)
        if not paths and kind.required:
            where = str(folder / kind.pattern)
            result.problems.append(Problem(where, 1, 1, "", "expected this file, got none"))
        result.files += [str(path) for path in paths]
        if paths:
            _load(kind, paths, folder, result)
    result.problems += _strangers(folder, claimed)
    result.problems = sorted(set(result.problems))
    return result


def _load(kind: ConfigKind, paths: Sequence[Path], folder: Path, result: CheckResult) -> None:
    documents: list[Document] = []
    sound = True
    for path in paths:
        try:
            documents.append(load_document(path))
        except ConfigProblems as error:
            result.problems += error.problems
            sound = False
    if not documents or (not sound and len(paths) == 1):
        return
    try:
        loaded = kind.load(documents, folder, result)
        if sound:
            result.loaded[kind.name] = loaded
    except ConfigError as error:
        result.problems += problems_of(error, str(paths[0]))


def _strangers(folder: Path, claimed: set[Path]) -> list[Problem]:
    """Files that nothing reads: most often a misspelt name, whose content would silently not hold."""
    names = [kind.pattern.replace("*", "rules") for kind in KINDS]
    found: list[Problem] = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.suffix not in (".yaml", ".yml") or path in claimed or hidden or relative.parts[0] == "schema":
            continue
        message = (
            f"no configuration file of this name is read; there are {', '.join(k.pattern for k in KINDS)}"
        )
        meant = closest(str(relative.with_suffix(".yaml")), names)
        if relative.parts[0] == "rules":
            meant = str(relative.with_suffix(".yaml"))
        found.append(Problem(str(path), 1, 1, "", message, meant))
    return found


def _load_features(documents: Sequence[Document], folder: Path, result: CheckResult) -> Any:
    from anomalyze.features.spec import FeatureSpec

    return FeatureSpec.load(Path(documents[0].file))


def _features_schema() -> dict[str, Any]:
    from anomalyze.features.spec import FeatureDocument

    return FeatureDocument.model_json_schema()


def _load_policy(documents: Sequence[Document], folder: Path, result: CheckResult) -> Any:
    from anomalyze.config import validate
    from anomalyze.detection.policy import Policy

    return validate(documents[0], Policy)


def _policy_schema() -> dict[str, Any]:
    from anomalyze.detection.policy import policy_schema

    return policy_schema()


def _load_rates(documents: Sequence[Document], folder: Path, result: CheckResult) -> Any:
    from anomalyze.config import validate
    from anomalyze.config.tables import RatesFile
    from anomalyze.events.money import RateTable

    validate(documents[0], RatesFile)
    return RateTable.load(Path(documents[0].file))


def _rates_schema() -> dict[str, Any]:
    from anomalyze.config.tables import RatesFile

    return RatesFile.model_json_schema()


def _load_places(documents: Sequence[Document], folder: Path, result: CheckResult) -> Any:
    from anomalyze.config import validate
    from anomalyze.config.tables import PlacesFile
    from anomalyze.events.gazetteer import Gazetteer

    validate(documents[0], PlacesFile)
    return Gazetteer.load(folder)


def _places_schema() -> dict[str, Any]:
    from anomalyze.config.tables import PlacesFile

    return PlacesFile.model_json_schema()


def _load_rules(documents: Sequence[Document], folder: Path, result: CheckResult) -> Any:
    from anomalyze.rules.column import ColumnTypes
    from anomalyze.rules.file import parse_rule_files

    spec = result.loaded.get("features")
    if spec is None:
        message = "rules are checked once features.yaml has no mistake"
        raise ConfigProblems([Problem(str(folder / "rules"), 1, 1, "", message)])
    rule_set, problems = parse_rule_files(list(documents), ColumnTypes.of_features(spec.kinds))
    if problems:
        raise ConfigProblems(problems)
    return rule_set


def _rules_schema() -> dict[str, Any]:
    from anomalyze.rules.file import RulesFile

    return RulesFile.model_json_schema()


def _load_uploads(documents: Sequence[Document], folder: Path, result: CheckResult) -> Any:
    from anomalyze.config import validate
    from anomalyze.ingestion.account import UploadsFile

    return [validate(document, UploadsFile) for document in documents]


def _uploads_schema() -> dict[str, Any]:
    from anomalyze.ingestion.account import UploadsFile

    return UploadsFile.model_json_schema()


def _load_sources(documents: Sequence[Document], folder: Path, result: CheckResult) -> Any:
    from anomalyze.ingestion.source import parse_sources

    return parse_sources(list(documents))


def _sources_schema() -> dict[str, Any]:
    from anomalyze.ingestion.source import SourceFile

    return SourceFile.model_json_schema()


def _load_accounts(documents: Sequence[Document], folder: Path, result: CheckResult) -> Any:
    from anomalyze.detection.account import load_account_files
    from anomalyze.rules.column import ColumnTypes

    spec, rules, policy = (result.loaded.get(name) for name in ("features", "rules", "policy"))
    if spec is None or rules is None or policy is None:
        message = "accounts are checked once features.yaml, policy.yaml and rules/ have no mistake"
        raise ConfigProblems([Problem(str(folder / "accounts"), 1, 1, "", message)])
    return load_account_files(list(documents), rules, ColumnTypes.of_features(spec.kinds), policy)


def _accounts_schema() -> dict[str, Any]:
    from anomalyze.detection.account import AccountDocument

    return AccountDocument.model_json_schema()


def _load_metrics_defaults(documents: Sequence[Document], folder: Path, result: CheckResult) -> Any:
    from anomalyze.config import validate
    from anomalyze.metrics.batch import BatchDefaults

    return validate(documents[0], BatchDefaults)


def _metrics_defaults_schema() -> dict[str, Any]:
    from anomalyze.metrics.batch import BatchDefaults

    return BatchDefaults.model_json_schema()


def _load_metrics(documents: Sequence[Document], folder: Path, result: CheckResult) -> Any:
    from anomalyze.metrics.library import load_batches

    # Reads the folder itself: a batch is its file, the defaults and the environment together.
    loaded = load_batches(folder)
    if loaded.problems:
        raise ConfigProblems(loaded.problems)
    return loaded.batches


def _metrics_schema() -> dict[str, Any]:
    from anomalyze.metrics.batch import Batch

    return Batch.model_json_schema()


KINDS: tuple[ConfigKind, ...] = (
    ConfigKind("features", "features.yaml", True, _load_features, _features_schema),
    ConfigKind("currency_rates", "currency_rates.yaml", True, _load_rates, _rates_schema),
    ConfigKind("places", "places.yaml", False, _load_places, _places_schema),
    ConfigKind("policy", "policy.yaml", True, _load_policy, _policy_schema),
    ConfigKind("rules", "rules/*.yaml", True, _load_rules, _rules_schema),
    ConfigKind("accounts", "accounts/*.yaml", False, _load_accounts, _accounts_schema),
    ConfigKind("uploads", "uploads/*.yaml", False, _load_uploads, _uploads_schema),
    ConfigKind("sources", "sources/*.yaml", False, _load_sources, _sources_schema),
    ConfigKind(
        "metrics_defaults",
        "metrics/_defaults.yaml",
        False,
        _load_metrics_defaults,
        _metrics_defaults_schema,
    ),
    ConfigKind("metrics", "metrics/**/[!_]*.yaml", False, _load_metrics, _metrics_schema),
)
