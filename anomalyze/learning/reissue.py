"""A champion that has proven itself since it was published, published anew with its proof.

Bundles never change, and a model may say more than MEDIUM of an account only where its bundle says that it has beaten
rules and statistics there. Each training asks the champion's model on the days that have matured since. Where that
now holds, the same bundle with the newer proofs becomes the challenger, for people or the rule to promote.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec

from anomalyze.bus.contract import Bus
from anomalyze.detection.account_overlay import core_id
from anomalyze.detection.bundle import Bundle
from anomalyze.detection.bundle_store import BundleStore
from anomalyze.detection.supervised import Proof
from anomalyze.errors import ContractError
from anomalyze.learning.evaluation import Evaluation
from anomalyze.learning.promotion import CHALLENGER, CHAMPION, publish_challenger
from anomalyze.learning.report import CheckSaid, Report, report_path
from anomalyze.storage.objects import ObjectStore

__all__ = ["Reissue", "newly_proven", "reissue_champion", "with_proofs"]


@dataclass(frozen=True, slots=True)
class Reissue:
    """What was published: the bundle, whose it is the proof of, and what proves it, by account."""

    bundle: str
    champion: str
    proofs: Mapping[str, Proof]


def newly_proven(champion: Bundle, measured: Mapping[str, Proof]) -> dict[str, Proof]:
    """Proofs that hold, of accounts of which the bundle does not say so yet."""
    model = champion.supervised
    if model is None:
        return {}
    return {
        account: proof
        for account, proof in sorted(measured.items())
        if proof.holds and account in model.accounts and not model.proven_for(account)
    }


def with_proofs(bundle: Bundle, proofs: Mapping[str, Proof]) -> Bundle:
    """The same bundle, saying that it has proven itself to these accounts."""
    assert bundle.supervised is not None, "only a model that learned from labels proves anything"
    model = replace(bundle.supervised, proofs={**bundle.supervised.proofs, **proofs})
    return replace(bundle, supervised=model, created_from={**bundle.created_from, "parent": bundle.id})


def reissue_champion(
    store: BundleStore, objects: ObjectStore, bus: Bus, candidate: str, evaluation: Evaluation
) -> Reissue | None:
    """Publish the champion with what it has proven as challenger; None where there is nothing new to say.

    Parameters
    ----------
    candidate
        Of the same training: where that passed its checks and is the challenger, it goes before.
    evaluation
        Of the champion beside it.

    Raises
    ------
    ContractError, TransientError
        As `promotion.publish_challenger`.
    """
    champion_id = store.pointer(CHAMPION)
    if champion_id is None or evaluation.champion is None or store.pointer(CHALLENGER) == candidate:
        return None
    champion = store.load(champion_id)
    proofs = newly_proven(champion, evaluation.champion_proofs)
    if not proofs or not _was_asked(store, champion, evaluation.champion.bundle):
        return None
    made = with_proofs(champion, proofs)
    if store.pointer(CHALLENGER) == made.id:
        return None
    # Before the pointer names it, as for a candidate.
    objects.put(report_path(made.id), msgspec.json.encode(_report(made.id, champion_id, proofs, evaluation)))
    publish_challenger(store, bus, made, note=f"the same, with its proof for {', '.join(proofs)}"[:400])
    return Reissue(made.id, champion_id, proofs)


def _was_asked(store: BundleStore, champion: Bundle, asked: str) -> bool:
    """Whether the champion in force is the one that was measured; settings and thresholds may be newer."""
    if champion.id == asked:
        return True
    try:
        return core_id(store.load(asked)) == core_id(champion)
    except ContractError:
        return False


def _report(made: str, champion: str, proofs: Mapping[str, Proof], evaluation: Evaluation) -> Report:
    assert evaluation.champion is not None
    says = "; ".join(
        f"{account}: average precision {proof.lead:+.3f} above rules and statistics (surely {proof.lead_low:+.3f}) "
        f"on {proof.cases} fraud cases"
        for account, proof in proofs.items()
    )
    return Report(
        made,
        champion,
        evaluation.days,
        evaluation.champion.rows,
        evaluation.champion.cases,
        evaluation.champion.cases,
        evaluation.windows,
        [CheckSaid("proof", True, f"The champion itself, which may now exceed MEDIUM. {says}.")],
    )
