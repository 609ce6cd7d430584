"""Metrics: values, scores, alerts and runs."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0011"
down_revision = "0010"

SCHEMA = Path(__file__).parents[1] / "schema_0011.sql"


def upgrade() -> None:
    """Make the tables."""
    op.get_bind().connection.cursor().execute(SCHEMA.read_text("utf-8"))
