"""The SQL of a batch: one statement that reads, its ``:name`` parameters found and put in a driver's own words."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import sqlglot
from sqlglot.errors import SqlglotError
from sqlglot.tokens import Token, TokenType

from anomalyze.config import ConfigProblems, Problem, closest
from anomalyze.errors import ConfigError
from anomalyze.metrics.batch import RESERVED_PARAMETERS, Batch
from anomalyze.metrics.source_file import SQL_KINDS
from anomalyze.metrics.template import TemplateMistake, render
from anomalyze.metrics.window import Window

__all__ = ["SAMPLE", "Statement", "build_statement", "check_statement"]

_BEGINS = {"SELECT", "WITH", "VALUES", "FROM", "TABLE", "("}
# Before a parameter's colon: nothing that makes it a cast, a slice or a path into a document.
_JOINED = re.compile(r"[\w\]\)\"'`:]")
# What statements and templates are tried on when a file is read.
SAMPLE = Window(
    dt.datetime(2025, 11, 3, tzinfo=dt.UTC), dt.datetime(2025, 11, 4, tzinfo=dt.UTC), dt.timedelta(hours=1)
)


class _Mistake(Exception):
    def __init__(self, message: str, offset: int | None = None, suggestion: str = "") -> None:
        self.offset, self.suggestion = offset, suggestion
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL of one run.

    Attributes
    ----------
    text
        Templates filled in, parameters still as ``:name``.
    places
        (name, first, past the last character) of each parameter, in order.
    values
        By name; only those that the text has.
    """

    text: str
    places: tuple[tuple[str, int, int], ...]
    values: Mapping[str, Any]

    def written(self, placeholder: Callable[[str], str], escape: Callable[[str], str] = str) -> str:
        """The text with parameters as a driver wants them; ``escape`` is applied to all the rest."""
        parts, at = [], 0
        for name, first, past in self.places:
            parts += [escape(self.text[at:first]), placeholder(name)]
            at = past
        return "".join([*parts, escape(self.text[at:])])


def build_statement(text: str, batch: Batch, name: str, window: Window) -> Statement:
    """What is asked in one run: templates filled in, the window and ``params`` to be bound.

    Raises
    ------
    ConfigError
        What ``check_statement`` would have told.
    """
    try:
        return _build(text, batch, name, window)
    except (_Mistake, TemplateMistake) as error:
        raise ConfigError(f"batch {name}: {error}") from None


def check_statement(batch: Batch, text: str, locate: Callable[[str, str, int | None], Problem]) -> None:
    """Try the SQL of a batch on a window.

    Parameters
    ----------
    locate
        Makes a mistake of a message, a suggestion and an index into ``text``.

    Raises
    ------
    ConfigProblems
        Its first mistake.
    """
    try:
        _build(text, batch, "sample", SAMPLE)
    except TemplateMistake as error:
        lines = text.splitlines(keepends=True)
        offset = sum(map(len, lines[: error.line - 1]))
        raise ConfigProblems([locate(str(error), error.suggestion, offset)]) from None
    except _Mistake as error:
        raise ConfigProblems([locate(str(error), error.suggestion, error.offset)]) from None


def _build(text: str, batch: Batch, name: str, window: Window) -> Statement:
    dialect = SQL_KINDS[batch.source.kind] if batch.source else ""
    made = render(text, window, name, batch.params, ZoneInfo(batch.timezone), dialect)
    try:
        tokens = sqlglot.tokenize(made, read=dialect)
    except SqlglotError as error:
        raise _Mistake(f"expected SQL, got what cannot be read: {str(error)[:200]}") from None

    def at(token: Token) -> int | None:
        return token.start if made == text else None

    last = len(tokens)
    while last and tokens[last - 1].token_type == TokenType.SEMICOLON:
        last -= 1
    if not last:
        raise _Mistake("expected a statement, got none")
    first = tokens[0]
    if first.text.upper() not in _BEGINS:
        raise _Mistake(f"expected a statement that reads, such as SELECT, got {first.text}", at(first))
    places: list[tuple[str, int, int]] = []
    values: dict[str, Any] = {}
    given = dict(batch.params) | {
        "start": window.start,
        "end": window.end,
        "account": batch.account,
    }
    for index, token in enumerate(tokens[:last]):
        if token.token_type == TokenType.SEMICOLON:
            raise _Mistake("expected one statement, got another behind a semicolon", at(token))
        if token.token_type == TokenType.INTO:
            # Into a table, or into a file of MySQL's server, which a read-only session does not refuse.
            raise _Mistake("expected a statement that only reads, got INTO", at(token))
        if token.token_type != TokenType.COLON or index + 1 >= last:
            continue
        word = tokens[index + 1]
        before = made[token.start - 1] if token.start else " "
        known = re.fullmatch(r"[A-Za-z_]\w*", made[word.start : word.end + 1])
        if word.start != token.end + 1 or not known or _JOINED.match(before):
            continue
        if known[0] not in given:
            own = [*RESERVED_PARAMETERS, *batch.params]
            message = f"expected a parameter of {', '.join(own)}, got :{known[0]}: name its value in params"
            raise _Mistake(message, at(token), closest(known[0], own))
        places.append((known[0], token.start, word.end + 1))
        values[known[0]] = given[known[0]]
    # A semicolon or a comment at the end would stand in the way of a limit put behind it.
    return Statement(made[: tokens[last - 1].end + 1], tuple(places), values)
