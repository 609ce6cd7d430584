"""``anomalyze bundle``: what judges, what changed, promote and roll back."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomalyze.cli.output import complain, print_json, print_line
from anomalyze.errors import ConfigError

if TYPE_CHECKING:
    from anomalyze.detection.bundle import Bundle, BundleStore

__all__ = ["app"]

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
def diff(a: Name, b: Name, as_json: Json = False) -> None:
    """What is different between two bundles, file by file."""
    with complain("bundle diff"):
        store = open_store()
        first, second = find(store, a), find(store, b)
        lines = list(differences(first, second))
    if as_json:
        print_json({"a": first.id, "b": second.id, "differences": lines})
        return
    for line in lines:
        print_line(line)
    if not lines:
        print_line("The same.")


@app.command()
def promote(name: Name = "challenger", note: Annotated[str, typer.Option(help="why")] = "") -> None:
    """Make a bundle the champion: the log is told, and each partition swaps where it meets the record."""
    with complain("bundle promote"):
        store = open_store()
        bundle = find(store, name)
        store.set_pointer("champion", bundle.id, note=note or "promoted by hand")
        tell_log(store)
    print_line(f"{short(bundle.id)} is the champion; each partition swaps at its next micro-batch.")


@app.command()
def rollback(note: Annotated[str, typer.Option(help="why")] = "") -> None:
    """Go back to the champion before this one."""
    with complain("bundle rollback"):
        store = open_store()
        move = store.roll_back("champion", note or "rolled back by hand")
        tell_log(store)
    print_line(f"{short(move.id)} is the champion again; each partition swaps at its next micro-batch.")


def open_store() -> BundleStore:
    """The bundle store that the settings name."""
    from anomalyze.detection.bundle import BundleStore
    from anomalyze.settings import Settings
    from anomalyze.storage.objects import open_objects

    settings = Settings()
    return BundleStore(open_objects(settings.object_store, s3_endpoint_url=settings.s3_endpoint_url))


def tell_log(store: BundleStore) -> None:
    """Write the champion's control record."""
    from anomalyze.bus import open_bus
    from anomalyze.embedded.bootstrap import announce_champion
    from anomalyze.embedded.runtime import find_addresses
    from anomalyze.settings import Settings

    settings = Settings()
    bus = open_bus(settings, postgres_dsn=find_addresses(settings).postgres_dsn)
    try:
        announce_champion(store, bus)
    finally:
        bus.close()


def find(store: BundleStore, name: str) -> Bundle:
    """A bundle by pointer or by the beginning of its id."""
    if name in ("champion", "challenger"):
        bundle_id = store.pointer(name)
        if bundle_id is None:
            raise ConfigError(f"there is no {name} yet; `anomalyze bundle list` shows what there is")
        return store.load(bundle_id)
    wanted = name.removeprefix("sha256:")
    found = [one for one in store.list() if one.removeprefix("sha256:").startswith(wanted)]
    if len(found) != 1:
        what = "no bundle begins" if not found else f"{len(found)} bundles begin"
        raise ConfigError(f"{what} with {name!r}; `anomalyze bundle list` shows what there is")
    return store.load(found[0])


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
        yield "model: another one"
    if first.training_window != second.training_window:
        yield f"training window: {first.training_window} to {second.training_window}"


def pretty(rules: Mapping[str, str]) -> dict[str, str]:
    """Rule files with a field a line."""
    import json

    return {name: json.dumps(json.loads(text), indent=1, sort_keys=True) for name, text in rules.items()}


def short(bundle_id: str) -> str:
    """The part of an id that people see."""
    return bundle_id.removeprefix("sha256:")[:SHORT]
