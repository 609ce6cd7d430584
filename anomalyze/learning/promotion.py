"""Publish, promote, roll back: a pointer moves in the object store, then the log is told.

Moving a pointer changes no verdict; the control record in every partition of the log does. The pointer
``announced`` follows when the log knows, so that a promotion that died between the two is completed by the next
one, or by the next `anomalyze up`.

The challenger is named in the log the same way. It is shadowed while it is not the champion: promoting it ends that,
rolling back from it begins it again.

What accounts saved goes along: a bundle that is promoted or gone back to takes the newest documents of the champion
before it. So neither a model that was trained before an edit nor a roll back undoes the edit; an account's settings
have a history of their own.
"""

from __future__ import annotations

from anomalyze.bus.contract import Bus
from anomalyze.bus.control import announce
from anomalyze.detection.account_overlay import core_id, with_newest_documents
from anomalyze.detection.bundle import Bundle
from anomalyze.detection.bundle_store import ANY, BundleStore, Move
from anomalyze.errors import ConfigError, ContractError, TransientError
from anomalyze.log import get
from anomalyze.settings import Settings
from anomalyze.storage.objects import open_objects

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "announce_challenger",
    "announce_champion",
    "find_bundle",
    "open_bundles",
    "promote",
    "publish_challenger",
    "rename_challenger",
    "roll_back",
]

CHAMPION = "champion"
CHALLENGER = "challenger"
ANNOUNCED = "announced"
ANNOUNCED_CHALLENGER = "announced-challenger"
# More people than this do not move the champion at once.
ATTEMPTS_MAX = 10


def open_bundles(settings: Settings) -> BundleStore:
    """The bundle store that the settings name."""
    return BundleStore(open_objects(settings.object_store, s3_endpoint_url=settings.s3_endpoint_url))


def find_bundle(store: BundleStore, name: str) -> str:
    """Id of a bundle by pointer, or by the beginning of its id.

    Raises
    ------
    ConfigError
        When there is none, or more than one.
    """
    if name in (CHAMPION, CHALLENGER):
        bundle_id = store.pointer(name)
        if bundle_id is None:
            raise ConfigError(f"there is no {name} yet; `anomalyze bundle list` shows what there is")
        return bundle_id
    wanted = name.removeprefix("sha256:")
    found = [one for one in store.list() if one.removeprefix("sha256:").startswith(wanted)]
    if len(found) != 1:
        what = "no bundle begins" if not found else f"{len(found)} bundles begin"
        raise ConfigError(f"{what} with {name!r}; `anomalyze bundle list` shows what there is")
    return found[0]


def publish_challenger(store: BundleStore, bus: Bus, bundle: Bundle, note: str = "") -> Move:
    """Publish a bundle under its hash, point ``challenger`` at it and tell the log, from where it is shadowed.

    Doing so again tells the log again, which a worker that refused it meanwhile takes as a request to look again.

    Raises
    ------
    ContractError
        When what lies in the store is not what was published.
    TransientError
        When the store or the log does not answer: publish it again.
    """
    store.publish(bundle)
    move = store.set_pointer(CHALLENGER, bundle.id, note=note)
    _tell_of_challenger(store, bus, bundle.id)
    return move


def promote(
    store: BundleStore, bus: Bus, bundle_id: str, *, expected: str | None = ANY, note: str = ""
) -> Move:
    """Make a published bundle the champion and tell the log; each partition swaps where it meets the record.

    Parameters
    ----------
    expected
        Promote only if this bundle (None: no bundle), or the same with newer settings of accounts, is the champion
        now; ``ANY``: whatever is.

    Returns
    -------
    Move
        It names another bundle than the one asked for where accounts saved settings since that was made: the same
        with these.

    Raises
    ------
    ContractError
        When the bundle is missing or damaged, or another than expected is the champion.
    TransientError
        When the store or the log does not answer: promote it again.
    """
    for _ in range(ATTEMPTS_MAX):
        champion = store.pointer(CHAMPION)
        made = _with_settings_of(store, champion, bundle_id)
        awaited = champion if expected == ANY or _same_core(store, champion, expected) else expected
        try:
            move = store.set_pointer(CHAMPION, made, awaited, note=note)
        except ContractError:
            if awaited == champion and store.pointer(CHAMPION) != champion:
                continue  # somebody else moved it: what he saved goes along too
            raise
        announce_champion(store, bus)
        if made != bundle_id:
            rename_challenger(store, bus, bundle_id, made)
        return move
    raise TransientError(f"the champion was moved by others {ATTEMPTS_MAX} times in a row: try again")


def _with_settings_of(store: BundleStore, champion: str | None, bundle_id: str) -> str:
    """Id of the bundle with the champion's newer settings of accounts; published where it is another one."""
    if champion in (None, bundle_id):
        return bundle_id
    assert champion is not None
    bundle = store.load(bundle_id)
    try:
        made = with_newest_documents(bundle, store.load(champion))
    except ContractError as error:
        # A damaged champion must not keep a sound one out; the next save lays the settings over it again.
        get().error("settings_not_carried", bundle=bundle_id, champion=champion, reason=str(error))
        return bundle_id
    return bundle_id if made is bundle else store.publish(made)


def roll_back(store: BundleStore, bus: Bus, note: str = "") -> Move:
    """Make the champion before this one the champion again and tell the log. Raises as `promote`.

    Champions that differ only in accounts' settings, or in fitted thresholds of the alert budget, count as one; the
    newest settings stay.
    """

    move = store.roll_back(
        CHAMPION,
        note,
        counts=lambda last, earlier: not _same_core(store, last, earlier),
        compose=lambda last, earlier: _with_settings_of(store, last, earlier),
    )
    announce_champion(store, bus)
    return move


def _same_core(store: BundleStore, one: str | None, other: str | None) -> bool:
    """Whether two bundles are the same apart from settings and fitted thresholds; a damaged one is like no other."""
    if one is None or other is None or one == other:
        return one == other
    try:
        return core_id(store.load(one)) == core_id(store.load(other))
    except ContractError:
        return False


def announce_champion(store: BundleStore, bus: Bus) -> None:
    """Tell the log of the champion, unless that was done."""
    champion = store.pointer(CHAMPION)
    if champion is not None and store.pointer(ANNOUNCED) != champion:
        announce(bus, "bundle", {"bundle": champion})
        store.set_pointer(ANNOUNCED, champion)


def announce_challenger(store: BundleStore, bus: Bus) -> None:
    """Tell the log of the challenger, unless that was done."""
    challenger = store.pointer(CHALLENGER)
    if challenger is not None and store.pointer(ANNOUNCED_CHALLENGER) != challenger:
        _tell_of_challenger(store, bus, challenger)


def rename_challenger(store: BundleStore, bus: Bus, before: str, after: str) -> None:
    """Where the challenger is the champion, it stays so when that becomes the same with newer settings.

    Else the log would take the challenger for another bundle, and shadow it.
    """
    if store.pointer(CHALLENGER) == before != after:
        store.set_pointer(CHALLENGER, after, before, note="with the accounts' newest settings")
        announce_challenger(store, bus)


def _tell_of_challenger(store: BundleStore, bus: Bus, challenger: str) -> None:
    announce(bus, "challenger", {"bundle": challenger})
    store.set_pointer(ANNOUNCED_CHALLENGER, challenger)
