"""The part of a bundle that learned from labels: its model, what it may say, and how it lies in the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from anomalyze.models.calibration import Calibration
from anomalyze.models.forest import ModelInput
from anomalyze.models.training import TrainedModel

__all__ = ["PROVEN_CASES_MIN", "Proof", "Supervised", "plain_inputs", "plain_values", "read_values"]

# A model that shall say more than MEDIUM has to have been right about so many fraud cases of that account.
PROVEN_CASES_MIN = 50
_MODEL, _POINTS = "supervised.onnx", "supervised.points"


@dataclass(frozen=True, slots=True)
class Proof:
    """How a model did on an account's later days whose labels are settled.

    Attributes
    ----------
    cases
        Known frauds among them, by user and day.
    lead, lead_low
        Its lead in average precision over rules and statistics, and the lower bound of that, by users resampled.
    """

    cases: int
    lead: float
    lead_low: float

    @property
    def holds(self) -> bool:
        """Whether it has beaten rules and statistics on enough known fraud cases, and that is no chance."""
        return self.cases >= PROVEN_CASES_MIN and self.lead_low > 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Supervised:
    """A model that learned from labels, beside the isolation forest.

    Attributes
    ----------
    onnx, inputs, reference, calibration, window, metrics
        As of ``TrainedModel``.
    accounts
        Whose labels it learned from; of the others it is LEARNING.
    proofs
        How it did on later days, by account: of the others nothing is known.
    """

    onnx: bytes
    inputs: tuple[ModelInput, ...]
    reference: tuple[float, ...]
    calibration: Calibration
    window: tuple[str, str]
    metrics: Mapping[str, float]
    accounts: tuple[str, ...]
    proofs: Mapping[str, Proof] = field(default_factory=dict)

    @property
    def proven(self) -> bool:
        """Whether it may say more than MEDIUM of any account."""
        return any(proof.holds for proof in self.proofs.values())

    def proven_for(self, account: str) -> bool:
        """Whether it may say more than MEDIUM of this account."""
        proof = self.proofs.get(account)
        return proof is not None and proof.holds

    @classmethod
    def of(cls, trained: TrainedModel, accounts: Sequence[str]) -> Supervised:
        """A newly trained model, which has not proven anything yet."""
        return cls(
            onnx=trained.onnx,
            inputs=trained.inputs,
            reference=tuple(trained.reference.tolist()),
            calibration=trained.calibration,
            window=trained.window,
            metrics=dict(trained.metrics),
            accounts=tuple(accounts),
        )

    def parts(self) -> dict[str, bytes]:
        """Its files in the bundle."""
        return {_MODEL: self.onnx, _POINTS: self.calibration.to_bytes()}

    def entry(self) -> dict[str, Any]:
        """What the manifest says of it."""
        return {
            "inputs": plain_inputs(self.inputs),
            "reference": plain_values(self.reference),
            "rows": self.calibration.rows,
            "cut": self.calibration.cut,
            "window": self.window,
            "metrics": dict(self.metrics),
            "accounts": list(self.accounts),
            **self._proofs(),
        }

    def _proofs(self) -> dict[str, Any]:
        # A bundle without any reads as those of before there were any: the same bytes, the same name.
        if not self.proofs:
            return {"matured_frauds": 0, "lead_low": 0.0}
        return {"proofs": {account: asdict(proof) for account, proof in sorted(self.proofs.items())}}

    @classmethod
    def read(cls, entry: Mapping[str, Any] | None, parts: Mapping[str, bytes]) -> Supervised | None:
        """What ``entry`` and ``parts`` wrote; None for a bundle without one."""
        if entry is None:
            return None
        return cls(
            onnx=parts[_MODEL],
            inputs=tuple(ModelInput(**one) for one in entry["inputs"]),
            reference=read_values(entry["reference"]),
            calibration=Calibration.from_bytes(parts[_POINTS], entry["rows"], entry["cut"]),
            window=(entry["window"][0], entry["window"][1]),
            metrics=entry["metrics"],
            accounts=tuple(entry["accounts"]),
            proofs={account: Proof(**proof) for account, proof in entry.get("proofs", {}).items()},
        )


def plain_inputs(inputs: Sequence[ModelInput]) -> list[dict[str, Any]]:
    """Inputs as JSON values."""
    return [{"name": i.name, "group": i.group, "one_sided": i.one_sided} for i in inputs]


def plain_values(values: Sequence[float]) -> list[float | None]:
    """Numbers as JSON values: NaN is null."""
    return [None if np.isnan(value) else value for value in values]


def read_values(values: Sequence[float | None]) -> tuple[float, ...]:
    """What ``plain_values`` wrote."""
    return tuple(float("nan") if value is None else float(value) for value in values)
