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
