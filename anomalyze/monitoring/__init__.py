"""Runs of metric batches: what was stored is scored, incidents become alerts."""
