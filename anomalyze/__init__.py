"""Finds anomalies in transactions as they arrive, with a reason a person can read."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path

__all__: list[str] = []

_IMPORT = re.compile(rb"^from anomalyze\.?([\w.]*) import (\([^)]*\)|[^\n]*)", re.MULTILINE)


def _compiled_from(here: Path) -> dict[Path, bytes]:
    """The sources of compiled code in the package at ``here``: modules with kernels, all they import, and tables.

    What a kernel calls or takes as a constant is compiled into it, wherever it was imported from; a constant may
    come from a table beside its module. Imports inside functions do not count: kernels cannot use them.
    """
    texts = {source: source.read_bytes() for source in here.rglob("*.py")}
    found = [source for source, text in texts.items() if b"njit" in text]
    reached = dict.fromkeys(found)
    while found:
        for module, names in _IMPORT.findall(texts[found.pop()]):
            folder = here.joinpath(*module.decode().split("."))
            named = (folder / f"{name.decode()}.py" for name in re.findall(rb"\w+", names))
            for source in (folder.with_suffix(".py"), folder / "__init__.py", *named):
                if source in texts and source not in reached:
                    reached[source] = None
                    found.append(source)
    tables = (table for folder in {source.parent for source in reached} for table in folder.glob("data/*"))
    return {source: texts[source] for source in reached} | {table: table.read_bytes() for table in tables}


def _keep_compiled_code_apart(here: Path) -> None:
    """Give numba a cache folder named after all that compiled code was made from.

    numba stamps what it compiled with the function's own file alone: what it calls from other files is
    compiled in and would go stale after an update, silently. So every change of any of them begins a new folder.
    """
    digest = hashlib.sha256(sys.version.encode())
    for source, text in sorted(_compiled_from(here).items()):
        digest.update(f"{source.relative_to(here)}\0{len(text)}\0".encode() + text)
    folder = here / "__pycache__"
    if not os.access(folder if folder.exists() else here, os.W_OK):
        folder = Path.home() / ".cache" / "anomalyze"
    os.environ["NUMBA_CACHE_DIR"] = str(folder / f"kernels-{digest.hexdigest()[:16]}")


# Before anything imports numba, which reads the setting once. A folder named by somebody else stays; one that a
# parent process named is looked at again.
if "numba" not in sys.modules and "kernels-" in os.environ.get("NUMBA_CACHE_DIR", "kernels-"):
    _keep_compiled_code_apart(Path(__file__).parent)
