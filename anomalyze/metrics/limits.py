"""How many metrics a batch may have, and how long a name: what reads them, stores them and takes them over REST agrees."""

from __future__ import annotations

__all__ = ["METRICS_MAX", "METRIC_CHARACTERS_MAX"]

# One bank of detectors serves a batch; a hundred thousand series in one are nearly always a mistake of its SQL.
METRICS_MAX = 20_000
METRIC_CHARACTERS_MAX = 200
