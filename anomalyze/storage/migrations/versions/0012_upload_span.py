"""From when to when an upload's transactions are."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0012"
down_revision = "0011"

SCHEMA = Path(__file__).parents[1] / "schema_0012.sql"


def upgrade() -> None:
    """Add the columns."""
    op.get_bind().connection.cursor().execute(SCHEMA.read_text("utf-8"))
