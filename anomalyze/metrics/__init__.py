"""Metrics: numbers that people watch, declared in YAML, read from their databases, judged as they come."""
