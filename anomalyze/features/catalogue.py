"""What the kernel can compute: the measures that ``features.yaml`` may declare.

The kernel writes one row of ``WINDOW_MEASURES`` for each window, then ``MEASURES``; ``FeatureSpec`` maps the
declared names onto these positions. Amounts are in units of the account's base currency. A *purchase* is an
approved or pending transaction with an amount of zero or more; "baseline" means the user's last purchases
older than 24 hours, confirmed fraud left out. NULL is NaN.
"""

from __future__ import annotations

__all__ = [
    "DAILY_MEASURES",
    "DAILY_PROFILE",
    "DAILY_WINDOWS_DAYS",
    "ENTITIES",
    "INTRADAY",
    "MEASURES",
    "MERCHANT_PROFILE",
    "NOT_OF_USER",
    "WINDOW_MEASURES",
]

# Over (t - W, t], the judged transaction included.
WINDOW_MEASURES: tuple[str, ...] = (
    "user_tx_count",  # transactions of any status
    "user_amount_sum",  # of purchases
    "user_amount_mean",
    "user_amount_std",  # sample deviation; NULL below two purchases
    "user_amount_max",
    "user_declined_count",
    "user_refund_sum",  # magnitude: refunds as transactions of their own, and purchases since refunded
    "user_merchant_count",  # distinct; NULL when no transaction in the window names one
    "user_device_count",
    "user_country_count",
)

MEASURES: tuple[str, ...] = (
    "user_declined_streak",
    "user_amount_n",
    "user_amount_median",
    "user_amount_p95",
    "user_amount_rz",
    "user_amount_iqr_low",
    "user_amount_iqr_high",
    "user_amount_mean_20",
    "user_amount_z90",
    "user_amount_rank",
    "user_amount_lr",
    "user_amount_usual",  # the shrunk median that the log ratio compares with; needs no history
    "user_amount_excess_3d",
    "user_amount_excess_14d",
    "user_amount_lr_max_14d",
    "user_spend_per_day",
    "user_spend_24h_ratio",
    "user_age_days",
    "user_seconds_since_last",
    "is_new_merchant",
    "is_new_device",
    "is_new_country",
    "is_new_currency",
    "travel_km",
    "travel_kmh",
    "hour_rarity",
    "local_hour",
    "weekday",
    "is_night",
    "amount_base",
)

# NULL when a time is known only to the day (windows shorter than a day are too).
INTRADAY = frozenset({"travel_kmh", "user_seconds_since_last", "hour_rarity", "local_hour", "is_night"})

# Kept when the user is really "guest"; everything else is of a user.
NOT_OF_USER = frozenset({"local_hour", "weekday", "is_night", "amount_base"})

# Of a merchant, from labels known by an instant (``anomalyze.features.profile``). *Unexplained* is a fraud
# whose amount was ordinary for its user, so that the merchant is the likelier cause.
MERCHANT_PROFILE: tuple[str, ...] = (
    "merchant_unexplained_chain_days",
    "merchant_unexplained_age_days",
    "merchant_genuine_since_unexplained",
    "merchant_genuine_since_fraud",
    "merchant_unexplained_recent_7d",
    "merchant_unexplained_share_14d",
    "merchant_fraud_share_30d",
)

# Of whole days, for every entity (``anomalyze.features.daily``): what a stream's own window is too short for, or
# what one user's history cannot see.
ENTITIES: tuple[str, ...] = ("user", "merchant", "device", "ip", "country")
DAILY_WINDOWS_DAYS: tuple[int, ...] = (1, 7, 30, 90)
_DAILY_WINDOWED = (
    "tx_count",  # transactions of any status
    "amount_sum",  # of purchases not known as fraud, here and below
    "amount_mean",
    "amount_median",
    "amount_p95",
    "fraud_count",  # confirmed frauds known at the end of the day
    "fraud_share",  # (frauds + .05) / (transactions + 2)
)
DAILY_MEASURES: tuple[str, ...] = (
    *(f"{measure}_{days}d" for measure in _DAILY_WINDOWED for days in DAILY_WINDOWS_DAYS),
    "first_seen_days",
)
# Feature to entity and measure. A name that a window or a label profile can have is theirs.
DAILY_PROFILE: dict[str, tuple[str, str]] = {
    f"{entity}_{measure}": (entity, measure)
    for entity in ENTITIES
    for measure in DAILY_MEASURES
    if f"{entity}_{measure}" not in (*MERCHANT_PROFILE, *MEASURES)
}
