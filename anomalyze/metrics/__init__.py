"""Metrics: series of numbers, what is done to them before they are judged, and how they are judged."""
