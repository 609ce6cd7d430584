"""Scores and values of metrics know what they were made by."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0016"
down_revision = "0015"

SCHEMA = Path(__file__).parents[1] / "schema_0016.sql"


def upgrade() -> None:
    """Add the columns; what is stored says that it does not know."""
    op.get_bind().connection.cursor().execute(SCHEMA.read_text("utf-8"))
