"""The one detector: stream worker, backtest, training frame, synchronous answer and tests all call it.

``Detector.process`` is a function of (bundle, states, profiles, micro-batch): no clock, no I/O, no randomness. What it
says of a row does not depend on the rows beside it, so cutting the log elsewhere gives the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from anomalyze.detection.account import account_policies, account_rates
from anomalyze.detection.budget import BudgetJudge, load_thresholds
from anomalyze.detection.bundle import GAZETTEER, RATES, RULES, Bundle
from anomalyze.detection.case import anomaly_id
from anomalyze.detection.column import Columns
from anomalyze.detection.counterfactual import change_columns, columns_to_change, describe_changes
from anomalyze.detection.decision import compile_decision
from anomalyze.detection.explanation import Explainer, Finding, ordered
from anomalyze.detection.model import ModelJudgement, build_models
from anomalyze.detection.policy import Policy, parse_policy
from anomalyze.detection.row import Row, read_rows
from anomalyze.detection.state import STATE_FORMAT, PartitionState
from anomalyze.detection.statistic import COLUMNS, AmountJudge, Judged, TwoQuantile
from anomalyze.detection.verdict import Anomaly, Challenged, Ranked, Verdicts
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
from anomalyze.rules import ColumnTypes, RuleMode, RuleSet, compile_rules

__all__ = ["GAZETTEER", "RATES", "RULES", "STATE_FORMAT", "Detector", "PartitionState", "Verdicts"]

SEVERITIES = tuple(Severity)
# As plain numbers: on the way of every call, looking up a member of an enumeration is not free.
JUDGE, CONFLICT, NONE = int(Disposition.JUDGE), int(Disposition.CONFLICT), int(Severity.NONE)
LIVE, SHADOW = int(RuleMode.LIVE), int(RuleMode.SHADOW)


class _Decided(NamedTuple):
    """What features of a micro-batch come to; ``fired`` and ``shadow`` are ``[R, n]``."""

    columns: Columns
    fired: npt.NDArray[np.bool_]
    shadow: npt.NDArray[np.bool_]
    statistics: Judged
    model: ModelJudgement
    severity: npt.NDArray[np.int8]


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
        self.rules = compile_rules(rule_set, ColumnTypes.of_features(self.spec.kinds))
        starter = bundle.kind == "starter"
        supervised = bundle.supervised
        proven = supervised is not None and supervised.proven
        self._decision = compile_decision(self.policy, self.rules.rules, starter=starter, proven=proven)
        self.two_quantile = TwoQuantile.from_statistics(bundle.statistics)
        policies = account_policies(bundle, self.policy)
        self._amounts = AmountJudge(self.policy, self.two_quantile, policies)
        self._model = build_models(bundle, self.spec.names, self.policy, policies)
        self._account_rates = account_rates(bundle)
        self._budget = self._build_budget(policies)
        self._explainer = Explainer(
            self.spec,
            self.rules,
            tuple({i.name: i for i in (*bundle.inputs, *(supervised.inputs if supervised else ()))}.values()),
            self.two_quantile,
            usual_ranges(bundle.statistics),
            starter=starter,
        )
        self.daily_entities = tuple(dict.fromkeys(DAILY_PROFILE[name][0] for name in self.spec.daily_names))
        self._places = {name: i for i, name in enumerate(self.spec.names)}
        known = ColumnTypes.of_features(self.spec.kinds)
        self._rule_columns = tuple(sorted(self.rules.columns))
        self._judged_columns = tuple(
            name
            for name in dict.fromkeys([*self._rule_columns, *COLUMNS, *self._model.inputs])
            if name in known
        )
        self._changed_columns = columns_to_change(self._judged_columns, known)
        told = {rule.id: place for place, rule in enumerate(ordered(self.rules.rules))}
        self._told_order = np.array(
            sorted(range(len(told)), key=lambda r: told[self.rules.ids[r]]), dtype=np.intp
        )
        self._account_parameters: dict[str, AccountParameters] = {}

    def _build_budget(self, policies: Mapping[str, Policy]) -> BudgetJudge | None:
        """What ranks and limits, where the policy has a budget; ``policies`` are those of single accounts."""
        budget = self.policy.budget
        if budget is None:
            return None
        return BudgetJudge(
            budget,
            load_thresholds(self.bundle),
            self.rules.rules,
            self.two_quantile,
            self.policy.statistics.amount_base_min,
            {account: own.statistics.amount_base_min for account, own in policies.items()},
        )

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
        decided = self._decide(batch, features, states, profiled=profiled)
        columns, fired, shadow, judged, model, before = decided
        severity, ranked = self._within_budget(batch, decided, disposition)
        # The budget decides what people see, never what is let through.
        action = np.maximum(self._decision.actions[before], self._decision.actions[severity])
        verdicts = Verdicts(
            n=batch.n,
            bundle=self.bundle.id,
            spec=self.spec,
            disposition=disposition,
            features=features,
            history=history,
            rule_ids=self.rules.ids,
            fired=fired.T,
            shadow=shadow.T,
            ml_score=model.score,
            prediction=model.prediction,
            profiles=profiles.newest if profiles is not None and self.spec.label_names else None,
            daily_profiles=profiles.newest_daily if profiles is not None and self.spec.daily_names else None,
            severity=severity,
            action=action,
            dead=conflicts(batch, disposition),
            ranked=ranked,
        )
        flagged = np.flatnonzero(severity > NONE)
        if len(flagged):
            self._explain(batch, states, verdicts, columns, flagged, judged, model, profiled=profiled)
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
        decided = self._decide(batch, verdicts.features, states, profiled=verdicts.profiles is not None)
        severity, _ = self._within_budget(batch, decided, verdicts.disposition)
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

    def _decide(
        self,
        batch: MicroBatch,
        features: npt.NDArray[np.float64],
        states: Mapping[int, PartitionState],
        *,
        profiled: bool,
    ) -> _Decided:
        """Rules, statistics and model side by side, then the policy; ``states`` are only read."""
        columns = Columns(batch, self._places, features)
        fired, shadow = self._evaluate(batch, columns, states)
        judged = self._amounts.judge(columns, batch.n, batch.accounts, batch.account)
        model = self._model.judge(features, batch.accounts, batch.account, profiled=profiled)
        severity = self._decision.decide(fired, judged.severity, model.severity, model.learning)
        return _Decided(columns, fired, shadow, judged, model, severity)

    def _evaluate(
        self, batch: MicroBatch, columns: Columns, states: Mapping[int, PartitionState]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Live and shadow rules that fired, each ``[R, n]``."""
        if any(len(states[partition].lists) for partition, _, _ in batch.groups):
            parts = []
            for partition, first, end in batch.groups:
                part = columns.between(self._rule_columns, first, end)
                parts.append(
                    self.rules.evaluate(
                        part,
                        end - first,
                        states[partition].lists,
                        accounts=batch.accounts,
                        account=batch.account[first:end],
                        ts_ms=batch.append_ms[first:end],
                    ).T
                )
            fired = np.concatenate(parts, axis=1)
        else:
            fired = self.rules.evaluate(
                columns, batch.n, None, accounts=batch.accounts, account=batch.account
            ).T
        modes = self.rules.modes(batch.accounts, batch.account).T
        return fired & (modes == LIVE), fired & (modes == SHADOW)

    def _within_budget(
        self, batch: MicroBatch, decided: _Decided, disposition: npt.NDArray[np.int8]
    ) -> tuple[npt.NDArray[np.int8], Ranked | None]:
        """Severity of each row with the alert budget, and how it came about; as it was without one."""
        severity, unjudged = decided.severity, disposition != JUDGE
        severity[unjudged] = NONE
        if self._budget is None:
            return severity, None
        return self._rank(
            decided.fired,
            decided.columns,
            decided.statistics,
            decided.model,
            severity,
            batch.accounts,
            batch.account,
            unjudged,
        )

    def _rank(
        self,
        fired: npt.NDArray[np.bool_],
        columns: Mapping[str, npt.NDArray[Any]],
        judged: Judged,
        model: ModelJudgement,
        severity: npt.NDArray[np.int8],
        accounts: Sequence[str],
        account: npt.NDArray[np.int32],
        unjudged: npt.NDArray[np.bool_] | bool = False,
    ) -> tuple[npt.NDArray[np.int8], Ranked]:
        """Severity with the alert budget; only for a policy that has one."""
        assert self._budget is not None
        amount = columns.get("amount_base", np.full(len(severity), np.nan))
        return self._budget.rank(fired, amount, judged, model, severity, accounts, account, unjudged)

    def _explain(
        self,
        batch: MicroBatch,
        states: Mapping[int, PartitionState],
        verdicts: Verdicts,
        columns: Columns,
        rows: npt.NDArray[np.intp],
        judged: Judged,
        model: ModelJudgement,
        *,
        profiled: bool,
    ) -> None:
        """Cases, sentences and details of the flagged rows, in the order of their log."""
        features = verdicts.features[rows]
        bases = [self.base_currency(account) for account in batch.accounts]
        read = read_rows(batch, rows, self.spec.names, features, verdicts.history[rows], bases)
        findings = self._find(verdicts, read, rows, judged, model)
        changed = self._counterfactuals(batch, states, columns, rows, profiled=profiled)
        columns_of_rows = zip(
            rows.tolist(),
            batch.partition[rows].tolist(),
            map(tuple, batch.user_key[rows].tolist()),
            batch.tx_key[rows].tolist(),
            batch.ts_ms[rows].tolist(),
            (batch.append_ms[rows] - batch.ts_ms[rows] > self.policy.notify_age_max_ms).tolist(),
            verdicts.severity[rows].tolist(),
            read,
            findings,
            changed,
            strict=True,
        )
        for row, partition, key, tx, ts_ms, late, severity, values, found, severities in columns_of_rows:
            amount = values.number("amount_base")
            case = states[partition].cases.assign(
                key,
                tx,
                ts_ms,
                severity,
                float("nan") if amount is None else amount,
                self.policy.case_window_ms,
            )
            found.changes = describe_changes(values, severities)
            verdicts.anomalies[row] = Anomaly(
                id=anomaly_id(key, tx),
                case_id=case.id,
                case_anomalies=case.anomalies,
                late=late,
                explanation=self._explainer.sentence(values, found),
                details=self._details(values, found, verdicts.ranked, row),
            )

    def _details(self, values: Row, found: Finding, ranked: Ranked | None, row: int) -> dict[str, Any]:
        """What ``analysis`` says of an anomaly."""
        details = self._explainer.details(values, found)
        if self._budget is None or ranked is None:
            return details
        return self._budget.tell(details, ranked, row)

    def _find(
        self,
        verdicts: Verdicts,
        read: Sequence[Row],
        rows: npt.NDArray[np.intp],
        judged: Judged,
        model: ModelJudgement,
    ) -> list[Finding]:
        """What rules, statistics and model found in each of the flagged rows."""
        caps = np.where(model.learning[rows], *self._decision.model_caps)
        fired = verdicts.fired[rows][:, self._told_order]
        columns = zip(
            read,
            fired,
            judged.values[:, rows].T.tolist(),
            judged.severities[:, rows].T.tolist(),
            model.tail[rows].tolist(),
            np.minimum(model.severity[rows], caps).tolist(),
            self._model.explain(
                verdicts.features[rows], None if model.by_forest is None else model.by_forest[rows]
            ),
            strict=True,
        )
        return [
            Finding(
                rules=self._explainer.tell(
                    [self.rules.rules[r] for r in self._told_order[of_row].tolist()], values
                ),
                statistics=statistics,
                statistic_severities=severities,
                tail=tail,
                model_severity=SEVERITIES[model_severity],
                shares=shares,
            )
            for values, of_row, statistics, severities, tail, model_severity, shares in columns
        ]

    def _counterfactuals(
        self,
        batch: MicroBatch,
        states: Mapping[int, PartitionState],
        columns: Columns,
        rows: npt.NDArray[np.intp],
        *,
        profiled: bool,
    ) -> list[dict[str, Severity]]:
        """For each row, severity under each change that applies to it."""
        found: list[dict[str, Severity]] = [{} for _ in rows]
        changes = change_columns(columns.at(self._changed_columns, rows))
        applying = {name: np.flatnonzero(applies) for name, (_, applies) in changes.items()}
        # All changes of all rows are judged at once: what a call costs is paid once a micro-batch.
        at = np.concatenate(list(applying.values()))
        if not len(at):
            return found
        changed = {
            column: np.concatenate([changes[name][0][column][here] for name, here in applying.items()])
            for column in self._judged_columns
        }
        account = batch.account[rows[at]]
        fired = self._live(batch, states, changed, rows[at], account)
        inputs = np.column_stack([changed[name] for name in self._model.inputs] or [np.empty((len(at), 0))])
        model = self._model.judge_inputs(inputs, batch.accounts, account, profiled=profiled)
        statistics = self._amounts.judge(changed, len(at), batch.accounts, account)
        severity = self._decision.decide(fired, statistics.severity, model.severity, model.learning)
        if self._budget is not None:
            severity, _ = self._rank(fired, changed, statistics, model, severity, batch.accounts, account)
        names = [name for name, here in applying.items() for _ in range(len(here))]
        for i, name, level in zip(at.tolist(), names, severity.tolist(), strict=True):
            found[i][name] = SEVERITIES[level]
        return found

    def _live(
        self,
        batch: MicroBatch,
        states: Mapping[int, PartitionState],
        columns: Mapping[str, npt.NDArray[Any]],
        rows: npt.NDArray[np.intp],
        account: npt.NDArray[np.int32],
    ) -> npt.NDArray[np.bool_]:
        """Live rules that fire on these columns, ``[R, n]``; ``rows`` are those they were made from."""
        fired = np.empty((len(self.rules), len(rows)), dtype=np.bool_)
        partitions = batch.partition[rows]
        for partition, _, _ in batch.groups:
            here = np.flatnonzero(partitions == partition)
            if len(here):
                fired[:, here] = self.rules.evaluate(
                    {name: columns[name][here] for name in self._rule_columns},
                    len(here),
                    states[partition].lists,
                    accounts=batch.accounts,
                    account=account[here],
                    ts_ms=batch.append_ms[rows[here]],
                ).T
        live: npt.NDArray[np.bool_] = fired & (self.rules.modes(batch.accounts, account).T == LIVE)
        return live


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


def usual_ranges(statistics: Mapping[str, float]) -> dict[str, tuple[float, float, float]]:
    """Training quantiles by feature, from the bundle's plain numbers."""
    names = {name.removeprefix("usual_mid_") for name in statistics if name.startswith("usual_mid_")}
    return {
        name: (
            statistics[f"usual_low_{name}"],
            statistics[f"usual_mid_{name}"],
            statistics[f"usual_high_{name}"],
        )
        for name in sorted(names)
    }
