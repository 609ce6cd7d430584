"""Anomstack's templates, rendered once: they know no time, so that what they give is the same at each of its runs.

Sets, loops, conditions and includes are followed, within bounds; what calls or defines anything is refused by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from anomalyze.errors import ConfigError

__all__ = ["TEXT_MAX", "is_template", "render_once", "sole_include"]

TEXT_MAX = 1 << 20
# Turns of all loops of a template together, and files that it includes.
TURNS_MAX = 100_000
INCLUDES_MAX = 100
FILTERS = (
    "upper",
    "lower",
    "replace",
    "join",
    "default",
    "trim",
    "length",
    "int",
    "first",
    "last",
    "capitalize",
)
_ALLOWED = (
    nodes.Template, nodes.Scope, nodes.Output, nodes.TemplateData, nodes.Name, nodes.NSRef, nodes.Getattr,
    nodes.Getitem, nodes.Const, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Filter, nodes.Keyword,
    nodes.If, nodes.For, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg,
    nodes.Add, nodes.Sub, nodes.Concat, nodes.Assign, nodes.Test,
)  # fmt: skip


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox that counts the turns of loops."""

    def __init__(self) -> None:
        super().__init__(autoescape=False)  # SQL and Python, not HTML
        self.globals.clear()
        self.filters = {name: self.filters[name] for name in FILTERS} | {"_counted": self._counted}
        self._turns = 0

    def _counted(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._turns += 1
            if self._turns > TURNS_MAX:
                raise ConfigError(f"expected at most {TURNS_MAX:,} turns of loops, got more")
            yield item


def is_template(text: str) -> bool:
    """Whether a text has anything to render."""
    return any(mark in text for mark in ("{{", "{%", "{#"))


def sole_include(text: str) -> str | None:
    """The file, when a template is nothing but its inclusion."""
    try:
        body = _Environment().parse(text).body
    except TemplateError:
        return None
    parts = [
        one
        for one in body
        if not (isinstance(one, nodes.Output) and not "".join(map(_data, one.nodes)).strip())
    ]
    if len(parts) == 1 and isinstance(parts[0], nodes.Include) and isinstance(parts[0].template, nodes.Const):
        return _within(str(parts[0].template.value))
    return None


def render_once(text: str, variables: Mapping[str, Any], read: Callable[[str], str]) -> str:
    """The text that a template gives.

    Parameters
    ----------
    variables
        What it may name; a name that is not there gives nothing, as in Anomstack.
    read
        Gives the text of an included file.

    Raises
    ------
    ConfigError
        It cannot be rendered, or does what is not followed here; the message names it with its line.

    Examples
    --------
    >>> render_once("{% for one in ['a', 'b'] %}{{ one }}_{{ kind }};{% endfor %}", {"kind": "x"}, str)
    'a_x;b_x;'
    """
    environment = _Environment()
    made: list[str] = []
    size = 0
    try:
        tree = environment.parse(text)
        _prepare(tree, environment, read, [INCLUDES_MAX])
        for part in environment.from_string(tree).generate(dict(variables)):
            size += len(part)
            if size > TEXT_MAX:
                raise ConfigError(f"expected a template that gives at most {TEXT_MAX:,} characters, got more")
            made.append(part)
    except TemplateSyntaxError as error:
        raise ConfigError(f"expected a template, got on its line {error.lineno}: {error.message}") from None
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise ConfigError(f"the template cannot be rendered: {type(error).__name__}: {error}") from None
    return "".join(made)


def _prepare(
    node: nodes.Node, environment: _Environment, read: Callable[[str], str], left: list[int]
) -> None:
    """Put included files in their places, count loops, and refuse what is not followed."""
    for name, value in node.iter_fields():
        if isinstance(value, list):
            setattr(node, name, [_included(one, environment, read, left) for one in value])
    for child in node.iter_child_nodes():
        if not isinstance(child, _ALLOWED):
            kind = type(child).__name__.lower()
            raise ConfigError(
                f"line {child.lineno} of the template: {kind} is not followed; write out what it gives"
            )
        if isinstance(child, nodes.Filter) and child.name not in FILTERS:
            raise ConfigError(
                f"line {child.lineno} of the template: the filter {child.name} is not followed; write out what it gives"
            )
        _prepare(child, environment, read, left)
        if isinstance(child, nodes.For):
            if child.recursive:
                raise ConfigError(f"line {child.lineno} of the template: a recursive loop is not followed")
            child.iter = nodes.Filter(child.iter, "_counted", [], [], None, None, lineno=child.lineno)


def _included(node: Any, environment: _Environment, read: Callable[[str], str], left: list[int]) -> Any:
    if not isinstance(node, nodes.Include):
        return node
    if not isinstance(node.template, nodes.Const):
        raise ConfigError(f"line {node.lineno} of the template: expected an include of a file by its name")
    left[0] -= 1
    if left[0] < 0:
        raise ConfigError(f"expected at most {INCLUDES_MAX} included files, got more")
    inner = environment.parse(read(_within(str(node.template.value))))
    return nodes.Scope(inner.body, lineno=node.lineno)


def _within(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _data(node: nodes.Node) -> str:
    return node.data if isinstance(node, nodes.TemplateData) else "?"
