"""Dagster: ingests, trains, checks, publishes and watches; what it decides reaches the detector through the log."""
