"""What would have changed the verdict: the same row with one thing as usual, judged again.

The changed columns are what the features would have been; those that cannot be known without replaying the
history become NULL, so that a rule on them does not fire. Lists and the count of transactions stay as they are.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyze.detection.row import Row
from anomalyze.events.batch import Severity
from anomalyze.rules.show import show

__all__ = ["change_columns", "columns_to_change", "describe_changes"]

Changed = dict[str, npt.NDArray[Any]]
WINDOW_SUM, WINDOW_MEAN = "user_amount_sum_", "user_amount_mean_"
# What the changes themselves read; a sum is read where its mean is.
READ = ("amount", "amount_base", "user_amount_median", "user_spend_per_day", "travel_km", "is_new_country")
UNKNOWABLE = ("user_amount_std_", "user_amount_max_")


def change_columns(
    columns: Mapping[str, npt.NDArray[Any]],
) -> dict[str, tuple[Changed, npt.NDArray[np.bool_]]]:
    """Columns under each change, and the rows to which the change applies.

    ``amount``: the user's usual amount was paid. ``place``: it happened where the last one did. ``both``.
    """
    with np.errstate(all="ignore"):  # what is 0/0 is unknown, and NaN says so
        amount, amount_applies = with_usual_amount(dict(columns))
    place, place_applies = at_last_place(dict(columns))
    both, _ = at_last_place(dict(amount))
    return {
        "amount": (amount, amount_applies),
        "place": (place, place_applies),
        "both": (both, amount_applies & place_applies),
    }


def columns_to_change(judged: Iterable[str], known: Container[str]) -> tuple[str, ...]:
    """What ``change_columns`` has to be given for these columns to come out as they would have been.

    Parameters
    ----------
    judged
        Columns that rules, statistics and model read.
    known
        Columns that there are.
    """
    wanted = {*judged, *READ}
    wanted |= {WINDOW_SUM + name.removeprefix(WINDOW_MEAN) for name in wanted if name.startswith(WINDOW_MEAN)}
    return tuple(name for name in sorted(wanted) if name in known)


def with_usual_amount(columns: Changed) -> tuple[Changed, npt.NDArray[np.bool_]]:
    """The amount is the user's median; applies where he has one and paid more."""
    n = len(columns["amount"])
    unknown = np.full(n, np.nan)
    usual = columns.get("user_amount_median", unknown)
    before = columns.get("amount_base", unknown)
    applies: npt.NDArray[np.bool_] = before > usual
    after = np.where(applies, usual, before)
    changed = columns | {"amount": np.where(applies, columns["amount"] * (after / before), columns["amount"])}
    changed["amount_base"] = after
    for name in columns:
        if name.startswith(WINDOW_SUM):
            changed[name] = columns[name] + (after - before)
            mean = WINDOW_MEAN + name.removeprefix(WINDOW_SUM)
            if mean in columns:  # as many purchases as before share the new sum
                changed[mean] = columns[mean] * (changed[name] / columns[name])
        elif name.startswith(UNKNOWABLE):
            changed[name] = np.where(applies, np.nan, columns[name])
    if "user_amount_lr" in columns:  # ln((amount + 1) / (m + 1)): m does not change
        changed["user_amount_lr"] = columns["user_amount_lr"] + np.log((after + 1) / (before + 1))
    if "user_spend_24h_ratio" in columns and "user_spend_per_day" in columns:
        changed["user_spend_24h_ratio"] = (
            columns["user_spend_24h_ratio"] + (after - before) / columns["user_spend_per_day"]
        )
    for name in ("user_amount_rz", "user_amount_z90"):
        if name in columns:
            changed[name] = np.where(applies, 0.0, columns[name])
    if "user_amount_rank" in columns:
        changed["user_amount_rank"] = np.where(applies, 0.5, columns["user_amount_rank"])
    return changed, applies


def at_last_place(columns: Changed) -> tuple[Changed, npt.NDArray[np.bool_]]:
    """No way was travelled and the country is known; applies where there was a way or a new country."""
    n = len(columns["amount"])
    unknown = np.full(n, np.nan)
    applies: npt.NDArray[np.bool_] = (columns.get("travel_km", unknown) > 0) | (
        columns.get("is_new_country", unknown) > 0
    )
    changed = dict(columns)
    for name in ("travel_km", "travel_kmh", "is_new_country"):
        if name in columns:
            changed[name] = np.where(applies, 0.0, columns[name])
    return changed, applies


def describe_changes(row: Row, severities: Mapping[str, Severity]) -> list[tuple[str, Severity]]:
    """The changes in words."""
    return [
        (usual_amount(row) if name == "amount" else PLACED[name], severity)
        for name, severity in severities.items()
    ]


PLACED = {"place": "Placed where the last one was", "both": "Both"}


def usual_amount(row: Row) -> str:
    """``Amount at this user's usual 120.00 USD``."""
    usual = show(row.number("user_amount_median"), "base_money", str(row.values["base_currency"]))
    return f"Amount at this user's usual {usual}"
