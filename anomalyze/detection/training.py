"""From a configuration folder and a history to a bundle: the one way in which bundles are made.

The training frame is what ``Detector.process`` itself computed for each row of the history, so that training
and serving cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from anomalyze.detection.account import Versioned, read_account_folder
from anomalyze.detection.account_overlay import with_documents
from anomalyze.detection.bundle import GAZETTEER, RATES, RULES, Bundle
from anomalyze.detection.detector import Detector
from anomalyze.detection.policy import load_policy, parse_policy
from anomalyze.detection.state import PartitionState
from anomalyze.detection.statistic import fit_two_quantile
from anomalyze.errors import ConfigError
from anomalyze.events.batch import MicroBatch
from anomalyze.events.gazetteer import Gazetteer
from anomalyze.events.money import RateTable
from anomalyze.features.spec import FeatureSpec
from anomalyze.features.state import Disposition
from anomalyze.models.calibration import fit_calibration
from anomalyze.models.forest import DEFAULT_INPUTS
from anomalyze.models.training import train_bundle_model
from anomalyze.rules import ColumnTypes
from anomalyze.rules.file import load_rule_set

__all__ = ["Frame", "build_bundle", "collect_frame", "train_bundle"]

USUAL = (("low", 0.05), ("mid", 0.5), ("high", 0.95))
# Enough for a forest of 512-row samples and for rarities of one in 10,000; more only costs time.
TRAINING_ROWS_MAX = 400_000
# Features that training reads: the model's inputs, and the statistics'.
TRAINED_ON = tuple(dict.fromkeys([*(i.name for i in DEFAULT_INPUTS), "user_amount_lr", "amount_base"]))


@dataclass(frozen=True, slots=True)
class Frame:
    """Features of a history, rows in the order of their log.

    Attributes
    ----------
    names, features
        What training reads: float64 ``[n, len(names)]``, NaN = NULL, of judged rows.
    account
        int32 ``[n]``, index into ``accounts``.
    window
        First and last event time, RFC 3339.
    """

    names: tuple[str, ...]
    features: npt.NDArray[np.float64]
    accounts: tuple[str, ...]
    account: npt.NDArray[np.int32]
    window: tuple[str, str]


def build_bundle(config_dir: Path) -> Bundle:
    """What a configuration folder says, without a model: rules and statistics alone.

    Raises
    ------
    ConfigError
        A file is missing or wrong.
    """
    features = config_dir / "features.yaml"
    policy = config_dir / "policy.yaml"
    levels = load_policy(policy)
    spec = FeatureSpec.load(features)
    columns = ColumnTypes.of_features(spec.kinds)
    rules = load_rule_set(config_dir / "rules", columns)
    accounts = read_account_folder(config_dir, rules, columns, levels)
    bundle = Bundle(
        kind="trained",
        features=spec.text,
        policy=policy.read_text(encoding="utf-8"),
        rules={RULES: rules.to_json().decode()},
        tables={
            RATES: RateTable.load(config_dir / "currency_rates.yaml").content.decode(),
            GAZETTEER: Gazetteer.load(config_dir).content.decode(),
        },
    )
    return with_documents(bundle, {name: Versioned(0, document) for name, document in accounts.items()})


def collect_frame(
    bundle: Bundle,
    batches: Iterable[MicroBatch],
    states: Mapping[int, PartitionState],
    admit: Callable[[MicroBatch], npt.NDArray[np.bool_]] | None = None,
) -> Frame:
    """Run a history through the bundle's detector and keep what it computed.

    Parameters
    ----------
    batches
        Micro-batches in the order of the log.
    states
        By partition; moved on.
    admit
        Which rows of a micro-batch may be kept; all make the history of those after them.
    """
    detector = Detector(bundle)
    source = np.array([detector.spec.index(name) for name in TRAINED_ON], dtype=np.intp)
    features: list[npt.NDArray[np.float64]] = []
    account: list[npt.NDArray[np.int32]] = []
    ids: dict[str, int] = {}
    first_ms, last_ms = np.iinfo(np.int64).max, np.iinfo(np.int64).min
    for batch in batches:
        verdicts = detector.process(batch, states)
        judged = verdicts.disposition == Disposition.JUDGE
        if admit is not None:
            judged &= admit(batch)
        codes = np.array([ids.setdefault(name, len(ids)) for name in batch.accounts], dtype=np.int32)
        features.append(verdicts.features[judged][:, source])
        account.append(codes[batch.account[judged]])
        if batch.n:
            first_ms, last_ms = min(first_ms, int(batch.ts_ms.min())), max(last_ms, int(batch.ts_ms.max()))
    if not features:
        raise ConfigError("training: expected a history, got no transaction")
    return Frame(
        TRAINED_ON,
        np.concatenate(features),
        tuple(ids),
        np.concatenate(account),
        (instant(first_ms), instant(last_ms)),
    )


def train_bundle(bundle: Bundle, frame: Frame, kind: Literal["starter", "trained"], seed: int = 0) -> Bundle:
    """The bundle with a model, statistics and calibrations of this history; its policy says which detector.

    A trained bundle has calibrations of their own for the accounts with enough rows in it; the others stay
    LEARNING.
    """
    features = frame.features[-TRAINING_ROWS_MAX:]
    account = frame.account[-TRAINING_ROWS_MAX:]
    policy = parse_policy(bundle.policy)
    trained = train_bundle_model(
        features, frame.names, window=frame.window, seed=seed, detector=policy.model.detector
    )
    column = {name: features[:, i] for i, name in enumerate(frame.names)}
    two_quantile = fit_two_quantile(
        column["user_amount_lr"], column["amount_base"], use_amount=kind == "trained"
    )
    statistics = {} if two_quantile is None else two_quantile.to_statistics()
    for model_input in trained.inputs:
        values = column[model_input.name]
        values = values[~np.isnan(values)]
        for place, share in USUAL:
            statistics[f"usual_{place}_{model_input.name}"] = float(np.quantile(values, share))
    made = replace(bundle.with_model(trained, kind), statistics=statistics)
    if kind == "starter":
        return made
    scorer = made.build_scorer()
    assert scorer is not None
    rows = np.column_stack([column[i.name] for i in made.inputs]).astype(np.float32)
    scores = scorer.score(rows)
    rows_min = policy.model.learning_rows_min
    own = {
        name: fit_calibration(scores[account == i])
        for i, name in enumerate(frame.accounts)
        if (account == i).sum() >= rows_min
    }
    return replace(made, account_calibrations=own)


def instant(ms: int) -> str:
    """RFC 3339 in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat().replace("+00:00", "Z")
