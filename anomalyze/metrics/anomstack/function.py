"""Anomstack's Python ingest: the operator's own code, parsed and copied, never executed here."""

from __future__ import annotations

import ast
import importlib.util
import sys
from dataclasses import dataclass

from anomalyze.errors import ConfigError

__all__ = ["ADAPTER", "AdaptedFunction", "adapt_function"]

ADAPTER = "anomalyze_rows"
_READS = ("os.getenv", "os.environ.get", "getenv", "environ.get")
# Behind the operator's code, which stays as it is. An answer without rows may be a frame without columns.
_ADAPTED = f'''

def {ADAPTER}(window, params):
    """The rows of ``ingest``, for Anomalyze: it knows no window, so that its rows are those of now."""
    frame = ingest()
    columns = ["metric_timestamp", "metric_name", "metric_value"]
    return frame[columns] if len(frame) else []
'''


@dataclass(frozen=True, slots=True)
class AdaptedFunction:
    """A module of ours.

    Attributes
    ----------
    text
        The operator's code, and a function behind it.
    needs
        By line of the original, what it needs that may not be there.
    packages
        That it imports and that are not installed here.
    """

    text: str
    needs: tuple[tuple[int, str], ...]
    packages: tuple[str, ...]


def adapt_function(code: str) -> AdaptedFunction:
    """The module with a function that batches of ours can name.

    Raises
    ------
    ConfigError
        It is no Python, or has no function ``ingest`` that can be called without arguments.
    """
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"expected Python, got: {error}") from None
    found = [one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name == "ingest"]
    if not found:
        raise ConfigError("expected a function ingest at the top of its file, got none")
    arguments = found[-1].args
    required = len(arguments.posonlyargs) + len(arguments.args) - len(arguments.defaults)
    if required or any(default is None for default in arguments.kw_defaults):
        raise ConfigError(
            "expected a function ingest that is called without arguments, got one that needs some"
        )
    missing = _missing(tree)
    packages = [
        (line, f"needs the package {name}: install it where batches run (pip install {name})")
        for name, line in missing.items()
    ]
    needs = sorted({*packages, *_variables(tree)})
    return AdaptedFunction(code.rstrip() + "\n" + _ADAPTED, tuple(needs), tuple(missing))


def _missing(tree: ast.Module) -> dict[str, int]:
    """Modules that are imported and not installed here, with their lines; nothing is imported to find out."""
    found: dict[str, int] = {}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [node.module]
        for name in names:
            found.setdefault(name.partition(".")[0], getattr(node, "lineno", 1))
    return {
        name: line
        for name, line in found.items()
        if name not in sys.stdlib_module_names and not _is_installed(name)
    }


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _variables(tree: ast.Module) -> list[tuple[int, str]]:
    """Environment variables that are named."""
    found: dict[str, int] = {}
    for node in ast.walk(tree):
        named: ast.expr | None = None
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            named = node.slice
        elif isinstance(node, ast.Call) and node.args and ast.unparse(node.func) in _READS:
            named = node.args[0]
        if isinstance(named, ast.Constant) and isinstance(named.value, str):
            found.setdefault(named.value, getattr(node, "lineno", 1))
    return [
        (line, f"reads the environment variable {name}: set it where batches run")
        for name, line in found.items()
    ]
