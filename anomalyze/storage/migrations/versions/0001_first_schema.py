"""The first schema."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None

SCHEMA = Path(__file__).parents[1] / "schema_0001.sql"


def upgrade() -> None:
    """Make all tables."""
    # The driver's own execute: SQLAlchemy would take each colon for a parameter.
    op.get_bind().connection.cursor().execute(SCHEMA.read_text("utf-8"))
