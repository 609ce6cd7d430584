"""Where a run's own lines go: a run is a process of its own, and Dagster keeps what it prints to the run's page."""

import contextlib
import multiprocessing

import structlog

from anomalyze.log import configure
from anomalyze.settings import Settings

__all__ = ["NAME", "keep_log"]

# A file beside those of all programs, so that `anomalyze logs` shows what people are told of metrics.
NAME = "dagster-runs"
LOG_BYTES_MAX = 20_000_000


def keep_log() -> None:
    """Let a run's lines go to ``logs/dagster-runs.log`` of the data folder; elsewhere nothing changes.

    A file beyond 20 MB is put aside as ``.log.1``, in place of the one before.
    """
    if multiprocessing.parent_process() is None or structlog.is_configured():
        return
    settings = Settings()
    path = settings.data_dir / "logs" / f"{NAME}.log"
    # Two runs may begin at once: one of them moves it.
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_BYTES_MAX:
            path.replace(path.with_suffix(".log.1"))
    configure(NAME, settings.log_level, path)
