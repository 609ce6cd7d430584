"""Saving what an account says of how it is judged: checked, kept as a version, and brought into force.

A save is stored first, then a bundle with it is published and becomes the champion, then the log is told. One that
dies in between is brought into force by the next save of anybody, or by the next start of the API or of
`anomalyze up`; doing so again changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import msgspec
import psycopg
from pydantic import ValidationError

from anomalyze.bus.contract import Bus
from anomalyze.bus.control import announce_all
from anomalyze.config import parse_document
from anomalyze.detection.account import DOCUMENT_BYTES_MAX, AccountDocument, Versioned, check_document
from anomalyze.detection.account_change import describe_changes
from anomalyze.detection.account_overlay import document_of, rule_set_of, version_of, with_documents
from anomalyze.detection.bundle import Bundle
from anomalyze.detection.bundle_store import BundleStore
from anomalyze.detection.policy import Policy, parse_policy
from anomalyze.errors import ConfigError, ContractError, TransientError
from anomalyze.learning.promotion import CHAMPION, announce_champion, rename_challenger
from anomalyze.log import get
from anomalyze.rules.column import ColumnTypes
from anomalyze.rules.rule import RuleSet
from anomalyze.storage.account_version import (
    StoredVersion,
    load_version,
    newest_versions,
    note_bundle,
    store_version,
)
from anomalyze.storage.list_change import tell_changes
from anomalyze.storage.query import fetch

__all__ = [
    "ChampionView",
    "Checked",
    "Saved",
    "bring_into_force",
    "check_settings",
    "is_unsettled",
    "save_settings",
    "tell_lists",
    "view_champion",
]

NOTE_LENGTH_MAX = 500
ATTEMPTS_MAX = 10


@dataclass(frozen=True, slots=True)
class ChampionView:
    """What judges now, as far as settings are checked against it: the bundle without its models."""

    bundle: Bundle
    id: str
    rules: RuleSet
    columns: ColumnTypes
    policy: Policy


@dataclass(frozen=True, slots=True)
class Checked:
    """A document that may be saved, and what it changes."""

    document: AccountDocument
    changes: list[str]
    before: dict[str, Any]
    version: int


@dataclass(frozen=True, slots=True)
class Saved:
    """A stored version; ``in_force`` once a champion has it and the log was told."""

    version: StoredVersion
    in_force: bool
    changes: list[str]


_views: dict[str, ChampionView] = {}


def view_champion(store: BundleStore) -> ChampionView:
    """The champion; the last one looked at is remembered.

    Raises
    ------
    ConfigError
        There is none yet.
    ContractError
        It is damaged.
    """
    champion = store.pointer(CHAMPION)
    if champion is None:
        raise ConfigError("settings need a bundle that judges: start the platform once, then save again")
    found = _views.get(champion)
    if found is None:
        from anomalyze.features.spec import FeatureSpec  # here: it loads compiled code

        bundle = store.load(champion)
        columns = ColumnTypes.of_features(FeatureSpec.from_yaml(bundle.features, "features.yaml").kinds)
        light = replace(
            bundle,
            model=None,
            calibration=None,
            inputs=(),
            reference=(),
            account_calibrations={},
            supervised=None,
        )
        found = ChampionView(light, champion, rule_set_of(bundle), columns, parse_policy(bundle.policy))
        _views.clear()
        _views[champion] = found
    return found


def check_settings(
    connection: psycopg.Connection[Any], view: ChampionView, account_id: str, text: str
) -> Checked:
    """Read a document (YAML or JSON) and say what it changes; nothing is stored.

    Raises
    ------
    ConfigProblems
        Every mistake, with its place and what was probably meant.
    ConfigError
        Too large.
    TransientError
        PostgreSQL does not answer now.
    """
    size = len(text.encode(errors="replace"))
    if size > DOCUMENT_BYTES_MAX:
        raise ConfigError(f"settings: expected at most {DOCUMENT_BYTES_MAX:,} bytes, got {size:,}")
    document = check_document(parse_document(text, "settings"), view.rules, view.columns, view.policy)
    newest = fetch(connection, load_version(account_id))
    before = dict(newest.document) if newest else document_of(view.bundle, account_id).document.to_json()
    return Checked(
        document, describe_changes(before, document.to_json()), before, newest.version if newest else 0
    )


def save_settings(
    connection: psycopg.Connection[Any],
    store: BundleStore,
    bus: Bus,
    account_id: str,
    text: str,
    *,
    by: str,
    note: str = "",
    after: int | None = None,
) -> Saved:
    """Check a document, store it as the account's next version and bring it into force.

    The document of the newest version again makes no new one; it is brought into force if it is not.

    Parameters
    ----------
    by
        The key of who saves.
    after
        The version that was edited (0: none yet): refused when another is the newest. None: whichever is.

    Raises
    ------
    ConfigError
        The document has mistakes (`ConfigProblems` names them), or nothing judges yet.
    VersionConflict, TooManySaves
        As `store_version`.
    TransientError
        Nothing was stored: save it again. When the store or the log is away after that, the answer says that the
        version is not in force yet, instead.
    """
    view = view_champion(store)
    checked = check_settings(connection, view, account_id, text)
    newest = fetch(connection, load_version(account_id))
    if newest is not None and not checked.changes and after in (None, newest.version):
        stored = newest
    else:
        stored = store_version(
            connection,
            account_id,
            checked.document.to_json(),
            checked.changes,
            by=by,
            note=note[:NOTE_LENGTH_MAX],
            after=checked.version if after is None else after,
        )
    try:
        bring_into_force(connection, store, bus)
    except (TransientError, ContractError) as error:
        get().warning("settings_not_in_force", account=account_id, version=stored.version, reason=str(error))
        return Saved(stored, False, checked.changes)
    again = fetch(connection, load_version(account_id, stored.version))
    assert again is not None
    return Saved(again, again.bundle is not None, checked.changes)


def bring_into_force(connection: psycopg.Connection[Any], store: BundleStore, bus: Bus) -> str | None:
    """Make a champion that has the newest version of every account, if it lacks one; return the champion's id.

    Raises
    ------
    ContractError
        The champion is damaged.
    TransientError
        PostgreSQL, the store or the log does not answer: do it again.
    """
    for _ in range(ATTEMPTS_MAX):
        champion = store.pointer(CHAMPION)
        if champion is None:
            return None
        bundle = store.load(champion)
        newest = newest_versions(connection)
        lacking = {
            account: one for account, one in newest.items() if one.version > version_of(bundle, account)
        }
        made = with_documents(bundle, _readable(lacking))
        if made.id != champion:
            store.publish(made)
            names = ", ".join(f"{account} {one.version}" for account, one in sorted(lacking.items()))
            try:
                store.set_pointer(CHAMPION, made.id, champion, note=f"settings: {names}")
            except ContractError:
                if store.pointer(CHAMPION) != champion:
                    continue
                raise
        announce_champion(store, bus)
        rename_challenger(store, bus, champion, made.id)
        note_bundle(connection, {a: one.version for a, one in newest.items() if one.bundle is None}, made.id)
        return made.id
    raise TransientError(f"the champion was moved by others {ATTEMPTS_MAX} times in a row: save again")


def is_unsettled(connection: psycopg.Connection[Any]) -> bool:
    """Whether a version or a change of a list is stored that the log was not told of."""
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM account_versions WHERE bundle IS NULL) "
        "OR EXISTS (SELECT FROM list_changes WHERE NOT told)"
    ).fetchone()
    return row is not None and bool(row[0])


def tell_lists(connection: psycopg.Connection[Any], bus: Bus) -> int:
    """Tell the log of changes of lists that it was not told of; return how many. Raises as `tell_changes`."""
    return tell_changes(connection, lambda bodies: announce_all(bus, "list", bodies))


def _readable(stored: dict[str, StoredVersion]) -> dict[str, Versioned]:
    """Documents of versions; one that this program cannot read (a newer one wrote it) is left out and said."""
    found: dict[str, Versioned] = {}
    for account, one in stored.items():
        try:
            found[account] = Versioned(
                one.version, AccountDocument.model_validate(msgspec.to_builtins(one.document))
            )
        except ValidationError as error:
            get().error("settings_unreadable", account=account, version=one.version, reason=str(error))
    return found
