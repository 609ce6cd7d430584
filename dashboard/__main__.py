"""``python -m dashboard``: serves the dashboard on ``BIND``:``DASHBOARD_PORT``."""

from __future__ import annotations

import sys

import uvicorn

from anomalyze.embedded.runtime import find_addresses
from anomalyze.errors import ConfigError
from anomalyze.log import configure
from anomalyze.settings import Settings
from dashboard.app import create_app

# Open event streams end with the program.
SHUTDOWN_S = 3


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    settings = Settings()
    configure("dashboard", settings.log_level)
    uvicorn.run(
        create_app(settings, find_addresses(settings).postgres_dsn),
        host=settings.bind,
        port=settings.dashboard_port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        sys.exit(f"dashboard: {error}")
