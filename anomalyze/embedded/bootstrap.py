"""The bundle that judges: made, brought up to date with the configuration, announced in the log.

Run as ``python -m anomalyze.embedded.bootstrap`` it does so in a process of its own, whose memory for training
goes back, and prints what it did, one JSON document a line.

A pointer moves first, then the log is told, then the pointer ``announced`` follows: a start that died in
between is completed by the next one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace

from anomalyze.bus import open_bus
from anomalyze.bus.contract import Bus
from anomalyze.detection.account_overlay import with_newest_documents
from anomalyze.detection.bundle import Bundle
from anomalyze.detection.training import build_bundle
from anomalyze.embedded.runtime import find_addresses
from anomalyze.errors import AnomalyzeError
from anomalyze.learning.account import bring_into_force, tell_lists
from anomalyze.learning.promotion import CHAMPION, announce_challenger, announce_champion, open_bundles
from anomalyze.settings import Settings
from anomalyze.simulation.starter import build_starter_bundle
from anomalyze.storage.pool import connect

__all__ = ["ensure_bundle"]


def ensure_bundle(settings: Settings, bus: Bus, say: Callable[[str], None]) -> tuple[str, bool]:
    """Make sure that the champion follows the configuration and that the log knows it.

    Returns
    -------
    tuple[str, bool]
        Id of the champion, and whether it is a starter bundle.

    Raises
    ------
    ConfigError
        The configuration has mistakes; the message names them.
    ContractError
        The published champion is damaged.
    """
    store = open_bundles(settings)
    champion = store.pointer(CHAMPION)
    if champion is None:
        say("training a starter bundle on simulated history")
        bundle = build_starter_bundle(settings.config_dir)
        store.publish(bundle)
        store.set_pointer(CHAMPION, bundle.id, expected=None, note="starter")
    else:
        bundle = with_configuration(store.load(champion), settings)
        if bundle.id != champion:
            say("the configuration changed: publishing a bundle with the same model")
            store.publish(bundle)
            store.set_pointer(CHAMPION, bundle.id, expected=champion, note="configuration changed")
    announce_champion(store, bus)
    announce_challenger(store, bus)
    return bundle.id, bundle.kind == "starter"


def with_configuration(bundle: Bundle, settings: Settings) -> Bundle:
    """The bundle with today's configuration files; itself when they are the same."""
    found = with_newest_documents(build_bundle(settings.config_dir), bundle)
    changed = replace(
        bundle,
        features=found.features,
        policy=found.policy,
        rules=found.rules,
        tables=found.tables,
        hashes=found.hashes,
        overlays=found.overlays,
    )
    return (
        bundle
        if changed.id == bundle.id
        else replace(changed, created_from={**bundle.created_from, "parent": bundle.id})
    )


def main() -> int:
    """Ensure the bundle of the settings; steps, then the result or the error, as JSON lines."""

    def tell(**document: object) -> None:
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()

    settings = Settings()
    dsn = find_addresses(settings).postgres_dsn
    try:
        bus = open_bus(settings, postgres_dsn=dsn)
        try:
            bundle, is_starter = ensure_bundle(settings, bus, lambda text: tell(step=text))
            with connect(dsn) as connection:
                bundle = bring_into_force(connection, open_bundles(settings), bus) or bundle
                tell_lists(connection, bus)
        finally:
            bus.close()
    except AnomalyzeError as error:
        tell(error=str(error))
        return 1
    tell(bundle=bundle, is_starter=is_starter)
    return 0


if __name__ == "__main__":
    sys.exit(main())
