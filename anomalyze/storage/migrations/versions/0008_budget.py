"""Promises of the alert budget."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0008"
down_revision = "0007"

SCHEMA = Path(__file__).parents[1] / "schema_0008.sql"


def upgrade() -> None:
    """Make the table."""
    op.get_bind().connection.cursor().execute(SCHEMA.read_text("utf-8"))
