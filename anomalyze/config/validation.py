"""A document held against a pydantic model: every mistake, with its place and a suggestion."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from anomalyze.config.document import Document
from anomalyze.config.problem import ConfigProblems, Problem, closest

__all__ = ["StrictModel", "validate"]

Model = TypeVar("Model", bound=BaseModel)
_SHOWN_MAX = 80
# Whoever has more of them in one file has one mistake: each costs a look for what was meant.
PROBLEMS_MAX = 100
# In an address that was written where the name of its variable belongs.
_PASSWORD = re.compile(r"://[^\s/@]*@")


class StrictModel(BaseModel):
    """Base of what configuration files hold: no unknown key, no change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def validate(document: Document, model: type[Model]) -> Model:
    """The document as a model.

    Raises
    ------
    ConfigProblems
        Every mistake in it.
    """
    data = {} if document.data is None else document.data
    if not isinstance(data, dict):
        message = f"expected keys and values, got {_shown(data)}"
        raise ConfigProblems([document.problem((), message)])
    try:
        return model.model_validate(data)
    except ValidationError as error:
        schema = model.model_json_schema()
        items = error.errors(include_url=False)
        problems = _once_a_place(_problem(document, item, schema) for item in items[:PROBLEMS_MAX])
        if len(items) > PROBLEMS_MAX:
            message = f"expected fewer mistakes, got {len(items):,}: the first {PROBLEMS_MAX} are told"
            problems.append(document.problem((), message))
        raise ConfigProblems(sorted(problems)) from None


def _once_a_place(problems: Iterable[Problem]) -> list[Problem]:
    """Each mistake once; of a value that is none of several kinds, one that names them all."""
    by_place: dict[tuple[str, int, int, str, str], list[Problem]] = {}
    for problem in problems:
        got = problem.message.rpartition(", got ")[2]
        by_place.setdefault((problem.file, problem.line, problem.column, problem.path, got), []).append(
            problem
        )
    found = []
    for same in by_place.values():
        kinds = list(
            dict.fromkeys(one.message.removeprefix("expected ").rpartition(", got ")[0] for one in same)
        )
        got = same[0].message.rpartition(", got ")[2]
        message = same[0].message if len(kinds) == 1 else f"expected {' or '.join(kinds)}, got {got}"
        found.append(replace(same[0], message=message))
    return found


def _problem(document: Document, item: Any, schema: Mapping[str, Any]) -> Problem:
    path = tuple(_steps_in(document, item["loc"]))
    known = _schema_at(schema, path[:-1], document.data).get("properties", {})
    if item["type"] == "extra_forbidden":
        message = f"expected one of {', '.join(known)}, got the key {path[-1]}"
        return document.problem_at_key(path, message, closest(str(path[-1]), known))
    if item["type"] == "missing":
        return document.problem(path, f"expected the key {path[-1]}, got none")
    if item["type"] == "union_tag_not_found":
        path = (*path, item["ctx"]["discriminator"].strip("'"))
        return document.problem(path, f"expected the key {path[-1]}, got none")
    meant = ""
    if item["type"] == "union_tag_invalid":
        path = (*path, item["ctx"]["discriminator"].strip("'"))
        words = item["ctx"]["expected_tags"].replace("'", "").split(", ")
        message = f"expected one of {', '.join(words)}, got {_shown(item['ctx']['tag'])}"
        return document.problem(path, message, closest(str(item["ctx"]["tag"]), words))
    if item["type"] in ("literal_error", "enum") and isinstance(item["input"], str):
        words = [str(word) for word in _schema_at(schema, path, document.data).get("enum", [])]
        meant = closest(item["input"], words)
    message = item["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if item["type"] == "string_pattern_mismatch":
        described = known.get(path[-1], {}).get("description") if path else None
        described = described or _schema_at(schema, path, document.data).get("description")
        message = (
            f"expected {described}" if described else message.replace("String should", "expected text to")
        )
    if item["type"] == "value_error" and isinstance(item["input"], dict | BaseModel) and ", got " in message:
        return document.problem(path, message)  # it told what came; the whole would hide it
    return document.problem(path, f"{message}, got {_shown(item['input'])}", meant)


def _steps_in(document: Document, location: Sequence[str | int]) -> list[str | int]:
    """The part of pydantic's location that the file knows: branches of unions are left out."""
    value: Any = document.data
    steps: list[str | int] = []
    for index, step in enumerate(location):
        if (isinstance(value, dict) and step in value) or (
            isinstance(value, list) and isinstance(step, int) and step < len(value)
        ):
            inner: Any = step
            value = value[inner]
        elif index < len(location) - 1 or not isinstance(value, dict):
            continue
        steps.append(step)
    return steps


def _schema_at(schema: Mapping[str, Any], path: Sequence[str | int], data: Any) -> Mapping[str, Any]:
    """Part of a JSON Schema that describes the value at ``path`` of ``data``; empty when it is not plain."""
    here: Any = schema
    for step in (*path, None):
        while "$ref" in here or "anyOf" in here or "discriminator" in here:
            if "$ref" in here:
                here = schema["$defs"][here["$ref"].rsplit("/", 1)[1]]
            elif "discriminator" in here:  # the branch that the value's own key names
                tag = here["discriminator"]
                named = data.get(tag["propertyName"]) if isinstance(data, dict) else None
                here = {"$ref": tag["mapping"][named]} if named in tag["mapping"] else {}
            else:  # what may be left out: its only other branch
                here = next(branch for branch in here["anyOf"] if branch.get("type") != "null")
        if step is None:
            break
        if isinstance(step, int):
            here = here.get("items", {})
            data = data[step] if isinstance(data, list) and step < len(data) else None
        else:
            here = here.get("properties", {}).get(step) or here.get("additionalProperties") or {}
            data = data.get(step) if isinstance(data, dict) else None
        if not isinstance(here, dict):
            return {}
    return here if isinstance(here, dict) else {}


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    text = _PASSWORD.sub("://…@", text)
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 1] + "…"
