"""``anomalyze replay``: judge the log again, undisturbed, and hold what is stored against it, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomalyze.cli.output import complain, print_json, print_line

if TYPE_CHECKING:
    from anomalyze.bus.contract import Bus, Records
    from realtime.detector.judge import Judge

__all__ = ["replay"]

SLICE_RECORDS = 5_000
READ_TIMEOUT_S = 1.0
EXAMPLES_MAX = 5


def replay(
    since: Annotated[
        datetime | None, typer.Option("--from", help="event time (UTC) of the first compared")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--to", help="event time (UTC) of the last compared")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Recompute stored verdicts from the log; exit code 1 when one differs.

    The whole log is read, because a verdict depends on what came before; only the range is compared.
    """
    with complain("replay"):
        result = run(since and since.replace(tzinfo=UTC), until and until.replace(tzinfo=UTC), as_json)
    if as_json:
        print_json(result)
    else:
        print_line(
            f"{result['compared']:,} verdicts compared, {result['differ']:,} differ, {result['unstored']:,} not stored."
        )
        for example in result["examples"]:
            print_line(f"  {example}")
        if result["truncated"]:
            print_line(
                "The log no longer begins at its beginning: differences near its start are to be expected."
            )
    raise typer.Exit(1 if result["differ"] else 0)


def run(since: datetime | None, until: datetime | None, quiet: bool) -> dict[str, Any]:
    """Judge every partition of the log and compare."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from anomalyze.bus import open_bus
    from anomalyze.bus.topics import TRANSACTIONS
    from anomalyze.detection.bundle_store import BundleStore
    from anomalyze.embedded.runtime import find_addresses
    from anomalyze.features.snapshot import ProfileStore
    from anomalyze.settings import Settings
    from anomalyze.storage.objects import open_objects
    from anomalyze.storage.pool import connect
    from realtime.detector.detector_cache import DetectorCache
    from realtime.detector.judge import Judge
    from realtime.detector.profiles import ProfileCache

    settings = Settings()
    addresses = find_addresses(settings)
    objects = open_objects(settings.object_store, s3_endpoint_url=settings.s3_endpoint_url)
    store = BundleStore(objects)
    result: dict[str, Any] = {"compared": 0, "differ": 0, "unstored": 0, "examples": [], "truncated": False}
    bus = open_bus(settings, postgres_dsn=addresses.postgres_dsn)
    try:
        marks = bus.watermarks(TRANSACTIONS)
        judge = Judge(
            DetectorCache(store.load),
            ProfileCache(ProfileStore(objects, settings.data_dir / "profiles").open),
            len(marks),
            settings.future_tolerance_s,
        )
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with (
            connect(addresses.postgres_dsn, program="anomalyze-replay", statement_timeout_s=0) as connection,
            Progress(*columns, console=Console(stderr=True), disable=quiet) as progress,
        ):
            task = progress.add_task("", total=sum(high - low for low, high in marks.values()))
            for partition, (low, high) in marks.items():
                result["truncated"] |= low > 0
                for records, scored in judged(bus, judge, partition, low, high):
                    compare(connection, partition, scored, since, until, result)
                    progress.advance(task, len(records))
    finally:
        bus.close()
    return result


def judged(
    bus: Bus, judge: Judge, partition: int, low: int, high: int
) -> Iterator[tuple[Records, list[bytes]]]:
    """The partition's records in slices, each with the scored records that it causes."""
    from anomalyze.bus.topics import TRANSACTIONS
    from anomalyze.detection.detector import PartitionState
    from realtime.detector.partition import OwnedPartition

    owned = {
        partition: OwnedPartition(
            partition, PartitionState.empty(), bundle=first_bundle(bus, judge, partition, low, high)
        )
    }
    reader = bus.reader(TRANSACTIONS, {partition: low})
    at = low
    try:
        while at < high:
            records = reader.read(SLICE_RECORDS, READ_TIMEOUT_S)
            if not len(records):
                continue
            at = records.offsets[-1] + 1
            yield records, judge.judge(records, owned, {}).scored
    finally:
        reader.close()


def first_bundle(bus: Bus, judge: Judge, partition: int, low: int, high: int) -> str | None:
    """What stands before the first bundle record that can be used is judged by it."""
    from anomalyze.bus.topics import TRANSACTIONS
    from realtime.detector.judge import read_bundles

    reader = bus.reader(TRANSACTIONS, {partition: low})
    try:
        at = low
        while at < high:
            records = reader.read(SLICE_RECORDS, READ_TIMEOUT_S)
            for bundle in read_bundles(records):
                if judge.refusal(bundle) is None:
                    return bundle
            at = records.offsets[-1] + 1 if len(records) else at
    finally:
        reader.close()
    return None


def compare(
    connection: Any,
    partition: int,
    scored: list[bytes],
    since: datetime | None,
    until: datetime | None,
    result: dict[str, Any],
) -> None:
    """Hold one slice's verdicts against the stored rows of the same places in the log."""
    import msgspec

    expected: dict[int, tuple[str, tuple[str, str, str]]] = {}
    for value in scored:
        sections = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
        if "analysis" not in sections:
            continue  # a status update has no verdict of its own
        place = msgspec.json.decode(sections["src"])
        moment = datetime.fromisoformat(msgspec.json.decode(sections["meta"])["timestamp"])
        if (since is None or moment >= since) and (until is None or moment <= until):
            texts = tuple(bytes(sections[name]).decode() for name in ("enrichment", "analysis", "verdict"))
            expected[place["offset"]] = (msgspec.json.decode(sections["data"])["tx_id"], texts)  # type: ignore[assignment]
    if not expected:
        return
    rows = connection.execute(
        "SELECT src_offset, enrichment::text, analysis::text, verdict::text FROM transactions "
        "WHERE src_partition = %s AND src_offset = ANY(%s)",
        [partition, list(expected)],
    )
    stored = {offset: (enrichment, analysis, verdict) for offset, enrichment, analysis, verdict in rows}
    for offset, (tx_id, texts) in expected.items():
        result["compared"] += 1
        if offset not in stored:
            result["unstored"] += 1
        elif stored[offset] != texts:
            result["differ"] += 1
            if len(result["examples"]) < EXAMPLES_MAX:
                result["examples"].append(
                    f"{tx_id} at {partition}/{offset}: stored {stored[offset][2][:120]}, now {texts[2][:120]}"
                )
