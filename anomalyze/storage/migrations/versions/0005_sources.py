"""Tables of other systems that are polled."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0005"
down_revision = "0004"

SCHEMA = Path(__file__).parents[1] / "schema_0005.sql"


def upgrade() -> None:
    """Make the tables."""
    op.get_bind().connection.cursor().execute(SCHEMA.read_text("utf-8"))
