"""The lexical gate in front of the parser: what passes has a bounded size and holds known tokens only.

It runs before sqlglot sees anything, in one linear pass, so that neither a long text nor a deep one costs
time or stack, and so that comments, quoted names, casts, statements and look-alike letters never arrive.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from anomalyze.errors import ConfigError

__all__ = ["ALLOWED", "MAX_CHARS", "MAX_NESTING", "MAX_TOKENS", "ExpressionError", "Token", "scan"]

# A rule of this size is a program; the longest shipped one has 120 characters.
MAX_CHARS = 2_000
MAX_TOKENS = 500
# sqlglot recurses about 25 Python frames a parenthesis: 12 stay far below the interpreter's limit of 1,000.
MAX_NESTING = 12
MAX_PREFIX_RUN = 2

ALLOWED = (
    "allowed are columns, numbers, 'text', TRUE, FALSE, :parameters, = <> < <= > >=, AND, OR, NOT, + - * /, "
    "IN (…), BETWEEN … AND …, IS [NOT] NULL, in_list(column, 'name'), abs, least, greatest and coalesce"
)

_TOKEN = re.compile(
    r"(?P<space>[ \t\r\n]+)"
    r"|(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![A-Za-z0-9_.]))"
    r"|(?P<text>'(?:[^']|'')*')"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_]*(?!['A-Za-z0-9_]))"
    r"|(?P<parameter>:[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<sign><=|>=|<>|!=|(?!--|/\*)[=<>+\-*/(),])"
)

_HINTS = {
    '"': "text is written in single quotes, names without any",
    ";": "a rule is one condition without an end sign",
    "--": "comments are not part of a condition; use description",
    "/*": "comments are not part of a condition; use description",
    "#": "comments are not part of a condition; use description",
    "::": "casts are not part of the language",
    "'": "this text literal has no closing quote",
    ".": "columns have no prefix",
    "%": "write in_list or IN for matches; there is no modulo",
    "||": "join conditions with OR",
    "&": "join conditions with AND",
}


class ExpressionError(ConfigError):
    """A condition is refused.

    Attributes
    ----------
    position
        Index in the condition's text where the mistake begins.
    suggestion
        What was probably meant; empty when nothing is close.
    others
        Further mistakes of the same condition.
    """

    def __init__(
        self,
        message: str,
        position: int = 0,
        suggestion: str = "",
        others: tuple[ExpressionError, ...] = (),
    ) -> None:
        self.message = message
        self.others = others
        self.position = position
        self.suggestion = suggestion
        super().__init__(message + (f" (did you mean {suggestion}?)" if suggestion else ""))


@dataclass(frozen=True, slots=True)
class Token:
    """One word, sign or literal and where it begins."""

    kind: str
    text: str
    position: int


def scan(expression: str) -> list[Token]:
    """Cut a condition into tokens, or refuse it.

    Raises
    ------
    ExpressionError
        Empty or longer than ``MAX_CHARS``; a character or form outside the language; more than
        ``MAX_TOKENS`` tokens; parentheses deeper than ``MAX_NESTING``.
    """
    if len(expression) > MAX_CHARS:
        raise ExpressionError(
            f"a condition has at most {MAX_CHARS:,} characters, this one {len(expression):,}; "
            "split it into several rules or use a list"
        )
    tokens: list[Token] = []
    position = 0
    while position < len(expression):
        found = _TOKEN.match(expression, position)
        if found is None:
            raise _refuse_character(expression, position)
        kind = found.lastgroup or ""
        if kind == "text" and not found.group().isprintable():
            raise ExpressionError("a text literal holds printable characters only", position)
        if kind != "space":
            tokens.append(Token(kind, found.group(), position))
        position = found.end()
    if not tokens:
        raise ExpressionError(f"the condition is empty; {ALLOWED}")
    if len(tokens) > MAX_TOKENS:
        raise ExpressionError(f"a condition has at most {MAX_TOKENS} words and signs, this one {len(tokens)}")
    _check_nesting(tokens)
    return tokens


def _check_nesting(tokens: list[Token]) -> None:
    depth = prefix_run = 0
    previous = ""
    for token in tokens:
        text = token.text.upper()
        depth += (text == "(") - (text == ")")
        prefix_run = prefix_run + 1 if text in ("NOT", "+", "-") else 0
        if depth > MAX_NESTING:
            raise ExpressionError(f"parentheses nest at most {MAX_NESTING} deep", token.position)
        if depth < 0:
            raise ExpressionError("this ) closes nothing", token.position)
        if prefix_run > MAX_PREFIX_RUN:
            raise ExpressionError("NOT, + and - do not pile up; write the condition plainly", token.position)
        if text in (",", ")") and previous == ",":
            raise ExpressionError("a value is missing after the comma", token.position)
        previous = text
    if depth:
        raise ExpressionError("a closing parenthesis is missing", tokens[-1].position)


def _refuse_character(expression: str, position: int) -> ExpressionError:
    rest = expression[position:]
    hint = next((text for sign, text in _HINTS.items() if rest.startswith(sign)), "")
    character = rest[0]
    if hint:
        shown = next(sign for sign in _HINTS if rest.startswith(sign))
        return ExpressionError(f"{shown} cannot stand here: {hint}; {ALLOWED}", position)
    if not character.isascii() or not character.isprintable():
        name = unicodedata.name(character, "a control character")
        return ExpressionError(
            f"U+{ord(character):04X} ({name}) cannot stand here: outside quotes a condition is plain ASCII; {ALLOWED}",
            position,
        )
    if character.isalnum() or character == "_":
        return ExpressionError(f"{rest.split()[0][:40]} is neither a name nor a number; {ALLOWED}", position)
    return ExpressionError(f"{character} cannot stand here; {ALLOWED}", position)
