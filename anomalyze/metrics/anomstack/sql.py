"""Anomstack's SQL: as written where its database has the words; Anomstack translates it with sqlglot at each run."""

from __future__ import annotations

from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

__all__ = ["AdaptedSql", "adapt_sql"]

# What SQL of several dialects calls the time at which it runs; sqlglot knows some of them.
_NOW = {"get_current_timestamp", "now", "getdate", "sysdate", "localtimestamp", "current_timestamp"}
# Of them, what a dialect has and what it would have to be given instead.
_NATIVE = {
    "duckdb": {"get_current_timestamp", "now"},
    "sqlite": {"datetime"},
    "postgres": {"now"},
    "clickhouse": {"now"},
    "mysql": {"now", "sysdate"},
    "snowflake": {"getdate", "sysdate"},
    "bigquery": set[str](),
}
_TIMESTAMP = ("metric_timestamp", "timestamp")
_WANTED = ("metric_timestamp", "metric_name", "metric_value")


@dataclass(frozen=True, slots=True)
class AdaptedSql:
    """SQL for a source of ours.

    Attributes
    ----------
    text
        As written, unless its database has other words for it.
    is_of_now
        Its timestamps are those at which it runs; None: that cannot be told.
    tables
        That it reads, without those it defines itself.
    notes
        What was changed, in sentences.
    """

    text: str
    is_of_now: bool | None
    tables: tuple[str, ...]
    notes: tuple[str, ...] = ()


def adapt_sql(text: str, dialect: str) -> AdaptedSql:
    """SQL that its database takes.

    Parameters
    ----------
    dialect
        Of sqlglot.
    """
    text = text.strip()
    native = _parse(text, dialect)
    tree = native or _parse(text, None)
    if tree is None:
        return AdaptedSql(text, None, (), ("this SQL cannot be read here, and is taken as written",))
    notes: list[str] = []
    is_other = native is None
    if _replace_now(tree, dialect) or is_other:
        is_other = True
        notes.append(
            f"this SQL has words of another database and was put in those of {dialect}: look it over"
        )
    selected = [name.lower() for name in tree.named_selects] if isinstance(tree, exp.Query) else []
    extra = [name for name in selected if name not in _WANTED]
    if extra and set(_WANTED) <= set(selected) and isinstance(tree, exp.Query):
        is_other = True
        notes.append(f"only its columns {', '.join(_WANTED)} are read, not {', '.join(extra)}")
        tree = exp.select(*_WANTED).from_(tree.subquery("given"))
    if is_other:
        try:
            text = tree.sql(dialect=dialect, pretty=True)
        except (SqlglotError, RecursionError, AttributeError, ValueError):
            notes = [f"this SQL cannot be put in the words of {dialect}, and is taken as written"]
    return AdaptedSql(text, _tells_of_now(tree), _tables(tree), tuple(notes))


def _parse(text: str, dialect: str | None) -> exp.Expression | None:
    """The one statement of a text; None when it cannot be read."""
    try:
        statements = [one for one in sqlglot.parse(text, read=dialect) if one is not None]
    except (SqlglotError, RecursionError, AttributeError, ValueError):
        return None
    return statements[0] if len(statements) == 1 else None


def _replace_now(tree: exp.Expression, dialect: str) -> bool:
    """Put the dialect's own word where another's for the present time stands; whether there was any."""
    found = False
    native = _NATIVE.get(dialect, set())
    for node in list(tree.walk()):
        name = _name_of_now(node)
        if name is not None and name != "current_timestamp" and name not in native:
            found = True
            word = exp.Anonymous(this="now") if dialect == "clickhouse" else exp.CurrentTimestamp()
            node.replace(word)
    return found


def _name_of_now(node: exp.Expression | None) -> str | None:
    if isinstance(node, exp.CurrentTimestamp | exp.CurrentDatetime):
        return "current_timestamp"
    if isinstance(node, exp.Datetime) and node.name == "now":
        return "datetime"
    if isinstance(node, exp.Anonymous) and not node.expressions and str(node.this).lower() in _NOW:
        return str(node.this).lower()
    return None


def _tells_of_now(tree: exp.Expression) -> bool | None:
    """Whether any timestamp is the time at which the SQL runs, by what stands under the columns' names."""
    found: set[bool] = set()
    for alias in tree.find_all(exp.Alias):
        if alias.alias.lower() not in _TIMESTAMP:
            continue
        inner = alias.this.unnest()
        while isinstance(inner, exp.Cast):
            inner = inner.this
        if not isinstance(inner, exp.Column):
            found.add(_name_of_now(inner) is not None)
    return any(found) if found else None


def _tables(tree: exp.Expression) -> tuple[str, ...]:
    defined = {one.alias_or_name.lower() for one in tree.find_all(exp.CTE)}
    names = [
        ".".join(part.name for part in one.parts)
        for one in tree.find_all(exp.Table)
        if isinstance(one.this, exp.Identifier) and not (one.name.lower() in defined and not one.db)
    ]
    return tuple(dict.fromkeys(name for name in names if "/" not in name and "*" not in name))
