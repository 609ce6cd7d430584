"""YAML with places: where a value stands, what is refused, and that nothing crashes or grows."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from pydantic import Field

from anomalyze.config import (
    ConfigProblems,
    Problem,
    StrictModel,
    load_document,
    parse_document,
    problems_of,
    validate,
)
from anomalyze.config.document import MAX_BYTES, MAX_DEPTH
from anomalyze.errors import ConfigError

TEXT = """\
first: 1
second:
  - {name: one, when: a > 1}
  - name: two
    when: >
      a > 1
      AND b > 2
    note: "quoted b > 2"
"""


def test_every_value_has_its_place() -> None:
    document = parse_document(TEXT, "f.yaml")
    assert document.data["second"][1]["when"] == "a > 1 AND b > 2\n"
    assert document.place(("first",)) == (1, 8)
    assert document.place(("second", 0, "when")) == (3, 23)
    assert document.place(("second", 1)) == (4, 5)
    assert document.place(("second", 7, "name")) == (3, 3)
    assert document.place_of_key(("second", 1, "when")) == (5, 5)
    assert document.place_of_key(("second", 1, "missing")) == (4, 5)


def test_a_place_within_text_is_found_in_every_style() -> None:
    document = parse_document(TEXT, "f.yaml")
    assert document.place_within(("second", 0, "when"), 4) == (3, 27)
    assert document.place_within(("second", 1, "when"), "a > 1 AND b > 2".index("b")) == (7, 11)
    assert document.place_within(("second", 1, "note"), 7) == (8, 19)
    assert document.place_within(("first",), 0) == (1, 8)


def test_countries_are_text() -> None:
    data = parse_document("a: [NO, on, off, y, n, yes]\nb: [true, False]\nc: 007", "f").data
    assert data == {"a": ["NO", "on", "off", "y", "n", "yes"], "b": [True, False], "c": 7}


def test_numbers_are_what_they_look_like() -> None:
    data = parse_document("a: [10:30, 010, 0x1f, 1_000, -5, 1e3, .5, -.inf, 1.2.3, 190:20:30.15]", "f").data
    assert data == {"a": ["10:30", 10, 31, 1000, -5, 1000.0, 0.5, float("-inf"), "1.2.3", "190:20:30.15"]}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: [1", 1, "expected YAML"),
        ("a: 1\n\tb: 2", 2, "got a tab"),
        ("a: 1\nb: 2\na: 3", 3, "a already on line 1"),
        ("a: &x 1", 1, "anchors"),
        ("a: 1\nb: *x", 2, "anchors"),
        ("[" * (MAX_DEPTH + 1), 1, f"at most {MAX_DEPTH} levels"),
        ("a: !!python/object/apply:os.system ['true']", 1, "expected YAML"),
        ("a: 1\n---\nb: 2", 2, "expected YAML"),
        ("a: 2023-99-99", 1, "expected YAML"),
        ("a: \x00", 1, "expected YAML"),
        ("? [1, 2]\n: 3", 1, "expected YAML"),
    ],
)
def test_what_is_not_plain_yaml_is_refused_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(ConfigProblems) as refused:
        parse_document(text, "f.yaml")
    problem = refused.value.problems[0]
    assert (problem.file, problem.line) == ("f.yaml", line)
    assert words in problem.message


def test_aliases_cannot_blow_up() -> None:
    bomb = "a0: &a0 [x, x]\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60))
    before = time.thread_time()
    with pytest.raises(ConfigProblems):
        parse_document(bomb, "f")
    assert time.thread_time() - before < 0.5


def test_large_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_text("a: " + "x" * MAX_BYTES)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: \xe9")
    for path in (large, latin, tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(ConfigProblems) as refused:
            load_document(path)
        assert str(path) in str(refused.value)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab1:-[]{}#&*!|>'\"\n ?,%@`\t", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigProblems):
        parse_document(text, "f")


class Inner(StrictModel):
    size: int = Field(gt=0)
    colour: str = "red"


class Outer(StrictModel):
    inner: list[Inner]
    by_name: dict[str, Inner] = Field(default={})


def test_every_mistake_is_told_with_place_and_suggestion() -> None:
    text = "inner:\n  - {size: 0, color: red}\n  - {}\nby_name:\n  x: {size: many}\nextra: 1\n"
    with pytest.raises(ConfigProblems) as refused:
        validate(parse_document(text, "f"), Outer)
    told = [(p.line, p.column, p.path, p.suggestion) for p in refused.value.problems]
    assert told == [
        (2, 12, "inner.0.size", ""),
        (2, 15, "inner.0.color", "colour"),
        (3, 5, "inner.1.size", ""),
        (5, 13, "by_name.x.size", ""),
        (6, 1, "extra", ""),
    ]
    assert "got 0" in refused.value.problems[0].message
    with pytest.raises(ConfigProblems, match="keys and values"):
        validate(parse_document("- 1", "f"), Outer)


def test_problems_of_other_loaders_keep_their_place() -> None:
    error = ConfigError("rules.yaml:3: caps.model: too high\nrates.yaml: expected a pivot\n")
    assert problems_of(error, "rates.yaml") == [
        Problem("rules.yaml", 3, 1, "caps.model", "too high"),
        Problem("rates.yaml", 1, 1, "", "expected a pivot"),
    ]
