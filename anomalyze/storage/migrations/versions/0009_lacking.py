"""What an upload's columns leave unknown."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0009"
down_revision = "0008"

SCHEMA = Path(__file__).parents[1] / "schema_0009.sql"


def upgrade() -> None:
    """Add the column."""
    op.get_bind().connection.cursor().execute(SCHEMA.read_text("utf-8"))
