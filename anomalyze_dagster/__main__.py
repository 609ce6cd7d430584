"""``python -m anomalyze_dagster all|code|webserver|daemon``: Dagster's programs over our settings.

``code`` holds the definitions and starts runs, ``webserver`` serves the UI and GraphQL on loopback at
``DAGSTER_PORT``, ``daemon`` turns sensors and schedules; ``all`` is the three in one process. Start ``code`` first;
the others wait for it.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping

from anomalyze.embedded.orchestration import CHECKOUT, prepare_dagster
from anomalyze.embedded.runtime import find_addresses
from anomalyze.errors import AnomalyzeError
from anomalyze.log import configure
from anomalyze.settings import Settings
from anomalyze_dagster.heartbeat import start_heartbeat

WORKSPACE = str(CHECKOUT / "workspace.yaml")
CODE_WAIT_S = 60.0


def run_code(settings: Settings) -> None:
    """Serve the definitions on the socket until SIGTERM."""
    from anomalyze_dagster.orphans import fail_orphans
    from anomalyze_dagster.together import serve_code

    fail_orphans()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    serve_code(free_socket(), threading.Event(), ended)


def run_all(settings: Settings) -> None:
    """All three until SIGTERM."""
    from anomalyze_dagster.orphans import fail_orphans
    from anomalyze_dagster.together import serve_together

    fail_orphans()
    free_socket()
    serve_together(settings, find_addresses(settings), WORKSPACE)


def free_socket() -> str:
    """Path of the code server's socket; one that a killed server left behind is taken away."""
    socket = os.environ["ANOMALYZE_DAGSTER_SOCKET"]
    with contextlib.suppress(FileNotFoundError):
        os.unlink(socket)
    return socket


def wait_for_code() -> None:
    """Wait until the code server listens; after a while go on without, which the UI then shows."""
    deadline_s = time.monotonic() + CODE_WAIT_S
    while not os.path.exists(os.environ["ANOMALYZE_DAGSTER_SOCKET"]) and time.monotonic() < deadline_s:
        time.sleep(0.2)


def run_webserver(settings: Settings) -> None:
    """Serve the UI until SIGTERM, to those who hold the operator's key."""
    from anomalyze_dagster.webserver import serve

    wait_for_code()
    serve(settings, find_addresses(settings), WORKSPACE)


def run_daemon(settings: Settings) -> None:
    """Turn sensors and schedules until SIGTERM."""
    from dagster._daemon.cli import run_command

    wait_for_code()
    run_command(["--workspace", WORKSPACE, "--log-level", "warning"])


PROGRAMS: Mapping[str, tuple[str, Callable[[Settings], None]]] = {
    "all": ("dagster", run_all),
    "code": ("dagster-code", run_code),
    "webserver": ("dagster", run_webserver),
    "daemon": ("dagster-daemon", run_daemon),
}


def main(arguments: list[str]) -> None:
    """Run one program."""
    if len(arguments) != 1 or arguments[0] not in PROGRAMS:
        sys.exit(f"usage: python -m anomalyze_dagster {'|'.join(PROGRAMS)}")
    name, run = PROGRAMS[arguments[0]]
    settings = Settings()
    configure(name, settings.log_level)
    # Sensors would tell every few seconds that there is nothing to do.
    logging.disable(logging.INFO)
    try:
        addresses = find_addresses(settings)
        if "ANOMALYZE_DAGSTER_SOCKET" not in os.environ:
            os.environ.update(prepare_dagster(settings, addresses))
    except AnomalyzeError as error:
        sys.exit(f"{name}: {error}")
    os.umask(0o077)
    start_heartbeat(name, addresses.postgres_dsn, settings)
    run(settings)


if __name__ == "__main__":
    main(sys.argv[1:])
