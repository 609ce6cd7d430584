"""``anomalyze bundle``: what judges, what changed, promote and roll back."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomalyze.cli.output import complain, print_json, print_line

if TYPE_CHECKING:
    from anomalyze.bus.contract import Bus
    from anomalyze.detection.bundle import Bundle
    from anomalyze.detection.bundle_store import BundleStore

__all__ = ["app"]

DAY_MS = 86_400_000
HISTORY_DAYS = 31  # before what is compared, so that the longest window is full
SHORT = 12  # characters of a hash that people see and may type
app = typer.Typer(help="What judges, what changed, promote and roll back.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Name = Annotated[str, typer.Argument(help="champion, challenger, or the beginning of an id")]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """All published bundles, and what points at them."""
    with complain("bundle list"):
        store = open_store()
        pointers = {name: store.pointer(name) for name in ("champion", "challenger")}
        rows = [describe(store.load(bundle_id), pointers) for bundle_id in store.list()]
    rows.sort(key=lambda row: (not row["pointers"], row["id"]))
    if as_json:
        print_json({"bundles": rows})
        return
    for row in rows:
        print_line(
            f"{short(row['id'])}  {row['kind']:<8} {', '.join(row['pointers']) or '-':<12} {row['rules']} rules"
        )
    if not rows:
        print_line("No bundle yet: `anomalyze up` makes a starter one.")


@app.command()
def show(name: Name = "champion", as_json: Json = False) -> None:
    """One bundle: what it is made of and when it was trained."""
    with complain("bundle show"):
        store = open_store()
        bundle = find(store, name)
        row = describe(bundle, {p: store.pointer(p) for p in ("champion", "challenger")})
        row |= {
            "training_window": bundle.training_window,
            "detector": None if bundle.model is None else bundle.detector,
            "metrics": dict(bundle.metrics),
            "created_from": dict(bundle.created_from),
            "inputs": [one.name for one in bundle.inputs],
        }
    if as_json:
        print_json(row)
        return
    for key, value in row.items():
        print_line(f"{key:<16} {value}")


@app.command()
def diff(
    a: Name,
    b: Name,
    days: Annotated[float, typer.Option(min=0, help="Newest stored days to judge by both; 0: none.")] = 7,
    account: Annotated[str, typer.Option(help="Account whose stored transactions are judged.")] = "default",
    as_json: Json = False,
) -> None:
    """What is different between two bundles: in their files, and in what they say of the newest stored days."""
    with complain("bundle diff"):
        store = open_store()
        first, second = find(store, a), find(store, b)
        lines = list(differences(first, second))
        said = said_of_stored(first, second, account, days, as_json) if days else []
    if as_json:
        print_json({"a": first.id, "b": second.id, "differences": lines, "on_stored": said})
        return
    for line in lines or ["The same files."]:
        print_line(line)
    for line in said:
        print_line(line)


def said_of_stored(first: Bundle, second: Bundle, account: str, days: float, quiet: bool) -> list[str]:
    """What would have been different on the newest stored days, in words."""
    from rich.console import Console
    from rich.progress import Progress

    from anomalyze.backtest.difference import compare_bundles
    from anomalyze.backtest.stored import newest_stored_ms, read_stored
    from anomalyze.embedded.runtime import find_addresses
    from anomalyze.settings import Settings

    dsn = find_addresses(Settings()).postgres_dsn
    newest_ms = newest_stored_ms(dsn, account)
    if newest_ms is None:
        return [f"No transaction of the account {account} is stored: only the files were compared."]
    end_ms = newest_ms + 1
    start_ms = end_ms - int(days * DAY_MS)
    with Progress(console=Console(stderr=True), transient=True, disable=quiet) as progress:
        task = progress.add_task("transactions", total=None)
        found = compare_bundles(
            read_stored(dsn, account, start_ms - HISTORY_DAYS * DAY_MS, end_ms),
            first,
            second,
            start_ms,
            lambda rows: progress.advance(task, rows),
        )
    return [f"The {days:g} days up to {instant(newest_ms)}:", *found.sentences()]


@app.command("promote")
def promote_(name: Name = "challenger", note: Annotated[str, typer.Option(help="why")] = "") -> None:
    """Make a bundle the champion: the log is told, and each partition swaps where it meets the record."""
    with complain("bundle promote"):
        from anomalyze.learning.promotion import find_bundle, promote

        store = open_store()
        with open_log() as bus:
            move = promote(store, bus, find_bundle(store, name), note=note or "promoted by hand")
    print_line(f"{short(move.id)} is the champion; each partition swaps at its next micro-batch.")


@app.command()
def rollback(note: Annotated[str, typer.Option(help="why")] = "") -> None:
    """Go back to the champion before this one."""
    with complain("bundle rollback"):
        from anomalyze.learning.promotion import roll_back

        with open_log() as bus:
            move = roll_back(open_store(), bus, note or "rolled back by hand")
    print_line(f"{short(move.id)} is the champion again; each partition swaps at its next micro-batch.")


def open_store() -> BundleStore:
    """The bundle store that the settings name."""
    from anomalyze.learning.promotion import open_bundles
    from anomalyze.settings import Settings

    return open_bundles(Settings())


@contextmanager
def open_log() -> Iterator[Bus]:
    """The log that takes the control records."""
    from anomalyze.bus import open_bus
    from anomalyze.embedded.runtime import find_addresses
    from anomalyze.settings import Settings

    settings = Settings()
    bus = open_bus(settings, postgres_dsn=find_addresses(settings).postgres_dsn)
    try:
        yield bus
    finally:
        bus.close()


def find(store: BundleStore, name: str) -> Bundle:
    """A bundle by pointer or by the beginning of its id."""
    from anomalyze.learning.promotion import find_bundle

    return store.load(find_bundle(store, name))


def describe(bundle: Bundle, pointers: Mapping[str, str | None]) -> dict[str, Any]:
    """A bundle in a few fields."""
    from anomalyze.detection.detector import Detector

    return {
        "id": bundle.id,
        "kind": bundle.kind,
        "pointers": [name for name, target in pointers.items() if target == bundle.id],
        "rules": len(Detector(bundle).rules.rules),
        "model": bundle.model is not None,
    }


def differences(first: Bundle, second: Bundle) -> Iterator[str]:
    """Lines that say what changed from the first to the second."""
    from anomalyze.detection.account_change import describe_changes
    from anomalyze.detection.account_overlay import document_of

    texts = [
        {"features.yaml": one.features, "policy.yaml": one.policy, **pretty(one.rules)}
        for one in (first, second)
    ]
    for name in sorted(texts[0].keys() | texts[1].keys()):
        before, after = (text.get(name, "").splitlines() for text in texts)
        yield from difflib.unified_diff(before, after, f"a/{name}", f"b/{name}", lineterm="", n=1)
    for name in sorted(first.tables.keys() | second.tables.keys()):
        if first.tables.get(name) != second.tables.get(name):
            yield f"table {name}: changed"
    if first.model != second.model:
        yield "model: another one" + (
            f", {second.detector} instead of {first.detector}" if first.detector != second.detector else ""
        )
    for account in sorted(first.overlays.keys() | second.overlays.keys()):
        documents = [document_of(one, account).document.to_json() for one in (first, second)]
        for line in describe_changes(*documents):
            if not line.startswith("rules."):  # these stand with the rules
                yield f"account {account}: {line}"
    if first.training_window != second.training_window:
        yield f"training window: {first.training_window} to {second.training_window}"


def pretty(rules: Mapping[str, str]) -> dict[str, str]:
    """Rule files with a field a line."""
    import json

    return {name: json.dumps(json.loads(text), indent=1, sort_keys=True) for name, text in rules.items()}


def instant(ms: int) -> str:
    """A time in ms since 1970, as people read it."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"


def short(bundle_id: str) -> str:
    """The part of an id that people see."""
    return bundle_id.removeprefix("sha256:")[:SHORT]
