"""Bundles in an object store, and the pointers that name the ones in force.

A bundle is published whole under its hash and never changed; pointers (``champion``, ``challenger``) name
the one in force. A pointer is a series of numbered moves, each an object that is written only if its number
is free: two movers cannot both win, on any object store, and the history that a roll back needs is the
pointer itself. Moving a pointer changes no verdict; the control record that the caller then writes does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from anomalyze.detection.bundle import BUNDLE_BYTES_MAX, Bundle
from anomalyze.errors import ContractError, TransientError

__all__ = ["ANY", "BundleStore", "Move", "Objects"]

ANY: Final = "any"
_ID = re.compile(r"sha256:[0-9a-f]{64}")
_POINTER = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_MOVE_BYTES_MAX = 4_096
_NOTE_LENGTH_MAX = 500
# More movers at once than this do not exist; the limit ends a loop that a broken store would keep turning.
_ATTEMPTS_MAX = 20


class Objects(Protocol):
    """What this module asks of an object store (``anomalyze.storage.objects`` has it)."""

    def put(self, path: str, data: bytes, *, if_absent: bool = False) -> bool: ...

    def get(self, path: str, *, bytes_max: int | None = None) -> bytes | None: ...

    def list(self, prefix: str) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Move:
    """One move of a pointer.

    Attributes
    ----------
    number
        1, 2, 3, ….
    id
        The bundle pointed at from then on.
    back_to
        For a roll back: the number of the move that it returned to.
    note
        Who and why, as given.
    at
        When, RFC 3339, UTC; None for moves of before it was noted.
    """

    number: int
    id: str
    back_to: int | None = None
    note: str = ""
    at: str | None = None


class BundleStore:
    """Bundles and pointers in an object store; ``clock`` dates the moves of pointers."""

    def __init__(self, objects: Objects, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._objects = objects
        self._clock = clock

    def publish(self, bundle: Bundle) -> str:
        """Write a bundle under its hash; publishing it again changes nothing.

        Returns
        -------
        str
            The bundle's id.

        Raises
        ------
        ContractError
            When what lies under that hash already is not this bundle.
        """
        path = _bundle_path(bundle.id)
        if not self._objects.put(path, bundle.data, if_absent=True):
            there = self._objects.get(path, bytes_max=BUNDLE_BYTES_MAX)
            if there != bundle.data:
                raise ContractError(
                    f"bundle {bundle.id}: the object {path} holds other bytes; remove it, publish again"
                )
        return bundle.id

    def load(self, bundle_id: str) -> Bundle:
        """Read and verify a bundle.

        Raises
        ------
        ContractError
            When there is none of that id, or its file is not what the id says.
        """
        data = self._objects.get(_bundle_path(bundle_id), bytes_max=BUNDLE_BYTES_MAX)
        if data is None:
            raise ContractError(f"bundle {bundle_id}: not published in this object store")
        return Bundle.from_bytes(data, bundle_id)

    def list(self) -> list[str]:
        """Ids of all published bundles, sorted."""
        names = (path.removeprefix("bundles/").removesuffix(".tar") for path in self._objects.list("bundles"))
        return sorted(f"sha256:{name}" for name in names if _ID.fullmatch(f"sha256:{name}"))

    def pointer(self, name: str) -> str | None:
        """The bundle a pointer names, None before its first move."""
        last = self._last(name)
        return None if last is None else last.id

    def set_pointer(self, name: str, bundle_id: str, expected: str | None = ANY, note: str = "") -> Move:
        """Point at a published bundle.

        Parameters
        ----------
        expected
            Move only if the pointer names this bundle (None: no bundle yet); ``ANY``: whatever it names.

        Returns
        -------
        Move
            The move made, or the last one when the pointer named the bundle already.

        Raises
        ------
        ContractError
            When the bundle is not there or damaged, or the pointer names another than expected.
        TransientError
            When others move it all the time.
        """
        self.load(bundle_id)
        for _ in range(_ATTEMPTS_MAX):
            last = self._last(name)
            current = None if last is None else last.id
            if expected not in (ANY, current):
                raise ContractError(
                    f"pointer {name}: expected it at {expected}, it is at {current}; look again"
                )
            if last is not None and current == bundle_id:
                return last
            number = 1 if last is None else last.number + 1
            move = Move(number, bundle_id, None, note[:_NOTE_LENGTH_MAX], self._now())
            if self._write(name, move):
                return move
        raise TransientError(f"pointer {name}: moved by others {_ATTEMPTS_MAX} times in a row")

    def roll_back(
        self,
        name: str,
        note: str = "",
        *,
        counts: Callable[[str, str], bool] = lambda last, earlier: True,
        compose: Callable[[str, str], str] = lambda last, earlier: earlier,
    ) -> Move:
        """Point at the bundle before the one in force; once more, at the one before that.

        Parameters
        ----------
        counts
            Whether an earlier bundle differs from the one in force (ids: in force, earlier) in what is to be rolled
            back; one that does not is passed over.
        compose
            Makes and publishes what is pointed at from the bundle in force and the one gone back to; its id.

        Raises
        ------
        ContractError
            When there is none before it, or it is damaged.
        TransientError
            When another move came in between: look again.
        """
        moves = {move.number: move for move in self.history(name)}
        if not moves:
            raise ContractError(f"pointer {name}: it was never set; nothing to roll back")
        last = moves[max(moves)]
        target = _before(moves, last.back_to or last.number)
        while target is not None and not counts(last.id, target.id):
            target = _before(moves, target.number)
        if target is None:
            raise ContractError(f"pointer {name}: there is no bundle before {last.id}")
        self.load(target.id)
        made = compose(last.id, target.id)
        move = Move(last.number + 1, made, target.number, note[:_NOTE_LENGTH_MAX], self._now())
        if not self._write(name, move):
            raise TransientError(f"pointer {name}: somebody moved it just now; look again")
        return move

    def history(self, name: str) -> Sequence[Move]:
        """All moves of a pointer, oldest first."""
        return [self._read(path) for path in self._move_paths(name)]

    def _now(self) -> str:
        return self._clock().isoformat(timespec="seconds")

    def _last(self, name: str) -> Move | None:
        paths = self._move_paths(name)
        return self._read(paths[-1]) if paths else None

    def _move_paths(self, name: str) -> Sequence[str]:
        if not _POINTER.fullmatch(name):
            raise ContractError(f"pointer: expected a name such as champion, got {name[:80]!r}")
        return self._objects.list(f"pointers/{name}")

    def _write(self, name: str, move: Move) -> bool:
        body = {"id": move.id, "back_to": move.back_to, "note": move.note, "at": move.at}
        path = f"pointers/{name}/{move.number:010d}.json"
        return self._objects.put(path, json.dumps(body, sort_keys=True).encode(), if_absent=True)

    def _read(self, path: str) -> Move:
        data = self._objects.get(path, bytes_max=_MOVE_BYTES_MAX)
        try:
            body = json.loads(data or b"")
            move = Move(int(path[-15:-5]), body["id"], body["back_to"], body["note"], body.get("at"))
            _bundle_path(move.id)
        except (ValueError, KeyError, TypeError) as error:
            raise ContractError(f"pointer: the object {path} is damaged: {error!r:.200}") from error
        return move


def _before(moves: Mapping[int, Move], number: int) -> Move | None:
    """The move that first led to where the pointer stood before this one."""
    found = moves.get(number - 1)
    while found is not None and found.back_to is not None:
        found = moves.get(found.back_to)
    return found


def _bundle_path(bundle_id: str) -> str:
    if not _ID.fullmatch(bundle_id):
        raise ContractError(f"bundle: expected an id sha256:<64 hex digits>, got {bundle_id[:80]!r}")
    return f"bundles/{bundle_id.removeprefix('sha256:')}.tar"
