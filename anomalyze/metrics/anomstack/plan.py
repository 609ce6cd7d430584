"""What an import would write: files by name, and what could not be carried over, by file and line. Nothing is written."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from anomalyze.config import ConfigProblems, parse_document
from anomalyze.errors import ConfigError
from anomalyze.metrics.anomstack.folder import DEFAULTS_FILE, Folder, Note
from anomalyze.metrics.anomstack.function import ADAPTER, adapt_function
from anomalyze.metrics.anomstack.schedule import convert_schedule, step_of
from anomalyze.metrics.anomstack.source import KINDS, build_source
from anomalyze.metrics.anomstack.spec import Spec
from anomalyze.metrics.anomstack.sql import adapt_sql
from anomalyze.metrics.anomstack.template import is_template, render_once, sole_include
from anomalyze.metrics.anomstack.treatment import build_treatment, resample_of, tags_of
from anomalyze.metrics.batch import NAME
from anomalyze.metrics.duration import format_duration, parse_duration
from anomalyze.metrics.library import BATCHES_MAX
from anomalyze.metrics.source_file import SQL_KINDS

__all__ = ["GENERAL", "Imported", "Plan", "plan_import"]

NAME_LENGTH_MAX = 64
SCHEMA_LINE = "# yaml-language-server: $schema="
LEFT_MODELS = (
    "Models, train_max_n and the features of preprocess_params are not carried over: the detectors here learn from each "
    "value as it comes, and remember up to 8,000 of a metric. --keep-models has the models instead."
)
KEPT_MODELS = (
    "Models learn from the newest train_max_n values of a metric and again each week, on lags_n values before and, where "
    "diff_n is not 0, differences; smoothing is not carried over, and alerts begin beyond 99.9 % of what training values score."
)
# What holds for whatever is imported: keys that are not carried over, and what is there instead.
GENERAL: tuple[tuple[str, str], ...] = (
    (r"(train|score|alert|change|plot|llmalert|delete|summary)_cron_schedule|\w+_default_schedule_status",
     "One run reads, scores and tells; its schedule is that of ingest, and it is on from the start."),
    (r"model_\w+|train_(max|min)_n|train_metric_timestamp\w+|score_\w+|preprocess_fn|preprocess_params",
     LEFT_MODELS),
    (r"alert_(threshold|smooth_n|recent_n|max_n|always|metric_timestamp\w+)|tholdalert_(recent_n|snooze_n)",
     "alert_threshold and its like are not carried over: an incident is one alert, with a severity; see alerts in docs/metrics.md."),
    (r"alert_methods|tholdalert_methods",
     "Mail and Slack are not carried over: alerts go to the log, their table, REST and the dashboard."),
    (r"change_(metric_timestamp\w+|max_n|smooth_n|snooze_n|threshold|detect_last_n)",
     "Changes are found by the detector level_shift, with thresholds of its own: see detectors in docs/metrics.md."),
    (r"llmalert_\w+|disable_llmalert|prompt_fn", "Alerts by a language model are not carried over."),
    (r"dashboard_\w+|disable_(dashboard|plot|summary|train)|summary_\w+",
     "All batches are on the page Metrics; there is no switch for pages, plots or the digest."),
    (r"ingest_metric_rounding", "Values are stored as they come, not rounded."),
)  # fmt: skip
_CARRIED = {
    "metric_batch", "db", "table_key", "ingest_sql", "ingest_fn", "ingest_cron_schedule", "alert_snooze_n",
    "change_exclude_metrics", "change_include_metrics", "disable_change",
    "alert_exclude_metrics", "train_exclude_metrics", "tholdalert_thresholds", "tholdalert_exclude_metrics",
    "disable_tholdalert", "disable_alert", "disable_score", "disable_ingest", "disable_batch", "disable_delete",
    "delete_after_n_days", "metric_tags",
}  # fmt: skip
# Anomstack's own ways over its own table; ours are built in.
_STEPS = re.compile(r"(train|score|alert|change|plot|llmalert|dashboard|delete|summary)_sql")


@dataclass(frozen=True, slots=True)
class Imported:
    """A batch of Anomstack's.

    Attributes
    ----------
    batch, file
        Its name there and where it stands.
    name
        Ours; empty when it cannot be imported.
    files
        What is written for it: text by file name, its YAML last.
    about
        Source, schedule and whether it is on, in a few words.
    notes
        What could not be carried over, or why it could not be imported, and what to do.
    packages
        That its Python imports and that are not installed here.
    """

    batch: str
    file: str
    name: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    about: str = ""
    notes: tuple[Note, ...] = ()
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Question:
    """What a batch asks: files beside its own, keys of it, whether its times are those of measuring, and notes."""

    files: dict[str, str]
    keys: dict[str, Any]
    is_measured: bool
    notes: list[Note]
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """All batches of a folder; ``notes`` are of no batch, ``general`` hold for all."""

    batches: tuple[Imported, ...]
    notes: tuple[Note, ...]
    general: tuple[str, ...]


def plan_import(
    folder: Folder,
    taken: Collection[str] = (),
    variables: Mapping[str, str] | None = None,
    schema: str = "",
    keep_models: bool = False,
) -> Plan:
    """Read a folder of Anomstack's.

    Parameters
    ----------
    taken
        Names that batches of ours have elsewhere.
    variables
        ``ANOMSTACK_…`` of the environment: overrides of batches, paths of databases.
    schema
        Path of the JSON Schema, as editors of the new files find it.
    keep_models
        Its models become PyOD's detectors of ours, in place of novelty and rarity.

    Raises
    ------
    ConfigError
        The folder cannot be read, or its defaults cannot.
    """
    variables = variables or {}
    notes: list[Note] = []
    defaults = _defaults(folder, notes)
    found: list[Imported] = []
    names = {*taken, "defaults"}
    keys = set(defaults)
    for file in folder.batch_files():
        if len(found) >= BATCHES_MAX:
            notes.append(Note(file, 1, f"expected at most {BATCHES_MAX:,} batches; the rest is left out"))
            break
        try:
            spec = _spec(folder, file, defaults, variables, notes, keep_models)
        except ConfigProblems as error:
            told = [Note(file, one.line, one.message) for one in error.problems]
            found.append(Imported(file.rpartition("/")[2], file, notes=tuple(told)))
            continue
        except ConfigError as error:
            found.append(Imported(file.rpartition("/")[2], file, notes=(Note(file, 1, str(error)),)))
            continue
        if spec is not None:
            keys |= set(spec.values)
            found.append(_import(spec, file, folder, names, variables, schema))
            names.add(found[-1].name)
    general = tuple(
        KEPT_MODELS if text == LEFT_MODELS and keep_models else text
        for pattern, text in GENERAL
        if any(re.fullmatch(pattern, key) for key in keys)
    )
    return Plan(tuple(found), (*folder.notes, *notes), general if found else ())


def _defaults(folder: Folder, notes: list[Note]) -> dict[str, Any]:
    try:
        text = folder.read(DEFAULTS_FILE)
    except ConfigError:
        notes.append(Note(DEFAULTS_FILE, 1, "there is none to read: Anomstack's own defaults hold"))
        return {}
    data = parse_document(text, DEFAULTS_FILE).data
    if data is not None and not isinstance(data, dict):
        raise ConfigError(f"{DEFAULTS_FILE}: expected keys and values, got {str(data)[:80]}")
    return data or {}


def _spec(
    folder: Folder,
    file: str,
    defaults: Mapping[str, Any],
    variables: Mapping[str, str],
    notes: list[Note],
    keep_models: bool,
) -> Spec | None:
    document = parse_document(folder.read(file), file)
    if not isinstance(document.data, dict) or not document.data.get("metric_batch"):
        notes.append(Note(file, 1, "it has no metric_batch, and is no batch"))
        return None
    return Spec(file, document, defaults, variables, keep_models)


def _import(
    spec: Spec, file: str, folder: Folder, names: Collection[str], variables: Mapping[str, str], schema: str
) -> Imported:
    name, notes = _name(spec, names)
    try:
        asked = _question(spec, name, folder, variables)
        document, more = _document(spec, asked)
    except ConfigError as error:
        key = "ingest_sql" if spec.values.get("ingest_sql") else "ingest_fn"
        return Imported(spec.name, file, notes=(spec.note(key, f"not imported: {error}"),))
    notes += [*asked.notes, *more]
    notes += [
        spec.note(key, f"{key} {_why(key)}")
        for key in spec.own
        if key not in _CARRIED and not any(re.fullmatch(pattern, key) for pattern, _ in GENERAL)
    ]
    notes += [spec.note(key, f"{key} comes from the environment") for key in spec.overrides]
    is_on = document.get("enabled", True)
    if spec.flag("disable_ingest") and not spec.flag("disable_batch"):
        notes.append(spec.note("disable_ingest", "it reads nothing there, and is off here (enabled: false)"))
    kind = document["source"]["kind"] if "source" in document else "python"
    about = f"{kind}, {document['schedule']}{'' if is_on else ', off'}"
    files = asked.files | {f"{name}.yaml": _yaml(document, file, notes, schema)}
    return Imported(spec.name, file, name, files, about, tuple(notes), asked.packages)


def _why(key: str) -> str:
    if _STEPS.fullmatch(key):
        return "is not carried over: what it does is built in"
    return "is not known, and not carried over"


def _name(spec: Spec, names: Collection[str]) -> tuple[str, list[Note]]:
    """A name that our files may have and none has yet."""
    made = re.sub(r"[^a-z0-9]+", "_", spec.name.lower()).strip("_")[:NAME_LENGTH_MAX].strip("_") or "batch"
    if made in names:
        stem = made[: NAME_LENGTH_MAX - 12].strip("_")
        tries = (f"{stem}_anomstack", *(f"{stem}_anomstack_{n}" for n in range(2, BATCHES_MAX)))
        made = next(one for one in tries if one not in names)
    assert re.match(NAME, made)
    note = f"the batch {spec.name} is called {made} here"
    return made, [] if made == spec.name else [spec.note("metric_batch", note)]


def _document(spec: Spec, asked: _Question) -> tuple[dict[str, Any], list[Note]]:
    """The content of our batch, and notes."""
    cron, changed = convert_schedule(spec.text("ingest_cron_schedule"))
    notes = [spec.note("ingest_cron_schedule", changed)] if changed else []
    step = step_of(cron)
    tags, of_tags = tags_of(spec)
    document: dict[str, Any] = {"description": f"{spec.name}, from Anomstack", "tags": tags}
    if spec.flag("disable_batch") or spec.flag("disable_ingest"):
        document["enabled"] = False
    preprocessing, of_steps = resample_of(spec, asked.is_measured)
    window = max(parse_duration("2d"), parse_duration(step))
    if preprocessing:
        window = max(window, 2 * parse_duration(preprocessing["resample"]))
        document["preprocessing"] = preprocessing
    # It reads the same whatever the window, so that a history of its own would be asked for the same again and again.
    told = format_duration(window)
    document |= asked.keys
    document |= {"schedule": cron, "timezone": "UTC", "step": step, "window": told, "history": told}
    treatment, of_treatment = build_treatment(spec, step)
    return document | treatment, [*notes, *of_tags, *of_steps, *of_treatment]


def _question(spec: Spec, name: str, folder: Folder, variables: Mapping[str, str]) -> _Question:
    if spec.text("ingest_sql").strip():
        return _sql(spec, name, folder, variables)
    if spec.text("ingest_fn").strip():
        return _function(spec, name, folder)
    raise ConfigError("expected ingest_sql or ingest_fn, got neither")


def _sql(spec: Spec, name: str, folder: Folder, variables: Mapping[str, str]) -> _Question:
    text = spec.text("ingest_sql")
    dialect = SQL_KINDS.get(KINDS.get(spec.text("db").strip().lower(), ""), "")
    included = sole_include(text)
    source_text = folder.read(included) if included is not None else text
    adapted = adapt_sql(render_once(text, spec.values, folder.read), dialect)
    built = build_source(spec, adapted.tables, variables)
    told = [*adapted.notes, *built.notes]
    if is_template(source_text):
        told.append("its template is written out: what it gave there, it gives here")
    if adapted.is_of_now is None:
        told.append(
            "whether its timestamps tell of now cannot be seen: where they do, add `timestamps: measured`"
        )
    keys: dict[str, Any] = {"source": built.source, "sql_file": f"{name}.sql"}
    if adapted.is_of_now:
        keys["timestamps"] = "measured"
    files = {f"{name}.sql": f"-- From Anomstack: {_line(included or spec.name)}\n{adapted.text.rstrip()}\n"}
    return _Question(files, keys, bool(adapted.is_of_now), [spec.note("ingest_sql", one) for one in told])


def _function(spec: Spec, name: str, folder: Folder) -> _Question:
    text = spec.text("ingest_fn")
    included = sole_include(text)
    code = folder.read(included) if included is not None else ""
    if included is None or is_template(code):
        code = render_once(text, spec.values, folder.read)
    adapted = adapt_function(code)
    notes = [
        Note(included, line, one) if included is not None else spec.note("ingest_fn", one)
        for line, one in adapted.needs
    ]
    keys = {"python": f"ingest_{name}:{ADAPTER}", "timestamps": "measured"}
    return _Question({f"ingest_{name}.py": adapted.text}, keys, True, notes, adapted.packages)


def _yaml(document: Mapping[str, Any], file: str, notes: Sequence[Note], schema: str) -> str:
    lines = [f"{SCHEMA_LINE}{schema}"] if schema else []
    lines.append(f"# From Anomstack: {_line(file)}")
    lines += [f"# {_line(note.text)}" for note in notes]
    text = yaml.safe_dump(
        dict(document), sort_keys=False, allow_unicode=True, default_flow_style=None, width=110
    )
    return "\n".join(lines) + "\n" + text


def _line(text: str) -> str:
    """Text of others on one line, as a comment must be."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
