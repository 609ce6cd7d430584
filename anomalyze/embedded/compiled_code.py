"""What numba compiled, on disk: a folder for each state of the sources (``anomalyze/__init__.py``), old ones removed."""

from __future__ import annotations

import shutil
from pathlib import Path

__all__ = ["remove_old_code"]

# The newest stay for who goes back to them, and for a month all that a program may still use.
CODE_KEPT, CODE_KEPT_S = 3, 30 * 86_400.0


def remove_old_code(ours: Path, now_s: float) -> list[str]:
    """Remove compiled code of sources that are no more, 4 MB each; the names of the folders.

    Parameters
    ----------
    ours
        The folder in use, which stays; nothing is done where its name is not one that we gave.
    now_s
        Seconds since 1970.
    """
    if not ours.name.startswith("kernels-"):
        return []
    others: list[tuple[float, Path]] = []
    for folder in ours.parent.glob("kernels-*"):
        try:
            others.append((folder.stat().st_mtime, folder))
        except FileNotFoundError:  # another program was faster
            continue
    newest_first = [one for one in sorted(others, reverse=True) if one[1] != ours]
    old = [folder for changed_s, folder in newest_first[CODE_KEPT:] if changed_s < now_s - CODE_KEPT_S]
    for folder in old:
        shutil.rmtree(folder, ignore_errors=True)
    return [folder.name for folder in old]
