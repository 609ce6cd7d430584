"""A record that kills the process is found, skipped for good, and nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from anomalyze.bus.contract import Records
from anomalyze.storage.objects import LocalObjects
from realtime.detector.poison import AttemptFile, SkipList

# A worker in miniature: it dies natively at one offset, as a crash in compiled code would.
WORKER = """
import os, sys
from pathlib import Path
from anomalyze.bus.contract import Records
from anomalyze.storage.objects import LocalObjects
from realtime.detector.poison import AttemptFile, SkipList

folder, poison = Path(sys.argv[1]), int(sys.argv[2])
attempts = AttemptFile(folder / "attempts" / "w0")
skips = SkipList(LocalObjects(folder / "objects"), "log-1")
skips.note_deaths(attempts.left_behind())
attempts.idle()
skipped, singly = skips.skipped(0), skips.singly_until(0)
at = 0
while at < 100:
    size = 1 if at <= singly else 25
    span = [o for o in range(at, min(100, at + size)) if o not in skipped]
    if span:
        attempts.begin(Records("transactions", [0] * len(span), span, [], [], []))
        if poison in span:
            os.abort()
        attempts.idle()
    at += size
print("done", sorted(skipped))
"""


def run(folder: Path, poison: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WORKER, str(folder), str(poison)], capture_output=True, text=True, timeout=60
    )


def test_the_culprit_alone_is_skipped_after_three_deaths_in_company_and_three_alone(tmp_path: Path) -> None:
    deaths = 0
    while (done := run(tmp_path, 37)).returncode != 0:
        deaths += 1
        assert deaths < 10, done.stderr
    assert done.stdout.strip() == "done [37]"
    assert deaths == 6


def test_dying_idle_or_elsewhere_raises_no_suspicion(tmp_path: Path) -> None:
    skips = SkipList(LocalObjects(tmp_path / "objects"), "log-1")
    attempts = AttemptFile(tmp_path / "w0")
    attempts.begin(Records("transactions", [0, 0, 5], [7, 9, 2], [], [], []))
    assert attempts.left_behind() == {0: (7, 9), 5: (2, 2)}
    attempts.idle()
    assert attempts.left_behind() == {}
    for first in (0, 100, 200, 300):
        skips.note_deaths({0: (first, first + 50)})
    assert skips.singly_until(0) == -1
    assert skips.skipped(0) == set()


def test_a_torn_attempt_file_says_nothing(tmp_path: Path) -> None:
    attempts = AttemptFile(tmp_path / "w0")
    descriptor = os.open(tmp_path / "w0", os.O_WRONLY)
    os.write(descriptor, b'{"3": [1,')
    os.close(descriptor)
    assert attempts.left_behind() == {}
