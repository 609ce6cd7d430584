"""`anomalyze keys`: API keys. `anomalyze migrate`: the schema."""

from __future__ import annotations

import getpass
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from anomalyze.cli.output import complain, print_json, print_line
from anomalyze.errors import ConfigError

if TYPE_CHECKING:
    import psycopg

    from anomalyze.access.keys import Key

__all__ = ["app", "migrate"]

app = typer.Typer(help="API keys: create, list, revoke.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What it is for, such as 'checkout'.")],
    account: Annotated[str, typer.Option(help="Whose data it opens; made when new.")] = "default",
    scopes: Annotated[
        str, typer.Option(help="Of ingest, read, admin, separated by commas; admin includes the others.")
    ] = "ingest,read",
    json_output: Json = False,
) -> None:
    """Make a key and show it, this once."""
    from anomalyze.access.keys import create_key

    wanted = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    with complain("keys create"), connection() as opened:
        key, secret = create_key(opened, account, name, wanted, by=operator())
    if json_output:
        print_json(described(key) | {"key": secret})
        return
    print_line(secret)
    Console(stderr=True).print(
        f"The key of {key.account_id} for {', '.join(sorted(key.scopes))}. It is shown this once: keep it now.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


@app.command("list")
def list_all(
    account: Annotated[str | None, typer.Option(help="Only this account's.")] = None,
    json_output: Json = False,
) -> None:
    """Every key, without its secret."""
    from anomalyze.access.keys import list_keys

    with complain("keys list"), connection() as opened:
        keys = list_keys(opened, account)
    if json_output:
        print_json({"keys": [described(key) for key in keys]})
        return
    table = Table(box=None, pad_edge=False)
    for column in ("key", "account", "name", "scopes", "created", "last used", "revoked"):
        table.add_column(column)
    for key in keys:
        shown = described(key)
        table.add_row(
            *(shown[column] for column in ("key_id", "account_id", "name")),
            ", ".join(shown["scopes"]),
            *(
                f"{moment:%Y-%m-%d}" if moment else "–"
                for moment in (key.created_at, key.last_used_at, key.revoked_at)
            ),
        )
    Console().print(table if keys else "No key yet: anomalyze keys create NAME")


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id, as `anomalyze keys list` shows it.")],
    json_output: Json = False,
) -> None:
    """End a key, at once and for good."""
    from anomalyze.access.keys import revoke_key

    with complain("keys revoke"), connection() as opened:
        key = revoke_key(opened, key_id, by=operator())
        if key is None:
            raise ConfigError(f"no key has the id {key_id!r}: see `anomalyze keys list`")
    if json_output:
        print_json(described(key))
    else:
        print_line(f"{key.key_id} of {key.account_id} is revoked.")


def migrate(json_output: Json = False) -> None:
    """Bring PostgreSQL to this version's schema. `anomalyze up` does so by itself."""
    from anomalyze.storage.migrate import migrate as migrate_schema

    with complain("migrate"):
        revision = migrate_schema(postgres_dsn())
    if json_output:
        print_json({"revision": revision})
    else:
        print_line(f"The schema is at revision {revision}.")


def connection() -> AbstractContextManager[psycopg.Connection[Any]]:
    """To the configured PostgreSQL, or to that of the running `anomalyze up`."""
    from anomalyze.storage.pool import connect

    return connect(postgres_dsn(), program="anomalyze keys")


def postgres_dsn() -> str:
    """Its address: never to be printed."""
    from anomalyze.embedded.runtime import find_addresses
    from anomalyze.settings import Settings

    settings = Settings()
    if settings.postgres_dsn is not None:
        return settings.postgres_dsn.get_secret_value()
    return find_addresses(settings).postgres_dsn


def operator() -> str:
    """Who types, for the audit log."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a user id without a name, as in some containers
        return "cli"


def described(key: Key) -> dict[str, Any]:
    """A key as JSON shows it."""
    return {
        "key_id": key.key_id,
        "account_id": key.account_id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "created_at": f"{key.created_at:%Y-%m-%dT%H:%M:%SZ}",
        "created_by": key.created_by,
        "last_used_at": key.last_used_at and f"{key.last_used_at:%Y-%m-%dT%H:%M:%SZ}",
        "revoked_at": key.revoked_at and f"{key.revoked_at:%Y-%m-%dT%H:%M:%SZ}",
    }
