"""Folders of compiled code do not pile up."""

from __future__ import annotations

import os
from pathlib import Path

from anomalyze.embedded.compiled_code import remove_old_code

DAY_S = 86_400.0
NOW_S = 1_700_000_000.0


def test_old_folders_go_and_the_newest_stay(tmp_path: Path) -> None:
    for number, age in enumerate((90, 31, 29, 40, 60, 1, 200)):
        folder = tmp_path / f"kernels-{number}"
        (folder / "inside").mkdir(parents=True)
        os.utime(folder, (NOW_S - age * DAY_S,) * 2)
    (tmp_path / "other").mkdir()
    os.utime(tmp_path / "other", (0.0, 0.0))
    assert remove_old_code(tmp_path / "numba", NOW_S) == []
    # The oldest is in use; of the others the newest three, of 1, 29 and 31 days, stay.
    assert remove_old_code(tmp_path / "kernels-6", NOW_S) == ["kernels-3", "kernels-4", "kernels-0"]
    left = {folder.name for folder in tmp_path.iterdir()}
    assert left == {"kernels-1", "kernels-2", "kernels-5", "kernels-6", "other"}
