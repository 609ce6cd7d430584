"""What the challenger would have said."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0004"
down_revision = "0003"

SCHEMA = Path(__file__).parents[1] / "schema_0004.sql"


def upgrade() -> None:
    """Make the tables."""
    op.get_bind().connection.cursor().execute(SCHEMA.read_text("utf-8"))
