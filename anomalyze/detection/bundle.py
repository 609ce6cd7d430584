"""A bundle: all that decides, in one immutable file named by its content.

Features, rules, policy, model, calibration, tables, lists and overlays travel together, so a verdict that
names its bundle can be recomputed to the bit. The file is a plain tar (``tar tf`` reads it) with fixed
metadata and sorted names: the same bundle gives the same bytes, and only those bytes are accepted back.
Changing a rule makes a new bundle with the same model.

A bundle is published whole under its hash and never changed; pointers (``champion``, ``challenger``) name
the one in force. A pointer is a series of numbered moves, each an object that is written only if its number
is free: two movers cannot both win, on any object store, and the history that a roll back needs is the
pointer itself. Moving a pointer changes no verdict; the control record that the caller then writes does.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final, Literal, Protocol

from anomalyze.detection.archive import FILE_NAME, read_archive, write_archive
from anomalyze.detection.supervised import Supervised, plain_inputs, plain_values, read_values
from anomalyze.errors import ContractError, TransientError
from anomalyze.models.calibration import Calibration
from anomalyze.models.detector import DETECTORS, FOREST
from anomalyze.models.export import MODEL_BYTES_MAX
from anomalyze.models.forest import ModelInput
from anomalyze.models.runtime import Scorer, load_scorer
from anomalyze.models.training import TrainedModel

__all__ = [
    "ANY",
    "BUNDLE_BYTES_MAX",
    "FORMAT",
    "GAZETTEER",
    "RATES",
    "RULES",
    "Bundle",
    "BundleStore",
    "Move",
    "Objects",
    "compute_bundle_id",
]

FORMAT = 1
BUNDLE_BYTES_MAX = MODEL_BYTES_MAX + (64 << 20)
_MANIFEST = "manifest.json"
# Names of the parts that a detector reads.
RULES, RATES, GAZETTEER = "rules.json", "currency_rates.json", "gazetteer.json"

ANY: Final = "any"
_ID = re.compile(r"sha256:[0-9a-f]{64}")
_POINTER = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_MOVE_BYTES_MAX = 4_096
_NOTE_LENGTH_MAX = 500
# More movers at once than this do not exist; the limit ends a loop that a broken store would keep turning.
_ATTEMPTS_MAX = 20


def compute_bundle_id(data: bytes) -> str:
    """``sha256:`` and the hash of a bundle's file."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Bundle:
    """What a detector needs to judge. Compare bundles by ``id``.

    Attributes
    ----------
    kind
        ``starter``: trained on simulated history, and called so wherever it shows; ``trained``: on the
        account's own.
    features, policy
        YAML texts, as their owners wrote them.
    rules
        File name to YAML text.
    model
        ONNX file, None for a bundle that decides by rules and statistics alone.
    inputs, reference
        The model's inputs in order, and its most ordinary training row (one value an input, NaN = missing).
    calibration
        Of the model's raw scores; ``account_calibrations`` stands in for it where an account has its own.
    statistics
        Numbers fitted to the training history beside the model: quantiles, usual ranges.
    tables
        File name to text: currency rates, gazetteer, whatever the decision reads.
    hashes
        Name to ``sha256:…`` of tables that ship with the program instead.
    lists
        JSON object: list name to ids that every account begins with.
    overlays
        Account to a JSON object of what it overrides.
    training_window
        First and last instant of the training data, None without a model.
    metrics
        Figures of training and evaluation.
    detector
        What the model is, of ``models.detector.DETECTORS``: what the policy asked for when it was trained.
    supervised
        A second model, which learned from labels; None while there are too few.
    created_from
        Where it comes from: ``parent`` bundle, ``config`` hash, and so on.
    """

    kind: Literal["starter", "trained"]
    features: str
    policy: str
    rules: Mapping[str, str] = field(default_factory=dict)
    model: bytes | None = None
    inputs: tuple[ModelInput, ...] = ()
    reference: tuple[float, ...] = ()
    calibration: Calibration | None = None
    account_calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    statistics: Mapping[str, float] = field(default_factory=dict)
    tables: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    lists: Mapping[str, Any] = field(default_factory=dict)
    overlays: Mapping[str, Any] = field(default_factory=dict)
    training_window: tuple[str, str] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    detector: str = FOREST
    supervised: Supervised | None = None
    created_from: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in ("starter", "trained"):
            raise ContractError(f"bundle: expected kind starter or trained, got {self.kind!r}")
        if (self.model is None) != (self.calibration is None) or (self.model is None) != (not self.inputs):
            raise ContractError("bundle: a model comes with its inputs and calibration, or not at all")
        if len(self.reference) != len(self.inputs):
            raise ContractError(
                f"bundle: expected {len(self.inputs)} reference values, one an input, got {len(self.reference)}"
            )
        if self.detector not in DETECTORS:
            raise ContractError(
                f"bundle: expected a model of {', '.join(DETECTORS)}, got {str(self.detector)[:40]!r}; a newer program "
                "wrote it: upgrade"
            )
        for name in (*self.rules, *self.tables):
            if not FILE_NAME.fullmatch(name):
                raise ContractError(f"bundle: expected a plain file name of A-Za-z0-9._-, got {name[:80]!r}")

    @cached_property
    def data(self) -> bytes:
        """The bundle's file."""
        return _pack(self)

    @cached_property
    def id(self) -> str:
        """``sha256:…`` of the file: the bundle's name in the object store, the log and every verdict."""
        return compute_bundle_id(self.data)

    def to_bytes(self) -> bytes:
        """The bundle's file; the same bundle gives the same bytes."""
        return self.data

    @classmethod
    def from_bytes(cls, data: bytes, expected_id: str | None = None) -> Bundle:
        """Read and verify a bundle's file.

        Parameters
        ----------
        expected_id
            The id it was asked for by: the file must hash to it.

        Raises
        ------
        ContractError
            When it is corrupt, cut off, changed, too large, of a newer format, or names paths outside it.
        """
        if len(data) > BUNDLE_BYTES_MAX:
            raise ContractError(f"bundle: expected at most {BUNDLE_BYTES_MAX} bytes, got {len(data)}")
        if expected_id is not None and compute_bundle_id(data) != expected_id:
            raise ContractError(
                f"bundle: expected content {expected_id}, got {compute_bundle_id(data)}: it was damaged or changed;"
                " publish it again"
            )
        bundle = _unpack(data)
        if bundle.data != data:
            raise ContractError(
                "bundle: the file says more than its bundle does; only the canonical form is accepted"
            )
        return bundle

    def with_model(self, trained: TrainedModel, kind: Literal["starter", "trained"]) -> Bundle:
        """The same bundle with a newly trained model; calibrations of accounts belonged to the old one."""
        return replace(
            self,
            kind=kind,
            model=trained.onnx,
            inputs=trained.inputs,
            reference=tuple(trained.reference.tolist()),
            calibration=trained.calibration,
            account_calibrations={},
            training_window=trained.window,
            metrics=dict(trained.metrics),
            detector=trained.detector,
        )

    def supervised_view(self) -> Bundle | None:
        """The bundle as it would be with the supervised model in the place of the forest; None without one."""
        one = self.supervised
        if one is None:
            return None
        return replace(
            self,
            model=one.onnx,
            inputs=one.inputs,
            reference=one.reference,
            calibration=one.calibration,
            account_calibrations=dict.fromkeys(one.accounts, one.calibration),
            supervised=None,
        )

    def build_scorer(self) -> Scorer | None:
        """The engine that serves the model, None without one.

        Raises
        ------
        ContractError
            When no engine can, or the model reads another number of inputs than the bundle names.
        """
        if self.model is None:
            return None
        scorer = load_scorer(self.model)
        if scorer.feature_count != len(self.inputs):
            raise ContractError(
                f"bundle: its model reads {scorer.feature_count} inputs, its manifest names {len(self.inputs)}"
            )
        return scorer


def _pack(bundle: Bundle) -> bytes:
    """Serialise: every part as a file, and a manifest with the hash of each."""
    parts = {"features.yaml": bundle.features.encode(), "policy.yaml": bundle.policy.encode()}
    parts |= {f"rules/{name}": text.encode() for name, text in bundle.rules.items()}
    parts |= {f"tables/{name}": text.encode() for name, text in bundle.tables.items()}
    if bundle.model is not None:
        parts["model.onnx"] = bundle.model
    calibrations: list[dict[str, Any]] = []
    owners: list[tuple[str | None, Calibration | None]] = [(None, bundle.calibration)]
    owners += sorted(bundle.account_calibrations.items())
    for account, calibration in owners:
        if calibration is not None:
            part = f"calibrations/{len(calibrations):06d}.points"
            parts[part] = calibration.to_bytes()
            calibrations.append(
                {"account": account, "part": part, "rows": calibration.rows, "cut": calibration.cut}
            )
    if bundle.supervised is not None:
        parts |= bundle.supervised.parts()
    try:
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "kind": bundle.kind,
            "inputs": plain_inputs(bundle.inputs),
            "reference": plain_values(bundle.reference),
            "calibrations": calibrations,
            "statistics": dict(bundle.statistics),
            "hashes": dict(bundle.hashes),
            "lists": dict(bundle.lists),
            "overlays": dict(bundle.overlays),
            "training_window": bundle.training_window,
            "metrics": dict(bundle.metrics),
            "created_from": dict(bundle.created_from),
            "parts": {name: hashlib.sha256(part).hexdigest() for name, part in parts.items()},
        }
        # Without one the bytes are as they were before there were any: the same bundle, the same name.
        if bundle.detector != FOREST:
            manifest["detector"] = bundle.detector
        if bundle.supervised is not None:
            manifest["supervised"] = bundle.supervised.entry()
        text = json.dumps(manifest, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ContractError(
            f"bundle: its manifest must be plain JSON with finite numbers: {error}"
        ) from error
    data = write_archive(parts | {_MANIFEST: text.encode()})
    if len(data) > BUNDLE_BYTES_MAX:
        raise ContractError(f"bundle: expected at most {BUNDLE_BYTES_MAX} bytes, got {len(data)}")
    return data


def _unpack(data: bytes) -> Bundle:
    parts = read_archive(data)
    if _MANIFEST not in parts:
        raise ContractError(f"bundle: it has no {_MANIFEST}: cut off, or not a bundle")
    try:
        manifest = json.loads(parts.pop(_MANIFEST))
        version = manifest["format"]
        if version != FORMAT:
            raise ContractError(
                f"bundle: expected format {FORMAT}, got {str(version)[:40]!r}; a newer program wrote it: upgrade"
            )
        hashes = {name: hashlib.sha256(part).hexdigest() for name, part in parts.items()}
        if hashes != manifest["parts"]:
            changed = sorted(dict(hashes.items() ^ manifest["parts"].items()))
            raise ContractError(f"bundle: the hash of {', '.join(changed[:5])} is not what its manifest says")
        calibrations = {
            entry["account"]: Calibration.from_bytes(parts[entry["part"]], entry["rows"], entry["cut"])
            for entry in manifest["calibrations"]
        }
        window = manifest["training_window"]
        return Bundle(
            kind=manifest["kind"],
            features=parts["features.yaml"].decode(),
            policy=parts["policy.yaml"].decode(),
            rules=_texts(parts, "rules/"),
            tables=_texts(parts, "tables/"),
            model=parts.get("model.onnx"),
            inputs=tuple(ModelInput(**entry) for entry in manifest["inputs"]),
            reference=read_values(manifest["reference"]),
            calibration=calibrations.pop(None, None),
            account_calibrations=calibrations,
            statistics=manifest["statistics"],
            hashes=manifest["hashes"],
            lists=manifest["lists"],
            overlays=manifest["overlays"],
            training_window=None if window is None else (window[0], window[1]),
            metrics=manifest["metrics"],
            detector=manifest.get("detector", FOREST),
            supervised=Supervised.read(manifest.get("supervised"), parts),
            created_from=manifest["created_from"],
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise ContractError(
            f"bundle: its manifest or a part is missing or malformed: {error!r:.200}"
        ) from error


def _texts(parts: Mapping[str, bytes], folder: str) -> dict[str, str]:
    return {
        name.removeprefix(folder): part.decode() for name, part in parts.items() if name.startswith(folder)
    }


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
