"""Uploads, the rows refused of them, and labels found by transaction."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0002"
down_revision = "0001"

SCHEMA = Path(__file__).parents[1] / "schema_0002.sql"


def upgrade() -> None:
    """Add the tables."""
    # The driver's own execute: SQLAlchemy would take each colon for a parameter.
    op.get_bind().connection.cursor().execute(SCHEMA.read_text("utf-8"))
