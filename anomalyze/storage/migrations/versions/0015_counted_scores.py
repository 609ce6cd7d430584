"""The index of the anomalies of metrics says which detector judged."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0015"
down_revision = "0014"

SCHEMA = Path(__file__).parents[1] / "schema_0015.sql"


def upgrade() -> None:
    """Add the index with it, then drop the one without."""
    op.get_bind().connection.cursor().execute(SCHEMA.read_text("utf-8"))
