"""Profiles of merchants, from labels that became known late: computed for all merchants at once, as of an instant.

A fraud whose amount was ordinary for its user (log ratio under ``ORDINARY_LOG_RATIO``) is *unexplained*: the
card does not account for it, so the merchant probably does. Compromised terminals show as chains of these.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from anomalyze.errors import ContractError
from anomalyze.features.catalogue import MERCHANT_PROFILE
from anomalyze.features.snapshot import Snapshot

__all__ = ["LABEL_COLUMNS", "ORDINARY_LOG_RATIO", "compute_profiles"]

# A transaction and its label as they were known: ``key`` as ``merchant_keys`` gives it; ``log_ratio`` as the
# transaction was judged (null or NaN: unknown); ``until_ms`` when another label replaced this one (the largest int64: it
# stands).
LABEL_COLUMNS = {
    "key": pl.UInt64,
    "ts_ms": pl.Int64,
    "log_ratio": pl.Float64,
    "fraud": pl.Boolean,
    "known_ms": pl.Int64,
    "until_ms": pl.Int64,
}
ORDINARY_LOG_RATIO = 0.7
CHAIN_GAP_DAYS_MAX = 14.0
AGE_DAYS_MAX = 99.0  # older is no news
HALF_LIFE_DAYS = 7.0
DAY_MS = 86_400_000
# Of the smoothed shares: as many rows of this rate are added.
PRIOR_ROWS, PRIOR_POSITIVE = 2.0, 0.05


def compute_profiles(labels: pl.DataFrame, as_of_ms: int) -> Snapshot:
    """The seven label features of every merchant with a label, by what was known before an instant.

    Parameters
    ----------
    labels
        ``LABEL_COLUMNS``, in any order. Rows that become known later, or were replaced by then, do not count.
    as_of_ms
        The instant, ms since 1970 UTC.

    Returns
    -------
    Snapshot
        Of the columns ``MERCHANT_PROFILE``, with a = age at the instant, in days:
        days since the newest chain of unexplained frauds began (gaps of at most 14 days) and since the last of
        them (at most 99; both NULL without one); genuine ones since the last unexplained fraud and since the
        last fraud (NULL without one); Σ 2^(−a/7) over unexplained frauds; the smoothed share
        (frauds + .05)/(rows + 2) of unexplained ones among labels that became known in the last 14 days, and
        of all frauds in the last 30.

    Raises
    ------
    ContractError
        A column is missing or of another type.
    """
    wrong = [name for name, dtype in LABEL_COLUMNS.items() if labels.schema.get(name) != dtype]
    if wrong:
        raise ContractError(f"profiles: expected the columns {LABEL_COLUMNS}, got {labels.schema}")
    high = (pl.col("log_ratio").fill_nan(None) >= ORDINARY_LOG_RATIO).fill_null(False)
    known = (
        labels.lazy()
        .filter(
            (pl.col("known_ms") < as_of_ms)
            & (pl.col("ts_ms") < as_of_ms)
            & (pl.col("until_ms") >= as_of_ms)
            & (pl.col("key") != 0)
        )
        .select(
            "key",
            "fraud",
            (pl.col("fraud") & ~high).alias("u"),
            ((as_of_ms - pl.col("ts_ms")) / DAY_MS).alias("age"),
            ((as_of_ms - pl.col("known_ms")) / DAY_MS).alias("known_age"),
        )
        .collect()
    )
    lately = known.filter(pl.col("known_age") <= 30.0).group_by("key").agg(*_shares())
    frauds = known.filter("fraud").group_by("key").agg(*_since_last())
    profile = (
        known.select("key")
        .unique()
        .join(lately, on="key", how="left")
        .join(frauds, on="key", how="left")
        .join(_chains(known), on="key", how="left")
        .join(_genuine_since(known, frauds), on="key", how="left")
        .with_columns(
            pl.col("merchant_unexplained_recent_7d").fill_null(0.0),
            *(pl.col(name).fill_null(PRIOR_POSITIVE / PRIOR_ROWS) for name in _SHARES),
            *(
                pl.when(pl.col(last).is_not_null()).then(pl.col(name).fill_null(0)).alias(name)
                for name, last in (
                    ("merchant_genuine_since_unexplained", "last_u"),
                    ("merchant_genuine_since_fraud", "last_fraud"),
                )
            ),
        )
        .sort("key")
    )
    return Snapshot(
        as_of_ms=as_of_ms,
        names=MERCHANT_PROFILE,
        keys=profile["key"].to_numpy().astype(np.uint64),
        values=profile.select(pl.col(name).cast(pl.Float64) for name in MERCHANT_PROFILE)
        .fill_null(float("nan"))
        .to_numpy()
        .astype(np.float64),
    )


_SHARES = ("merchant_unexplained_share_14d", "merchant_fraud_share_30d")


def _shares() -> list[pl.Expr]:
    recent = pl.col("known_age") <= 14.0
    return [
        ((share.sum() + PRIOR_POSITIVE) / (rows + PRIOR_ROWS)).alias(name)
        for name, share, rows in (
            (_SHARES[0], pl.col("u") & recent, recent.sum()),
            (_SHARES[1], pl.col("fraud"), pl.len()),
        )
    ]


def _since_last() -> list[pl.Expr]:
    age = pl.col("age").filter(pl.col("u"))
    return [
        pl.col("age").min().alias("last_fraud"),
        age.min().alias("last_u"),
        age.min().clip(upper_bound=AGE_DAYS_MAX).alias("merchant_unexplained_age_days"),
        # Ages are sorted so that the sum does not depend on the order of the rows.
        (2.0 ** (-age.sort() / HALF_LIFE_DAYS)).sum().alias("merchant_unexplained_recent_7d"),
    ]


def _chains(known: pl.DataFrame) -> pl.DataFrame:
    """Age of the beginning of each merchant's newest chain: the youngest one with a long gap before it."""
    begins = pl.col("age").diff().over("key").abs()
    return (
        known.filter("u")
        .sort("key", "age", descending=[False, True])
        .filter((begins > CHAIN_GAP_DAYS_MAX).fill_null(True))
        .group_by("key")
        .agg(pl.col("age").min().alias("merchant_unexplained_chain_days"))
    )


def _genuine_since(known: pl.DataFrame, frauds: pl.DataFrame) -> pl.DataFrame:
    age = pl.col("age")
    return (
        known.filter(~pl.col("fraud"))
        .join(frauds.select("key", "last_u", "last_fraud"), on="key")
        .group_by("key")
        .agg(
            (age < pl.col("last_u")).sum().alias("merchant_genuine_since_unexplained"),
            (age < pl.col("last_fraud")).sum().alias("merchant_genuine_since_fraud"),
        )
    )
