"""Alembic migrations; run by `anomalyze.storage.migrate`."""
