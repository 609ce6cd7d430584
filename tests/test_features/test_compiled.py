"""Compiled code on disk never outlives what it was made from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import anomalyze


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, to be edited."""
    here = Path(anomalyze.__file__).parent
    return Path(shutil.copytree(here, tmp_path / "anomalyze", ignore=shutil.ignore_patterns("__pycache__")))


def cache_folder(package: Path) -> str:
    """Where numba keeps compiled code once the package is imported."""
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    environment |= {"PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    show = "import anomalyze, os; print(anomalyze.__file__, os.environ['NUMBA_CACHE_DIR'])"
    command = [sys.executable, "-c", show]
    done = subprocess.run(
        command, cwd=package.parent, env=environment, check=True, capture_output=True, text=True
    )
    imported, folder = done.stdout.split()
    assert Path(imported).parent == package
    return folder


@pytest.mark.parametrize(
    ("source", "before", "after"),
    [
        ("features/history.py", "@njit", "\n@njit"),  # a kernel
        ("events/money.py", "JPY KMF", "KMF"),  # only constants: the exponents that the scanner multiplies by
        ("features/catalogue.py", '"amount_base",\n', ""),  # places in the kernel's row
        ("detection/case.py", "CASES_PER_USER_MAX = ", "CASES_PER_USER_MAX = 1 + "),
        ("events/data/countries.csv", "Andorra", "Andora"),  # a table that constants are read from
    ],
)
def test_a_change_of_what_is_compiled_in_begins_a_new_folder(
    package: Path, source: str, before: str, after: str
) -> None:
    first = cache_folder(package)
    assert first == cache_folder(package)
    text = (package / source).read_text(encoding="utf-8")
    assert before in text
    (package / source).write_text(text.replace(before, after, 1), encoding="utf-8")
    assert cache_folder(package) != first


def test_a_change_of_what_is_not_compiled_keeps_the_folder(package: Path) -> None:
    first = cache_folder(package)
    for name in ("storage/queries.py", "rules/column.py", "detection/policy.py", "learning/budget.py"):
        with (package / name).open("a", encoding="utf-8") as source:
            source.write("ANOTHER = 1\n")
        assert cache_folder(package) == first, f"{name} makes everybody wait for the compiler"
