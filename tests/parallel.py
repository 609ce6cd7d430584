"""How tests are spread over processes (``make test``): what shares servers goes to one, the longest portions first.

A folder is one portion, because its servers and trained models are started once a process; the folders with many
tests that share little are portions by file.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

__all__ = ["ByPortion", "portion"]

# Each file of these is a portion of its own: they start what they need themselves.
BY_FILE = {"tests/test_events", "tests/test_rules"}
# What takes longest, in this order: a long portion that begins last would keep one process waiting for the other.
LONGEST = ("tests/test_metrics", "tests/test_bus", "tests/test_models", "tests/test_detection")


def portion(nodeid: str) -> str:
    """Name of the portion that a test belongs to.

    >>> portion("tests/test_bus/test_faults.py::test_away[x/y::z]")
    'tests/test_bus'
    >>> portion("tests/test_rules/test_parse.py::test_precedence")
    'tests/test_rules/test_parse.py'
    """
    file = nodeid.split("::", 1)[0]
    folder = str(PurePosixPath(file).parent)
    return file if folder in BY_FILE else folder


class ByPortion(LoadScopeScheduling):
    """Gives a process one portion after the other."""

    def _split_scope(self, nodeid: str) -> str:
        return portion(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        # The queue comes ordered by numbers of tests, which say little about how long they take.
        longest = next((name for name in LONGEST if name in self.workqueue), None)
        if longest is not None:
            self.workqueue.move_to_end(longest, last=False)
        super()._assign_work_unit(node)
