"""One mistake in a configuration file, with its place and what was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from anomalyze.errors import ConfigError

__all__ = ["ConfigProblems", "Problem", "closest", "problems_of"]

_LOCATED = re.compile(r"^(?P<file>.+?):(?P<line>\d+): (?:(?P<path>[A-Za-z0-9_.\-]+): )?(?P<message>.+)$")


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """A mistake.

    Attributes
    ----------
    file, line, column
        Where; line and column count from 1, and are 1 when the file as a whole is meant.
    path
        Keys that lead there, joined by dots.
    message
        What was expected and what came.
    suggestion
        What was probably meant; empty when nothing is close.
    """

    file: str
    line: int
    column: int
    path: str
    message: str
    suggestion: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}: "
        path = f"{self.path}: " if self.path else ""
        meant = f" Did you mean {self.suggestion}?" if self.suggestion else ""
        return f"{where}{path}{self.message}{'.' if meant and not self.message.endswith('.') else ''}{meant}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


class ConfigProblems(ConfigError):
    """Configuration cannot be used, for all of these reasons."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in problems))


def problems_of(error: ConfigError, file: str) -> list[Problem]:
    """The mistakes that an error tells of, whoever raised it.

    An error that is not ``ConfigProblems`` may have one mistake a line, as ``file:line: path: message``.
    """
    if isinstance(error, ConfigProblems):
        return list(error.problems)
    found: list[Problem] = []
    for line in str(error).splitlines():
        located = _LOCATED.match(line)
        if located:
            message, path = located["message"], located["path"] or ""
            found.append(Problem(located["file"], int(located["line"]), 1, path, message))
        elif line.strip():
            found.append(Problem(file, 1, 1, "", line.removeprefix(f"{file}: ")))
    return found


def closest(word: str, known: Iterable[str]) -> str:
    """The known word that was probably meant; empty when none is close.

    Examples
    --------
    >>> closest("user_tx_cuont_5m", ["user_tx_count_5m", "amount"])
    'user_tx_count_5m'
    """
    by_case = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), list(by_case), n=1, cutoff=0.6)
    return by_case[found[0]] if found else ""
