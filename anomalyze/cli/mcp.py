"""`anomalyze mcp`: what is strange, for assistants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from anomalyze.cli.output import complain
from anomalyze.errors import ConfigError

if TYPE_CHECKING:
    from anomalyze.settings import Settings

__all__ = ["mcp"]


def mcp(
    key: Annotated[
        str | None,
        typer.Option(
            envvar="ANOMALYZE_API_KEY",
            help="API key with the scope read; its account is what can be asked about. Others on this machine see "
            "what a command was given: better the variable. Without either: the operator's own key, where it is.",
        ),
    ] = None,
) -> None:
    """Answer assistants by the Model Context Protocol, over standard input and output. It only reads."""
    from anomalyze.cli.keys import postgres_dsn
    from anomalyze.settings import Settings
    from realtime.api.assistant.desk import Desk
    from realtime.api.assistant.server import build_server

    with complain("mcp"):
        settings = Settings()
        desk = Desk(settings, postgres_dsn(), _secret(key, settings))
    try:
        build_server(desk).run()
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    finally:
        desk.close()


def _secret(told: str | None, settings: Settings) -> str:
    """The key that was given, else the operator's, from the setting or the data folder."""
    from anomalyze.access.admin import ADMIN_KEY_FILE, load_secret

    if told:
        return told
    if settings.admin_key is not None:
        return settings.admin_key.get_secret_value()
    found = load_secret(settings.data_dir / ADMIN_KEY_FILE)
    if found is None:
        raise ConfigError(
            f"expected an API key in ANOMALYZE_API_KEY, got none, and there is none in {settings.data_dir}: "
            "anomalyze keys create assistant --scopes read"
        )
    return found
