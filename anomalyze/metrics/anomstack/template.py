"""Anomstack's templates, rendered once: they know no time, so that what they give is the same at each of its runs.

Sets, loops, conditions and includes are followed, within bounds; what calls or defines anything is refused by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, Undefined, nodes, runtime
from jinja2.sandbox import ImmutableSandboxedEnvironment

from anomalyze.errors import ConfigError

__all__ = ["TEXT_MAX", "is_template", "render_once", "sole_include"]

TEXT_MAX = 1 << 20
# Turns of all loops of a template together, and files that it includes.
TURNS_MAX = 100_000
INCLUDES_MAX = 100
NUMBER_MAX = 1e15
_ALLOWED = (
    nodes.Template, nodes.Scope, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Getattr, nodes.Getitem,
    nodes.Const, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Filter, nodes.Keyword, nodes.If, nodes.For,
    nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Assign, nodes.Test,
    nodes.Add, nodes.Sub, nodes.Mul, nodes.FloorDiv, nodes.Mod,
)  # fmt: skip


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox in which nothing grows beyond bounds: turns of loops, texts, numbers."""

    intercepted_binops = frozenset(["+", "-", "*", "//", "%"])

    def __init__(self) -> None:
        super().__init__(autoescape=False, finalize=_printed)  # SQL and Python, not HTML
        self.globals.clear()
        self.globals["range"] = _bounded_range
        kept = {name: self.filters[name] for name in ("default", "length", "int", "first", "last")}
        self.filters = kept | _TEXT_FILTERS | {"_counted": self._counted}
        self._turns = 0

    def call_binop(self, context: runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """Numbers with numbers, or texts and lists put together."""
        if isinstance(left, int | float) and isinstance(right, int | float):
            made = super().call_binop(context, operator, left, right)
            if abs(made) > NUMBER_MAX:
                raise ConfigError(f"expected numbers of at most {NUMBER_MAX:.0e}, got more")
            return made
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            return _joined([left, right])
        if operator == "+" and isinstance(left, list) and isinstance(right, list):
            if len(left) + len(right) > TURNS_MAX:
                raise ConfigError(f"expected lists of at most {TURNS_MAX:,} entries, got more")
            return left + right
        raise ConfigError(
            f"expected {operator} of two numbers, got {type(left).__name__} and {type(right).__name__}"
        )

    def _counted(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._turns += 1
            if self._turns > TURNS_MAX:
                raise ConfigError(f"expected at most {TURNS_MAX:,} turns of loops, got more")
            yield item


def _bounded_range(*ends: int) -> range:
    made = range(*ends)
    if len(made) > TURNS_MAX:
        raise ConfigError(f"expected a range of at most {TURNS_MAX:,}, got {len(made):,}")
    return made


def _printed(value: Any) -> str:
    """Text of a text, a number or nothing; a list within a list could be printed without end."""
    if value is None or isinstance(value, str | int | float | Undefined):
        return str(value)
    raise ConfigError(f"expected a text or a number, got {type(value).__name__}")


def _joined(parts: Iterable[Any], between: str = "") -> str:
    texts: list[str] = []
    size = 0
    for part in parts:
        texts.append(_printed(part))
        size += len(texts[-1]) + len(between)
        if size > TEXT_MAX:
            raise ConfigError(f"expected texts of at most {TEXT_MAX:,} characters, got more")
    return between.join(texts)


def _replaced(text: Any, old: str, new: str) -> str:
    told = _printed(text)
    if len(told) + told.count(old) * len(new) > TEXT_MAX:
        raise ConfigError(f"expected texts of at most {TEXT_MAX:,} characters, got more")
    return told.replace(old, new)


_TEXT_FILTERS: dict[str, Callable[..., Any]] = {
    "upper": lambda text: _printed(text).upper(),
    "lower": lambda text: _printed(text).lower(),
    "capitalize": lambda text: _printed(text).capitalize(),
    "trim": lambda text: _printed(text).strip(),
    "replace": _replaced,
    "join": _joined,
}


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
            setattr(node, name, [_replacement(one, environment, read, left) for one in value])
        elif isinstance(value, nodes.Concat):
            setattr(node, name, _replacement(value, environment, read, left))
    for child in node.iter_child_nodes():
        if not isinstance(child, _ALLOWED) and not _is_range(child):
            kind = type(child).__name__.lower()
            raise ConfigError(
                f"line {child.lineno} of the template: {kind} is not followed; write out what it gives"
            )
        if isinstance(child, nodes.Filter) and (child.name not in environment.filters):
            raise ConfigError(
                f"line {child.lineno} of the template: the filter {child.name} is not followed; write out what it gives"
            )
        _prepare(child, environment, read, left)
        if isinstance(child, nodes.For):
            if child.recursive:
                raise ConfigError(f"line {child.lineno} of the template: a recursive loop is not followed")
            child.iter = nodes.Filter(child.iter, "_counted", [], [], None, None, lineno=child.lineno)


def _is_range(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name) and node.node.name == "range"


def _replacement(node: Any, environment: _Environment, read: Callable[[str], str], left: list[int]) -> Any:
    """What stands for an included file, and for texts put together, which have a bound; else the node itself."""
    if isinstance(node, nodes.Concat):
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, "join", [], [], None, None, lineno=node.lineno)
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
