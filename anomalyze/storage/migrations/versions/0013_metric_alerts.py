"""What alerts of metrics say beside their sentence, and digests."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0013"
down_revision = "0012"

SCHEMA = Path(__file__).parents[1] / "schema_0013.sql"


def upgrade() -> None:
    """Add columns and a table."""
    op.get_bind().connection.cursor().execute(SCHEMA.read_text("utf-8"))
