"""What people see of a day's profiles in Dagster."""

from typing import Any

import dagster as dg
import numpy as np

from anomalyze.features.catalogue import DAILY_MEASURES, DAILY_WINDOWS_DAYS, ENTITIES
from anomalyze.learning.daily import PublishedDay
from anomalyze_dagster.plot import as_metadata, new_figure

__all__ = ["show_day"]

TOP = 10
SHARE, FRAUDS, COUNT = (
    DAILY_MEASURES.index(name) for name in ("fraud_share_90d", "fraud_count_90d", "tx_count_90d")
)


def show_day(published: PublishedDay) -> dict[str, Any]:
    """Counts, a table by kind of entity, the entities with the highest share of frauds, and a plot."""
    table, note = published.table, published.note
    seconds = dg.TableMetadataValue(
        records=[dg.TableRecord({"step": step, "seconds": took}) for step, took in published.seconds.items()],
        schema=dg.TableSchema([dg.TableColumn("step", "string"), dg.TableColumn("seconds", "float")]),
    )
    return {
        "profiles": note.id,
        "as_of": dg.MetadataValue.timestamp(note.as_of_ms / 1000),
        "transactions": published.transactions,
        "frauds": published.frauds,
        "entities": len(table.keys),
        "bytes": note.bytes,
        "first_seen_from": note.after or "this version itself",
        "redis": published.redis or "loaded",
        "versions_forgotten": published.forgotten,
        "by_kind": _by_kind(published),
        "most_fraud": _most_fraud(published),
        "plot": as_metadata(_plot(published), "Transactions of each entity in 90 days"),
        "seconds": seconds,
    }


def _by_kind(published: PublishedDay) -> dg.TableMetadataValue:
    table = published.table
    columns = [dg.TableColumn("entity", "string"), dg.TableColumn("known", "int")]
    columns += [dg.TableColumn(f"seen_{days}d", "int") for days in DAILY_WINDOWS_DAYS]
    columns.append(dg.TableColumn("with_fraud_90d", "int"))
    records = []
    for code, entity in enumerate(ENTITIES):
        values = table.values[table.entity == code]
        seen = {
            f"seen_{days}d": int((values[:, DAILY_MEASURES.index(f"tx_count_{days}d")] > 0).sum())
            for days in DAILY_WINDOWS_DAYS
        }
        frauds = int((values[:, FRAUDS] > 0).sum())
        records.append(
            dg.TableRecord({"entity": entity, "known": len(values), **seen, "with_fraud_90d": frauds})
        )
    return dg.TableMetadataValue(records=records, schema=dg.TableSchema(columns))


def _most_fraud(published: PublishedDay) -> dg.TableMetadataValue:
    table = published.table
    frauds = table.values[:, FRAUDS]
    found = np.flatnonzero(frauds > 0)
    found = found[np.lexsort((table.keys[found], -table.values[found, SHARE]))][:TOP]
    columns = {"account": "string", "entity": "string", "id": "string"}
    columns |= {"transactions_90d": "int", "frauds_90d": "int", "share": "float"}
    records = [
        dg.TableRecord(
            {
                "account": str(published.names["account"][i]),
                "entity": ENTITIES[table.entity[i]],
                "id": str(published.names["id"][i]),
                "transactions_90d": int(table.values[i, COUNT]),
                "frauds_90d": int(frauds[i]),
                "share": round(float(table.values[i, SHARE]), 4),
            }
        )
        for i in found.tolist()
    ]
    schema = dg.TableSchema([dg.TableColumn(name, kind) for name, kind in columns.items()])
    return dg.TableMetadataValue(records=records, schema=schema)


def _plot(published: PublishedDay) -> Any:
    """How many entities of each kind have at least so many transactions."""
    figure = new_figure()
    axes = figure.add_subplot()
    for code, entity in enumerate(ENTITIES):
        count = np.sort(published.table.values[published.table.entity == code, COUNT])[::-1]
        if len(count):
            axes.step(count, np.arange(1, len(count) + 1), where="post", label=f"{entity} ({len(count):,})")
    axes.set(xscale="log", yscale="log", xlabel="transactions in 90 days, at least", ylabel="entities")
    axes.legend(fontsize="small")
    return figure
