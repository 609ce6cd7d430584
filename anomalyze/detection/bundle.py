"""A bundle: all that decides, in one immutable file named by its content.

Features, rules, policy, model, calibration, tables, lists and overlays travel together, so a verdict that
names its bundle can be recomputed to the bit. The file is a plain tar (``tar tf`` reads it) with fixed
metadata and sorted names: the same bundle gives the same bytes, and only those bytes are accepted back.
Changing a rule makes a new bundle with the same model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from anomalyze.detection.archive import FILE_NAME, read_archive, write_archive
from anomalyze.detection.supervised import Supervised, plain_inputs, plain_values, read_values
from anomalyze.errors import ContractError
from anomalyze.models.calibration import Calibration
from anomalyze.models.detector import DETECTORS, FOREST
from anomalyze.models.export import MODEL_BYTES_MAX
from anomalyze.models.forest import ModelInput
from anomalyze.models.runtime import Scorer, load_scorer
from anomalyze.models.training import TrainedModel

__all__ = [
    "BUNDLE_BYTES_MAX",
    "FORMAT",
    "GAZETTEER",
    "RATES",
    "RULES",
    "Bundle",
    "compute_bundle_id",
]

FORMAT = 1
BUNDLE_BYTES_MAX = MODEL_BYTES_MAX + (64 << 20)
_MANIFEST = "manifest.json"
# Names of the parts that a detector reads.
RULES, RATES, GAZETTEER = "rules.json", "currency_rates.json", "gazetteer.json"


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
