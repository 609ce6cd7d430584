"""What psutil knows of this machine."""

from __future__ import annotations

from typing import Any

import psutil


def load(window: Any, params: dict[str, Any]) -> dict[str, float]:
    """Values of now: one dictionary, no timestamp. All in per cent."""
    return {
        "processor": psutil.cpu_percent(interval=0.2),
        "memory": psutil.virtual_memory().percent,
        "disk_used": psutil.disk_usage("/").percent,
    }


def processes(window: Any, params: dict[str, Any]) -> dict[str, float]:
    """Values of now."""
    return {"processes": len(psutil.pids()), "disk_free": psutil.disk_usage("/").free / 1e9}


def network(window: Any, params: dict[str, Any]) -> dict[str, float]:
    """Counters since the machine started, in MB."""
    counted = psutil.net_io_counters()
    return {"sent": counted.bytes_sent / 1e6, "received": counted.bytes_recv / 1e6}
