"""Tables of other systems that are polled: ``metrics_config/sources/<name>.yaml``, one file a table.

account: default
url: ANOMALYZE_SOURCE_SHOP        # the variable that holds the address; the address itself stands in no file
table: payments
cursor: updated_at
tie_break: id
mapping:
  fields: {tx_id: id, user_id: customer, timestamp: paid_at, amount: amount}
  constants: {currency: EUR}
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from anomalyze.config import ConfigProblems, Document, Problem, StrictModel, load_document, validate
from anomalyze.ingestion.mapping import FileMapping

__all__ = ["SOURCES_MAX", "SourceFile", "load_sources", "parse_sources"]

SOURCES_MAX = 50
NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
# What stands in SQL is a plain name, and quoted all the same.
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_$]{0,62}$")]


class SourceName(StrictModel):
    """What a file's name must be."""

    name: Annotated[str, StringConstraints(pattern=NAME)]


class SourceFile(StrictModel):
    """One table, and how its rows become transactions."""

    account: str = Field(min_length=1, max_length=128, description="whose transactions its rows are")
    url: str = Field(
        pattern=r"^ANOMALYZE_SOURCE_[A-Z0-9_]{1,64}$",
        description="name of the environment variable that holds the address, such as ANOMALYZE_SOURCE_SHOP",
    )
    table: Identifier
    table_schema: Identifier | None = Field(default=None, alias="schema", description="where the table lies")
    cursor: Identifier = Field(
        description="column that only grows as rows are added or change: a time or a number"
    )
    tie_break: Identifier = Field(description="column that tells rows of one cursor value apart: the key")
    lag_s: int = Field(
        default=10,
        ge=0,
        le=86_400,
        description="longest time between a cursor's value being drawn and its row being committed",
    )
    batch_rows: int = Field(default=2_000, ge=1, le=10_000, description="rows read at once")
    mapping: FileMapping

    @model_validator(mode="after")
    def _fits_a_table(self) -> SourceFile:
        if "tx_id" not in self.mapping.fields:
            raise ValueError(
                "mapping.fields: expected a column for tx_id: it makes a row that is read twice count once"
            )
        return self

    @property
    def table_name(self) -> str:
        """The table as people write it."""
        return f"{self.table_schema}.{self.table}" if self.table_schema else self.table

    @property
    def identity(self) -> str:
        """What a stored position belongs to: another table or cursor begins anew."""
        return ".".join([self.url, self.table_schema or "", self.table, self.cursor, self.tie_break])


def parse_sources(documents: list[Document]) -> dict[str, SourceFile]:
    """Sources by name, from their files.

    Raises
    ------
    ConfigProblems
        Every mistake in them.
    """
    found: dict[str, SourceFile] = {}
    problems: list[Problem] = []
    for document in documents:
        name = Path(document.file).stem
        try:
            validate(Document(document.file, "", {"name": name}, None), SourceName)
            found[name] = validate(document, SourceFile)
        except ConfigProblems as error:
            problems += error.problems
    if len(documents) > SOURCES_MAX:
        problems.append(
            documents[-1].problem((), f"expected at most {SOURCES_MAX} sources, got {len(documents)}")
        )
    if problems:
        raise ConfigProblems(sorted(problems))
    return found


def load_sources(config_dir: Path) -> dict[str, SourceFile]:
    """The sources of a configuration folder by name. Raises ``ConfigProblems``."""
    return parse_sources([load_document(path) for path in sorted((config_dir / "sources").glob("*.yaml"))])
