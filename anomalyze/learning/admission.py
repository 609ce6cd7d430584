"""Which stored rows a model may learn from: no case that people still have to look at, and no user without end.

An attack that nobody has decided yet must not become the model's idea of what is usual, and one busy user or script
must not decide it for all. Rows that are left out still make the history of those after them.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
import numpy.typing as npt
import polars as pl
import psycopg

from anomalyze.detection.learning import DAY_MS, USER_DAY_ROWS_MAX
from anomalyze.events.batch import MicroBatch, Severity
from anomalyze.events.hashing import text_keys, user_keys
from anomalyze.storage.label import suspects
from anomalyze.storage.query import fetch

__all__ = ["Admission", "is_suspect", "read_suspects"]

SUSPECT_FROM = Severity.HIGH
_KEYS = {"user": pl.UInt64, "tx": pl.UInt64}
_COUNTS = {"user": pl.UInt64, "day": pl.Int64, "seen": pl.UInt32}


def read_suspects(connection: psycopg.Connection[object], account: str, since: datetime) -> pl.DataFrame:
    """Hashes of user and transaction of an account's open cases at HIGH or above."""
    rows = fetch(connection, suspects(account, int(SUSPECT_FROM), since))
    if not rows:
        return pl.DataFrame(schema=_KEYS)
    keys = user_keys([account] * len(rows), [str(row["user_id"]) for row in rows])[:, 0]
    return pl.DataFrame(
        {"user": keys, "tx": text_keys([str(row["tx_id"]) for row in rows])}, schema=_KEYS
    ).unique()


def is_suspect(batch: MicroBatch, of_account: pl.DataFrame) -> npt.NDArray[np.bool_]:
    """Which rows of a micro-batch `read_suspects` names."""
    rows = pl.DataFrame({"user": batch.user_key[:, 0], "tx": batch.tx_key}, schema=_KEYS)
    found = rows.join(
        of_account.with_columns(found=True), on=["user", "tx"], how="left", maintain_order="left"
    )
    return found["found"].fill_null(False).to_numpy()


class Admission:
    """Rows of an account's micro-batches, in their order, that the model may learn from."""

    def __init__(self, of_account: pl.DataFrame) -> None:
        self._suspects = of_account
        self._seen = pl.DataFrame(schema=_COUNTS)

    def admit(self, batch: MicroBatch) -> npt.NDArray[np.bool_]:
        """bool ``[n]``: no suspect, and among the first of its user and day."""
        rows = pl.DataFrame(
            {"user": batch.user_key[:, 0], "day": batch.ts_ms // DAY_MS},
            schema={"user": pl.UInt64, "day": pl.Int64},
        )
        number = rows.select(pl.int_range(pl.len()).over("user", "day")).to_series()
        before = rows.join(self._seen, on=["user", "day"], how="left", maintain_order="left")[
            "seen"
        ].fill_null(0)
        counted = rows.group_by("user", "day").agg(pl.len().cast(pl.UInt32).alias("seen"))
        self._seen = pl.concat([self._seen, counted]).group_by("user", "day").agg(pl.col("seen").sum())
        within = (number + before).to_numpy() < USER_DAY_ROWS_MAX
        admitted: npt.NDArray[np.bool_] = within & ~is_suspect(batch, self._suspects)
        return admitted
