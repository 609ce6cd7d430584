"""An index of the anomalies of metrics."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0014"
down_revision = "0013"

SCHEMA = Path(__file__).parents[1] / "schema_0014.sql"


def upgrade() -> None:
    """Add the index."""
    op.get_bind().connection.cursor().execute(SCHEMA.read_text("utf-8"))
