"""``python -m dashboard``: serves the dashboard on the address and port of the settings."""

from __future__ import annotations

import sys

import uvicorn

from anomalyze.errors import ConfigError
from anomalyze.settings import Settings
from dashboard.app import create_app

# Open event streams end with the program.
SHUTDOWN_S = 3


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    settings = Settings()
    if settings.postgres_dsn is None:
        raise ConfigError(
            "ANOMALYZE_POSTGRES_DSN: expected the address of PostgreSQL; `anomalyze up` sets it for the embedded one"
        )
    uvicorn.run(
        create_app(settings, settings.postgres_dsn.get_secret_value()),
        host=settings.bind,
        port=settings.dashboard_port,
        log_level=settings.log_level.lower(),
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        sys.exit(f"dashboard: {error}")
