"""A YAML file as plain values, with the line and column of every part.

YAML is read as version 1.2 does: only ``true`` and ``false`` are truth values, so that a list of countries
may hold ``NO``; ``10:30`` is text and ``010`` is ten. Anchors and aliases are refused: short files need none, and they can make a small file huge.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from anomalyze.config.problem import ConfigProblems, Problem

__all__ = ["MAX_BYTES", "MAX_DEPTH", "Document", "load_document", "parse_document"]

MAX_BYTES = 1 << 20
MAX_DEPTH = 20

_BOOL, _INT, _FLOAT = (f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float"))
_WHITE = " \t\r\n"


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML with the truth values and numbers of version 1.2; compiled where it can be, ten times as fast."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_BOOL, _INT, _FLOAT)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    _INT, re.compile("^(?:[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)


def _whole(loader: _Loader, node: yaml.ScalarNode) -> int:
    written = node.value.replace("_", "")
    return int(written, {"0x": 16, "0o": 8}.get(written[:2], 10))


_Loader.add_constructor(_INT, _whole)


class Document:
    """A parsed file.

    Attributes
    ----------
    file
        Its name, as mistakes show it.
    text
        As it was written.
    data
        Its content as plain values; None when empty.
    """

    def __init__(self, file: str, text: str, data: Any, root: yaml.Node | None) -> None:
        self.file = file
        self.data = data
        self.text = text
        self._root = root

    def problem(
        self, path: Sequence[str | int], message: str, suggestion: str = "", offset: int | None = None
    ) -> Problem:
        """A mistake at the value (or, failing that, the key) that ``path`` leads to.

        ``offset`` is an index into the value when that is text.
        """
        line, column = self.place(path) if offset is None else self.place_within(path, offset)
        return Problem(self.file, line, column, ".".join(map(str, path)), message, suggestion)

    def problem_at_key(self, path: Sequence[str | int], message: str, suggestion: str = "") -> Problem:
        """A mistake at the key that ends ``path``."""
        line, column = self.place_of_key(path)
        return Problem(self.file, line, column, ".".join(map(str, path)), message, suggestion)

    def place(self, path: Sequence[str | int]) -> tuple[int, int]:
        """Line and column, from 1, of the deepest part of ``path`` that the file has."""
        node = self._node(path)
        return (1, 1) if node is None else (node.start_mark.line + 1, node.start_mark.column + 1)

    def place_of_key(self, path: Sequence[str | int]) -> tuple[int, int]:
        """Line and column of the key that ends ``path``."""
        parent = self._node(path[:-1])
        for key, _ in parent.value if isinstance(parent, yaml.MappingNode) else ():
            if key.value == str(path[-1]):
                return key.start_mark.line + 1, key.start_mark.column + 1
        return self.place(path)

    def place_within(self, path: Sequence[str | int], offset: int) -> tuple[int, int]:
        """Line and column of a character of a text value, also in folded text.

        White space differs between a value and how it is written; all other characters are the same unless
        escaped, so the place is found by counting them.
        """
        node = self._node(path)
        if not isinstance(node, yaml.ScalarNode):
            return self.place(path)
        position = node.start_mark.index
        if node.style in ("|", ">"):
            position = self.text.find("\n", position) + 1
        elif node.style:
            position += 1
        wanted = sum(character not in _WHITE for character in node.value[:offset])
        while position < node.end_mark.index:
            if self.text[position] not in _WHITE:
                if not wanted:
                    break
                wanted -= 1
            position += 1
        line_start = self.text.rfind("\n", 0, position) + 1
        return self.text.count("\n", 0, position) + 1, position - line_start + 1

    def _node(self, path: Sequence[str | int]) -> yaml.Node | None:
        node = self._root
        for step in path:
            inner: yaml.Node | None = None
            if isinstance(node, yaml.MappingNode):
                inner = next((value for key, value in node.value if key.value == str(step)), None)
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                inner = node.value[step]
            if inner is None:
                return node
            node = inner
        return node


def load_document(path: Path, file: str = "") -> Document:
    """Read a YAML file; ``file`` is the name that mistakes show.

    Raises
    ------
    ConfigProblems
        Unreadable, too large, or not plain YAML.
    """
    name = file or str(path)
    try:
        # A pipe would be waited for, and a device such as /dev/zero has no end.
        if path.exists() and not path.is_file():
            message = f"expected a file, got {'a folder' if path.is_dir() else 'a pipe or a device'}"
            raise ConfigProblems([Problem(name, 1, 1, "", message)])
        if path.stat().st_size > MAX_BYTES:
            message = f"expected at most {MAX_BYTES:,} bytes, got {path.stat().st_size:,}"
            raise ConfigProblems([Problem(name, 1, 1, "", message)])
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigProblems(
            [Problem(name, 1, 1, "", f"expected a readable UTF-8 file, got {error}")]
        ) from error
    return parse_document(text, name)


def parse_document(text: str, file: str) -> Document:
    """Parse YAML text.

    Raises
    ------
    ConfigProblems
        Not YAML, a key twice, anchors or aliases, or nested deeper than ``MAX_DEPTH``.
    """
    try:
        _check_events(text, file)
        root = yaml.compose(text, Loader=_Loader)
        problems = _double_keys(root, file)
        if problems:
            raise ConfigProblems(problems)
        data = None if root is None else _Loader(text).construct_document(root)
        return Document(file, text, data, root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        # What is never closed is missed behind the end.
        line = min(line, text.rstrip().count("\n") + 1)
        message = f"expected YAML, got: {error.problem}"
        if mark and text.split("\n")[line - 1].lstrip(" ").startswith("\t"):
            message = "expected spaces before the first word of a line, got a tab"
        raise ConfigProblems([Problem(file, line, column, "", message)]) from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigProblems([Problem(file, 1, 1, "", f"expected YAML, got: {error}")]) from error


def _check_events(text: str, file: str) -> None:
    """Refuse aliases and depth on the flat stream of events, before anything recurses."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        message = ""
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            message = "anchors and aliases are not used here; write the value out"
        elif depth > MAX_DEPTH:
            message = f"expected at most {MAX_DEPTH} levels"
        if message:
            mark = event.start_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            raise ConfigProblems([Problem(file, line, column, "", message)])


def _double_keys(root: yaml.Node | None, file: str) -> list[Problem]:
    found: list[Problem] = []
    stack: list[tuple[str, yaml.Node]] = [("", root)] if root is not None else []
    while stack:
        path, node = stack.pop()
        if isinstance(node, yaml.SequenceNode):
            stack += [(f"{path}.{i}", value) for i, value in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            continue
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, mark = str(key.value), key.start_mark
            inner = f"{path}.{name}".lstrip(".")
            if name in seen:
                message = f"expected each key once, got {name} already on line {seen[name]}"
                found.append(Problem(file, mark.line + 1, mark.column + 1, inner, message))
            seen[name] = mark.line + 1
            stack.append((inner, value))
    return sorted(found)
