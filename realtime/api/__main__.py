"""``python -m realtime.api``: the REST API on ``BIND``:``API_PORT``."""

from __future__ import annotations

from types import FrameType

import uvicorn
from fastapi import FastAPI

from realtime.api.app import create_app
from realtime.program import Heartbeat, start_program

GRACE_S = 8


class Server(uvicorn.Server):
    """uvicorn, which would wait for the end of streams that never end by themselves."""

    def __init__(self, configuration: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(configuration)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM and SIGINT: end the streams, then let uvicorn drain."""
        shared = getattr(self._app.state, "shared", None)
        if shared is not None:
            shared.scored.close()
            shared.anomalies.close()
        super().handle_exit(sig, frame)


def main() -> None:
    """Serve until SIGTERM: open requests get their answer, streams end."""
    program = start_program("api")
    bus = program.open_bus()
    app = create_app(program.settings, program.addresses, bus, program.registry)

    def state() -> dict[str, object]:
        shared = getattr(app.state, "shared", None)
        return {} if shared is None else shared.metrics.state()

    Heartbeat(program, state).start()
    configuration = uvicorn.Config(
        app,
        host=program.settings.bind,
        port=program.settings.api_port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
        h11_max_incomplete_event_size=64 * 1024,
    )
    Server(configuration, app).run()
    program.stop.set()
    bus.close()


if __name__ == "__main__":
    main()
