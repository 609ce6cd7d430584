"""All that one partition's log has left behind: users' histories, open cases, lists.

It moves on only by ``Detector.process`` and ``Detector.apply_control``, in the order of the log, and
``restore(snapshot())`` goes on as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyze.detection.case import CaseState
from anomalyze.errors import ContractError
from anomalyze.features.state import STATE_FORMAT as FEATURE_FORMAT
from anomalyze.features.state import FeatureState
from anomalyze.rules.lists import ListTable

__all__ = ["STATE_FORMAT", "PartitionState"]

# Part of a checkpoint's name; raised when the meaning of a stored array changes. Feature states have their
# own number below it.
CASE_AND_LIST_FORMAT = 1
STATE_FORMAT = CASE_AND_LIST_FORMAT * 1000 + FEATURE_FORMAT


class PartitionState:
    """State of one partition.

    Attributes
    ----------
    features
        Users' recent transactions (``anomalyze.features``).
    cases
        Open cases by user.
    lists
        What stands on the accounts' lists.
    """

    __slots__ = ("cases", "features", "lists")

    def __init__(self) -> None:
        self.features = FeatureState()
        self.cases = CaseState()
        self.lists = ListTable()

    @classmethod
    def empty(cls) -> PartitionState:
        """The state before a log's first record."""
        return cls()

    def snapshot(self) -> dict[str, npt.NDArray[Any]]:
        """Everything as copied arrays; equal logs give equal bytes."""
        parts = {
            "features": self.features.snapshot(),
            "cases": self.cases.snapshot(),
            "lists": self.lists.snapshot(),
        }
        arrays = {f"{part}.{name}": array for part, of in parts.items() for name, array in of.items()}
        arrays["format"] = np.array([STATE_FORMAT], dtype=np.int64)
        return arrays

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Become what ``snapshot`` described.

        Raises
        ------
        ContractError
            The arrays are of another format or incomplete; the state is then as before.
        """
        found = arrays.get("format")
        if found is None or found.tolist() != [STATE_FORMAT]:
            raise ContractError(f"state: expected format {STATE_FORMAT}, got {found}; replay the log instead")
        parts: dict[str, dict[str, npt.NDArray[Any]]] = {"features": {}, "cases": {}, "lists": {}}
        for name, array in arrays.items():
            part, _, rest = name.partition(".")
            if rest and part in parts:
                parts[part][rest] = array
        features = FeatureState.restore(parts["features"])
        lists = ListTable.restore(parts["lists"])
        cases = CaseState()
        try:
            cases.restore(parts["cases"])
        except KeyError as error:
            raise ContractError(f"state: the snapshot lacks cases.{error.args[0]}") from error
        self.features, self.cases, self.lists = features, cases, lists
