"""Templates in SQL: names and dates only, in a sandbox. Values are never written into SQL; they are bound as ``:name``.

What a template may print has gone through a filter of ours: ``ident`` (a checked, quoted name), ``date``, ``iso`` or
``unix``. Loops, macros, includes and calls are refused when the file is read. Nothing of a web request reaches this.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from anomalyze.config import closest
from anomalyze.metrics.window import Window

__all__ = ["TEXT_MAX", "TemplateMistake", "render"]

TEXT_MAX = 1 << 20
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}(\.[A-Za-z_][A-Za-z0-9_$]{0,62}){0,2}")
_FORMAT = re.compile(r"(%[YmdHMSGVjuy]|[-_:T/.])+")
_BACKTICK = ("mysql", "bigquery", "clickhouse")
_ALLOWED = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.Name,
    nodes.Getattr,
    nodes.Getitem,
    nodes.Const,
    nodes.Filter,
    nodes.Keyword,
    nodes.If,
    nodes.CondExpr,
    nodes.Compare,
    nodes.Operand,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.Neg,
)
_NAMES = ("start", "end", "step", "batch", "params")


class TemplateMistake(Exception):
    """A template that cannot be used; ``line`` counts from 1."""

    def __init__(self, message: str, line: int = 1, suggestion: str = "") -> None:
        self.line, self.suggestion = line, suggestion
        super().__init__(message)


class _Checked(str):
    """Text that a filter of ours made: the only thing a template may print."""

    __slots__ = ()


def render(
    text: str, window: Window, batch: str, params: Mapping[str, Any], zone: ZoneInfo, dialect: str = ""
) -> str:
    """The text of a run.

    Parameters
    ----------
    window
        ``start``, ``end``, ``step`` of the template; dates are shown in ``zone``.
    dialect
        Of sqlglot; decides how names are quoted.

    Raises
    ------
    TemplateMistake
        A construct, name or output that is not allowed.

    Examples
    --------
    >>> day = dt.datetime(2025, 11, 3, tzinfo=dt.UTC)
    >>> hour = Window(day, day + dt.timedelta(hours=1), dt.timedelta(hours=1))
    >>> render("FROM {{ params.t | ident }}_x", hour, "b", {"t": "shop.orders"}, ZoneInfo("UTC"), "postgres")
    'FROM "shop"."orders"_x'
    """
    if "{{" not in text and "{%" not in text and "{#" not in text:
        return text
    environment = _environment(dialect, zone)
    try:
        tree = environment.parse(text)
        _check(tree)
        context = dict(zip(_NAMES, (window.start, window.end, window.step, batch, dict(params)), strict=True))
        made = environment.from_string(tree).render(context)
    except TemplateSyntaxError as error:
        raise TemplateMistake(f"expected a template, got: {error.message}", error.lineno) from None
    except RecursionError:
        raise TemplateMistake(
            "expected a template of a few levels, got one nested too deep to be read"
        ) from None
    except (TemplateError, TypeError, ValueError, OverflowError) as error:
        raise TemplateMistake(str(error)) from None
    if len(made) > TEXT_MAX:
        raise TemplateMistake(f"expected at most {TEXT_MAX:,} characters of it, got {len(made):,}")
    return made


def _check(tree: nodes.Template) -> None:
    stack: list[nodes.Node] = [tree]
    while stack:
        node = stack.pop()
        if not isinstance(node, _ALLOWED):
            kind = type(node).__name__.lower()
            raise TemplateMistake(f"expected names, dates and if, got {kind}", node.lineno)
        if isinstance(node, nodes.Name) and node.name not in _NAMES:
            message = f"expected one of {', '.join(_NAMES)}, got {node.name}"
            raise TemplateMistake(message, node.lineno, closest(node.name, _NAMES))
        stack += list(node.iter_child_nodes())


@lru_cache(maxsize=64)
def _environment(dialect: str, zone: ZoneInfo) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, finalize=_only_checked)
    quote = "`" if dialect in _BACKTICK else '"'

    def ident(value: Any) -> _Checked:
        _defined(value)
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise ValueError(f"expected a name of letters, digits and _, as in schema.table, got {value!r}")
        return _Checked(".".join(f"{quote}{part}{quote}" for part in value.split(".")))

    def date(value: Any, format: str = "%Y-%m-%d") -> _Checked:
        if not _FORMAT.fullmatch(format):
            raise ValueError(f"expected a format such as %Y%m%d, got {format!r}")
        return _Checked(_time(value).astimezone(zone).strftime(format))

    def iso(value: Any) -> _Checked:
        return _Checked(_time(value).astimezone(dt.UTC).isoformat().replace("+00:00", "Z"))

    def unix(value: Any) -> _Checked:
        seconds = value.total_seconds() if isinstance(value, dt.timedelta) else _time(value).timestamp()
        return _Checked(int(seconds))

    environment.globals.clear()
    environment.tests.clear()
    environment.filters.clear()
    environment.filters.update({"ident": ident, "date": date, "iso": iso, "unix": unix})
    return environment


def _defined(value: Any) -> None:
    if isinstance(value, StrictUndefined):
        str(value)  # raises, with the name that nothing was found by


def _time(value: Any) -> dt.datetime:
    _defined(value)
    if not isinstance(value, dt.datetime):
        raise ValueError(f"expected start or end, got {value!r}")
    return value


def _only_checked(value: Any) -> Any:
    if isinstance(value, _Checked):
        return value
    raise ValueError(
        f"expected a name through | ident or a time through | date, | iso or | unix, got {value!r}: "
        "a value is bound as :name"
    )
