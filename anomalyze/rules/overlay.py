"""Parameters and modes per account, resolved for the rows of a micro-batch without a loop over rows.

Each account with an overlay has a slot (1, 2, …); slot 0 holds the defaults. A micro-batch maps its distinct
accounts to slots once; a parameter is then one gather.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyze.rules.column import Kind
from anomalyze.rules.parameter import ParameterValue
from anomalyze.rules.rule import RuleMode, RuleSet

__all__ = ["CHAIN_MAX", "OverlayTable", "ValueSets", "hash_text"]

Values = npt.NDArray[Any]  # float64, or uint64 hashes of text
_DTYPE: Mapping[Kind, type[np.generic]] = {"number": np.float64, "flag": np.float64, "text": np.uint64}


def hash_text(text: str) -> int:
    """Hash of a text as it stands in a column."""
    from anomalyze.events.hashing import text_key  # here: it loads compiled code, which checking needs not

    return text_key(text)


# Up to here comparing with one value after the other beats a binary search.
CHAIN_MAX = 8


@dataclass(frozen=True, slots=True)
class ValueSets:
    """A parameter that stands for a list of values, for every row.

    Attributes
    ----------
    values
        Every value of any slot, ascending, ``[U]``.
    member
        bool ``[slots, U]``: whether the slot's list holds the value.
    given
        bool ``[slots]``: whether the slot has a list at all; without one the parameter is NULL.
    slots
        Slot of each row, or None when every row has slot 0.
    """

    values: Values
    member: npt.NDArray[np.bool_]
    given: npt.NDArray[np.bool_]
    slots: npt.NDArray[np.intp] | None = None

    def contains(self, column: Values) -> npt.NDArray[np.bool_]:
        """True where the row's list holds the row's value."""
        if self.slots is None and len(self.values) <= CHAIN_MAX:
            found = np.zeros(np.shape(column), dtype=bool)
            for value in self.values[self.member[0]]:
                found = found | (column == value)
            return found
        if not len(self.values):
            return np.zeros(np.shape(column), dtype=bool)
        place = np.minimum(np.searchsorted(self.values, column), len(self.values) - 1)
        member = self.member[0, place] if self.slots is None else self.member[self.slots, place]
        return (self.values[place] == column) & member

    def lacks(self, column: Values) -> npt.NDArray[np.bool_]:
        """True where the row has a list, and it does not hold the row's value."""
        given = self.given[0] if self.slots is None else self.given[self.slots]
        return ~self.contains(column) & given


class OverlayTable:
    """Slots, modes and parameters of a rule set's accounts.

    Parameters
    ----------
    rule_set
        The rules and their overlays.
    kinds
        ``(rule id, parameter) -> (kind, many)`` as the conditions use them.
    """

    def __init__(self, rule_set: RuleSet, kinds: Mapping[tuple[str, str], tuple[Kind, bool]]) -> None:
        self._slot = {account: slot for slot, account in enumerate(sorted(rule_set.overlays), start=1)}
        self.modes = np.empty((len(self._slot) + 1, len(rule_set)), dtype=np.int8)
        self.modes[:] = [rule.mode for rule in rule_set]
        index = {rule.id: i for i, rule in enumerate(rule_set)}
        for account, slot in self._slot.items():
            for rule_id, overlay in rule_set.overlays[account].items():
                if overlay.mode is not None:
                    self.modes[slot, index[rule_id]] = overlay.mode
        self._written = {(rule_id, name): self._per_slot(rule_set, rule_id, name) for rule_id, name in kinds}
        self._loaders = {key: self._loader(self._written[key], *kind) for key, kind in kinds.items()}

    def _per_slot(self, rule_set: RuleSet, rule_id: str, name: str) -> list[ParameterValue]:
        default = rule_set[rule_id].parameters.get(name)
        values = [default] * (len(self._slot) + 1)
        for account, slot in self._slot.items():
            overlay = rule_set.overlays[account].get(rule_id)
            if overlay is not None and name in overlay.parameters:
                values[slot] = overlay.parameters[name]
        return values

    def _loader(
        self, written: list[ParameterValue], kind: Kind, many: bool
    ) -> Callable[[npt.NDArray[np.intp] | None], object]:
        if many:
            return _list_loader(written, kind)
        column = np.array([_scalar(value, kind) for value in written])
        default = column[0].reshape(())
        if all(value == written[0] for value in written):
            return lambda slots: default
        return lambda slots: default if slots is None else column[slots]

    def slots(
        self, accounts: Sequence[str], account: npt.NDArray[np.int32] | None
    ) -> npt.NDArray[np.intp] | None:
        """Slot of each row; None when no account of the micro-batch has an overlay."""
        if not self._slot or account is None:
            return None
        by_account = np.array([self._slot.get(name, 0) for name in accounts], dtype=np.intp)
        return by_account[account] if by_account.any() else None

    def load(self, rule_id: str, name: str, slots: npt.NDArray[np.intp] | None) -> object:
        """A parameter as a 0-d array, an array of rows, or ``ValueSets``."""
        return self._loaders[rule_id, name](slots)

    def slot(self, account_id: str | None) -> int:
        """Slot of an account; 0 when it has no overlay."""
        return self._slot.get(account_id or "", 0)

    def written(self, rule_id: str, account_id: str | None) -> dict[str, ParameterValue]:
        """A rule's parameters as written, for one account."""
        slot = self.slot(account_id)
        return {name: values[slot] for (owner, name), values in self._written.items() if owner == rule_id}

    def mode(self, rule: int, account_id: str | None) -> RuleMode:
        """A rule's mode for one account."""
        return RuleMode(int(self.modes[self.slot(account_id), rule]))


def _scalar(value: ParameterValue, kind: Kind) -> np.float64 | np.uint64:
    if kind == "text":
        return np.uint64(0 if value is None else hash_text(str(value)))
    return np.float64("nan") if value is None else np.float64(value)  # type: ignore[arg-type]


def _list_loader(
    written: list[ParameterValue], kind: Kind
) -> Callable[[npt.NDArray[np.intp] | None], ValueSets]:
    rows = [None if value is None else value if isinstance(value, tuple) else (value,) for value in written]
    scalars = sorted({_scalar(item, kind) for row in rows for item in row or ()})
    values = np.array(scalars, _DTYPE[kind])
    member = np.zeros((len(rows), len(values)), dtype=bool)
    for slot, row in enumerate(rows):
        wanted = np.array([_scalar(item, kind) for item in row or ()], _DTYPE[kind])
        member[slot, np.searchsorted(values, wanted)] = True
    given = np.array([row is not None for row in rows])
    return lambda slots: ValueSets(values, member, given, slots)
