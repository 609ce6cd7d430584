"""Payments drawn for review, and indexes for what labels say of anomalies."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0010"
down_revision = "0009"

SCHEMA = Path(__file__).parents[1] / "schema_0010.sql"


def upgrade() -> None:
    """Make table and indexes."""
    op.get_bind().connection.cursor().execute(SCHEMA.read_text("utf-8"))
