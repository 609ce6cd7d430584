"""``python -m anomalyze.cli``, for where the script is not on the path."""

from __future__ import annotations

from anomalyze.cli import app

app()
