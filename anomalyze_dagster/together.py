"""Code server, daemon and webserver as threads of one process: what `anomalyze up` starts.

Three processes hold the same libraries three times, 400 MB together; one holds them once. Each run is a process
of its own in either case. A part that ends unexpectedly ends all, and the supervisor starts it again. Where
Dagster serves many, start the three programs apart.
"""

import logging
import os
import threading
from collections.abc import Callable

from anomalyze.embedded.runtime import Addresses
from anomalyze.log import get
from anomalyze.settings import Settings
from anomalyze_dagster.follow import follow_batches

__all__ = ["serve_code", "serve_together"]

MODULE = "anomalyze_dagster.definitions"
LOCATION = "anomalyze"
CODE_THREADS = 8
LISTEN_TIMEOUT_S = 60.0


def serve_together(settings: Settings, addresses: Addresses, workspace: str) -> None:
    """Serve until SIGTERM; the webserver has the main thread, which signals reach."""
    from anomalyze_dagster.webserver import serve

    socket = os.environ["ANOMALYZE_DAGSTER_SOCKET"]
    listening = threading.Event()
    start_part("code", lambda: serve_code(socket, listening, threading.Event()))
    listening.wait(LISTEN_TIMEOUT_S)
    start_part("daemon", lambda: turn_daemon(workspace))
    serve(settings, addresses, workspace)


def start_part(name: str, run: Callable[[], None]) -> None:
    """Run a part on a thread; its end is the end of the process."""

    def watched() -> None:
        try:
            run()
        except Exception as error:  # noqa: BLE001 - the thread's loop top: nobody else would see it
            get().error("part_failed", part=name, error=f"{type(error).__name__}: {error}"[:500])
        os._exit(1)

    threading.Thread(target=watched, name=f"dagster-{name}", daemon=True).start()


def serve_code(socket: str, listening: threading.Event, ended: threading.Event) -> None:
    """Hold the definitions and start runs until ``ended``, as ``dagster api grpc`` does; the batches' files are followed."""
    from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
    from dagster._core.utils import FuturesAwareThreadPoolExecutor
    from dagster._grpc.server import DagsterApiServer, DagsterGrpcServer

    logger = logging.getLogger("dagster.code_server")
    threads = FuturesAwareThreadPoolExecutor(max_workers=CODE_THREADS)
    servicer = DagsterApiServer(
        server_termination_event=ended,
        logger=logger,
        loadable_target_origin=LoadableTargetOrigin(module_name=MODULE),
        location_name=LOCATION,
        server_threadpool_executor=threads,
    )
    server = DagsterGrpcServer(
        server_termination_event=ended,
        dagster_api_servicer=servicer,
        logger=logger,
        threadpool_executor=threads,
        socket=socket,
    )
    threading.Thread(
        target=follow_batches, args=(servicer, ended), name="follow-batches", daemon=True
    ).start()
    listening.set()
    server.serve()  # type: ignore[no-untyped-call]


def turn_daemon(workspace: str) -> None:
    """Turn sensors and schedules, as ``dagster-daemon run`` does."""
    from dagster import DagsterInstance
    from dagster._core.workspace.load_target import WorkspaceFileTarget
    from dagster._daemon.controller import daemon_controller_from_instance

    with (
        DagsterInstance.get() as instance,
        daemon_controller_from_instance(
            instance, workspace_load_target=WorkspaceFileTarget([workspace]), log_level="warning"
        ) as controller,
    ):
        controller.check_daemon_loop()
