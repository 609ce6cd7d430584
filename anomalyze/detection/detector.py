"""The one detector: stream worker, backtest, training frame, synchronous answer and tests all call it.

``Detector.process`` is a function of (bundle, states, profiles, micro-batch): no clock, no I/O, no randomness. What it
says of a row does not depend on the rows beside it, so cutting the log elsewhere gives the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyze.detection.account_overlay import account_rates
from anomalyze.detection.bundle import GAZETTEER, RATES, RULES, Bundle
from anomalyze.detection.flagged import Teller
from anomalyze.detection.judgement import Judgement
from anomalyze.detection.policy import parse_policy
from anomalyze.detection.state import STATE_FORMAT, PartitionState
from anomalyze.detection.verdict import Challenged, Verdicts
from anomalyze.errors import ContractError, EventError
from anomalyze.events.batch import Control, DeadLetter, MicroBatch, Severity
from anomalyze.events.gazetteer import Gazetteer
from anomalyze.events.hashing import text_key, user_key
from anomalyze.events.money import RateTable
from anomalyze.features import AccountParameters, compute_features, prepare_rows
from anomalyze.features.catalogue import DAILY_PROFILE
from anomalyze.features.daily import batch_keys
from anomalyze.features.snapshot import Profiles, merchant_keys
from anomalyze.features.spec import FeatureSpec
from anomalyze.features.state import Disposition
from anomalyze.rules import RuleSet

__all__ = ["GAZETTEER", "RATES", "RULES", "STATE_FORMAT", "Detector", "PartitionState", "Verdicts"]

# As plain numbers: on the way of every call, looking up a member of an enumeration is not free.
JUDGE, CONFLICT, NONE = int(Disposition.JUDGE), int(Disposition.CONFLICT), int(Severity.NONE)


class Detector:
    """Judges micro-batches by one bundle; made once a bundle, never changed, free for several threads.

    Parameters
    ----------
    bundle
        What decides.

    Raises
    ------
    ContractError
        The bundle contradicts itself or lacks a part: keep the last good one.

    Attributes
    ----------
    bundle
        The bundle.
    policy, spec, rules
        What it holds, parsed.
    gazetteer
        Its places: the decoder takes them.
    two_quantile
        Its day-one statistic; None when it was fitted to nothing.
    daily_entities
        Kinds of entities whose profiles of whole days its features read.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.policy = parse_policy(bundle.policy, f"{bundle.id}/policy.yaml")
        self.spec = FeatureSpec.from_yaml(bundle.features, f"{bundle.id}/features.yaml")
        try:
            rule_set = RuleSet.from_json(bundle.rules[RULES].encode()) if bundle.rules else RuleSet()
            self.rates = RateTable.from_content(bundle.tables[RATES].encode())
            self.gazetteer = Gazetteer.from_content(bundle.tables[GAZETTEER].encode())
        except KeyError as error:
            raise ContractError(f"bundle {bundle.id}: expected a part {error.args[0]}") from error
        self._judgement = Judgement(bundle, self.policy, self.spec, rule_set)
        self.rules, self.two_quantile = self._judgement.rules, self._judgement.two_quantile
        self._teller = Teller(bundle, self.spec, self._judgement)
        self._account_rates = account_rates(bundle)
        self.daily_entities = tuple(dict.fromkeys(DAILY_PROFILE[name][0] for name in self.spec.daily_names))
        self._account_parameters: dict[str, AccountParameters] = {}

    def process(
        self,
        batch: MicroBatch,
        states: Mapping[int, PartitionState],
        profiles: Profiles | None = None,
    ) -> Verdicts:
        """Judge a micro-batch and move the states of its partitions on.

        Parameters
        ----------
        batch
            Rows sorted by (partition, offset), each partition's beginning where its state ends.
        states
            By partition; changed.
        profiles
            What labels said of merchants, and what was known of everybody at the end of the day before; without
            them those features are NULL, and a model that reads what labels said is silent.
        """
        features, disposition, history = self._compute_features(batch, states, profiles)
        profiled = profiles is not None and profiles.newest is not None
        decided = self._judgement.decide(batch, features, states, profiled=profiled)
        severity, ranked = self._judgement.within_budget(batch, decided, disposition)
        # The budget decides what people see, never what is let through.
        actions = self._judgement.decision.actions
        action = np.maximum(actions[decided.severity], actions[severity])
        verdicts = Verdicts(
            n=batch.n,
            bundle=self.bundle.id,
            spec=self.spec,
            disposition=disposition,
            features=features,
            history=history,
            rule_ids=self.rules.ids,
            fired=decided.fired.T,
            shadow=decided.shadow.T,
            ml_score=decided.model.score,
            prediction=decided.model.prediction,
            profiles=profiles.newest if profiles is not None and self.spec.label_names else None,
            daily_profiles=profiles.newest_daily if profiles is not None and self.spec.daily_names else None,
            severity=severity,
            action=action,
            dead=conflicts(batch, disposition),
            ranked=ranked,
        )
        flagged = np.flatnonzero(severity > NONE)
        if len(flagged):
            bases = [self.base_currency(account) for account in batch.accounts]
            self._teller.tell(batch, states, verdicts, decided, flagged, bases, profiled=profiled)
        return verdicts

    def challenge(
        self,
        batch: MicroBatch,
        states: Mapping[int, PartitionState],
        verdicts: Verdicts,
    ) -> Challenged:
        """What this detector would have said of rows that another one, the champion, has judged.

        It reads the champion's features and changes nothing: no state moves on, no case is opened, nothing is
        explained.

        Parameters
        ----------
        states
            By partition; only their lists are read.
        verdicts
            The champion's, of the same rows, by a bundle with equal features (``differing_features``).
        """
        decided = self._judgement.decide(
            batch, verdicts.features, states, profiled=verdicts.profiles is not None
        )
        severity, _ = self._judgement.within_budget(batch, decided, verdicts.disposition)
        return Challenged(
            bundle=self.bundle.id,
            rule_ids=self.rules.ids,
            said=np.ones(batch.n, dtype=np.bool_),
            severity=severity,
            ml_score=decided.model.score,
            fired=decided.fired.T,
        )

    def differing_features(self, other: Detector) -> str | None:
        """Which part of the bundle makes another detector's features different ones; None when they are equal.

        Equal parts give equal features of the same rows and states, to the bit.
        """
        if self.bundle.features != other.bundle.features:
            return "features.yaml"
        for name in (RATES, GAZETTEER):
            if self.bundle.tables.get(name) != other.bundle.tables.get(name):
                return name
        for account in sorted(self.bundle.overlays.keys() | other.bundle.overlays.keys()):
            rates = [one.bundle.overlays.get(account, {}).get("currency_rates") for one in (self, other)]
            if self._parameters(account) != other._parameters(account) or rates[0] != rates[1]:
                return f"overlay of {account}"
        return None

    def apply_control(self, control: Control, state: PartitionState) -> str | None:
        """Follow a control record that changes a partition's state.

        Returns why the record was refused (the state is then as before), else None. Records of kind
        ``bundle`` are the worker's: they name another detector.
        """
        if control.kind == "label":
            return self._apply_label(control.body, state)
        if control.kind != "list":
            return f"control: expected label, list or bundle, got {control.kind!r}"
        try:
            state.lists.apply(control.body)
        except EventError as error:
            return str(error)
        return None

    def _apply_label(self, body: Mapping[str, Any], state: PartitionState) -> str | None:
        """Keep a known fraud out of its user's baseline, or take that back; unknown transactions are no news.

        ``{"control": "label", "account_id", "user_id", "tx_id", "fraud"}``, in the partition of the user or in
        all of them.
        """
        texts = [body.get(name) for name in ("account_id", "user_id", "tx_id")]
        fraud = body.get("fraud")
        if not isinstance(fraud, bool) or not all(isinstance(text, str) for text in texts):
            return f"control label: expected account_id, user_id, tx_id and fraud (true or false), got {dict(body)!r:.200}"
        account_id, user_id, tx_id = map(str, texts)
        state.features.mark_fraud(user_key(account_id, user_id), text_key(tx_id), fraud)
        return None

    def base_currency(self, account_id: str) -> str:
        """Currency that an account's amounts are compared in."""
        return self._parameters(account_id).base_currency or self.spec.document.base_currency

    def _parameters(self, account_id: str) -> AccountParameters:
        overlay = self.bundle.overlays.get(account_id)
        if not overlay:
            return AccountParameters()
        found = self._account_parameters.get(account_id)
        if found is None:
            names = ("time_zone", "base_currency", "population_amount_median")
            found = AccountParameters(**{name: overlay[name] for name in names if name in overlay})
            self._account_parameters[account_id] = found
        return found

    def _compute_features(
        self, batch: MicroBatch, states: Mapping[int, PartitionState], profiles: Profiles | None
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int8], npt.NDArray[np.uint8]]:
        amount, unknown = self._amounts_base(batch)
        parameters = [self._parameters(account) for account in batch.accounts]
        rows = prepare_rows(self.spec, batch, amount, unknown, parameters)
        features = np.empty((batch.n, len(self.spec.names)))
        disposition = np.empty(batch.n, dtype=np.int8)
        history = np.empty(batch.n, dtype=np.uint8)
        for partition, first, end in batch.groups:
            compute_features(
                self.spec, rows, first, end, states[partition].features, features, disposition, history
            )
        if profiles is not None and self.spec.profile_names:
            self._join_profiles(
                batch, profiles, rows.account_key.view(np.uint64)[batch.account], features, disposition
            )
        return features, disposition, history

    def _join_profiles(
        self,
        batch: MicroBatch,
        profiles: Profiles,
        account_key: npt.NDArray[np.uint64],
        features: npt.NDArray[np.float64],
        disposition: npt.NDArray[np.int8],
    ) -> None:
        """Write the last columns of the features, of judged rows."""
        first = len(self.spec.source)
        labels, daily = self.spec.label_names, self.spec.daily_names
        if labels:
            keys = merchant_keys(account_key, batch.merchant)
            keys[disposition != JUDGE] = 0
            profiles.join(labels, batch.ts_ms, keys, features[:, first : first + len(labels)])
        if daily and profiles.newest_daily is not None:
            out = features[:, first + len(labels) :]
            profiles.join_daily(daily, batch.ts_ms, batch_keys(self.daily_entities, batch, account_key), out)
            out[disposition != JUDGE] = np.nan

    def _amounts_base(self, batch: MicroBatch) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        # By the name of the account whose table it is ("": everybody's) and the currency.
        bases = [
            (account if account in self._account_rates else "", self.base_currency(account))
            for account in batch.accounts
        ]
        if len(set(bases)) == 1:
            owner, base = bases[0]
            rates = self._account_rates.get(owner, self.rates)
            return rates.to_base_minor(batch.amount_minor, batch.currency, batch.ts_ms, base)
        amount = np.zeros(batch.n, dtype=np.int64)
        unknown = np.ones(batch.n, dtype=np.bool_)
        for one in sorted(set(bases)):
            rows = np.flatnonzero(np.array([b == one for b in bases])[batch.account])
            rates = self._account_rates.get(one[0], self.rates)
            amount[rows], unknown[rows] = rates.to_base_minor(
                batch.amount_minor[rows], batch.currency[rows], batch.ts_ms[rows], one[1]
            )
        return amount, unknown


def conflicts(batch: MicroBatch, disposition: npt.NDArray[np.int8]) -> list[DeadLetter]:
    """Dead letters of rows that claim an identity which another payload has."""
    return [
        DeadLetter(
            partition=int(batch.partition[row]),
            offset=int(batch.offset[row]),
            reason="conflict",
            field="data",
            expected="the fields that this tx_id was first sent with (only status may change)",
            got="other values for the same account, user and tx_id",
            value=batch.row_bytes(row),
        )
        for row in np.flatnonzero(disposition == CONFLICT).tolist()
    ]
