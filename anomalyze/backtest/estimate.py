"""How many cases a file would make: some of its users judged by the champion before anything of it counts.

Run as a program (``python -m anomalyze.backtest.estimate``) it reads an upload and a mapping from standard input, tells its
progress on standard output, a JSON text a line, and ends with the estimate. A process of its own: what judges would
stay in the API's and the dashboard's memory, and 20,000 rows would hold their other requests up.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from anomalyze.backtest.mapping import SourceChunk
from anomalyze.backtest.run import Replay
from anomalyze.detection.bundle import Bundle
from anomalyze.detection.bundle_store import BundleStore
from anomalyze.detection.detector import Detector
from anomalyze.errors import AnomalyzeError, ConfigError
from anomalyze.events.batch import Severity
from anomalyze.features.state import Disposition
from anomalyze.ingestion.container import unpack
from anomalyze.ingestion.lacking import find_lacking
from anomalyze.ingestion.mapping import FileMapping
from anomalyze.ingestion.parse import parse_file
from anomalyze.ingestion.receive import read_parts, source_of
from anomalyze.settings import Settings
from anomalyze.storage.objects import ObjectStore, open_objects
from anomalyze.storage.upload import Upload

__all__ = ["ROWS_JUDGED_MAX", "ROWS_READ_MAX", "Request", "estimate_upload"]

# The file's first rows are read, and of these users are judged with all that they did among them.
ROWS_READ_MAX = 100_000
ROWS_JUDGED_MAX = 20_000
JUDGE_S_MAX = 15.0
CHUNK_ROWS = 1_000
# So much of the file as it came is looked at; of a zip all, because its directory lies at the end.
HEAD_BYTES_MAX = 32 * 1024 * 1024
# Of so much of a gzip file the growth of the whole is judged.
RATIO_BYTES = 256 * 1024


class Request(msgspec.Struct):
    """What is to be judged."""

    upload: Upload
    mapping: dict[str, Any]


def estimate_upload(
    objects: ObjectStore,
    upload: Upload,
    mapping: FileMapping,
    bundle: Bundle,
    future_tolerance_s: int,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Any]:
    """Judge some users of a file, from an empty history, and say what that means for all of it.

    Parameters
    ----------
    progress
        Told rows judged, and of how many.

    Returns
    -------
    dict
        ``cases`` expected in the whole file (None: its size is not known), ``cases_found`` by severity in the
        ``rows_judged`` of ``users``, taken from the ``rows_good`` of the first ``rows_read`` rows, ``rows`` of the file (``rows_exact``: counted),
        ``bundle``, and what it lacks: ``features_null`` and ``rules_off``, each with what is missing.

    Raises
    ------
    ConfigError
        The file cannot be read so.
    """
    with tempfile.TemporaryDirectory(prefix="anomalyze-") as name:
        frame, rows_read, rows, exact = _read(objects, upload, mapping, future_tolerance_s, Path(name))
    sample = _whole_users(frame)
    found, judged = _judge(sample, bundle, progress)
    cases = sum(found.values())
    lacking = find_lacking(bundle, mapping, upload.account_id)
    # Refused rows are no transactions: the share of good ones goes for the rest of the file too.
    good = None if rows is None else rows * frame.height / max(1, rows_read)
    return {
        "cases": None if good is None else round(cases * good / max(1, judged)),
        "cases_found": {severity.name: count for severity, count in found.items() if count},
        "rows_judged": judged,
        "users": sample["user"].n_unique(),
        "rows_good": frame.height,
        "rows_read": rows_read,
        "rows": rows,
        "rows_exact": exact,
        "bundle": bundle.id,
        "features_null": lacking.features,
        "rules_off": lacking.rules,
    }


def _read(
    objects: ObjectStore, upload: Upload, mapping: FileMapping, tolerance_s: int, folder: Path
) -> tuple[pl.DataFrame, int, int | None, bool]:
    """Good rows of the file's beginning, rows read, rows of the whole file (None: unknown) and whether counted."""
    parts = read_parts(objects, upload)
    first = next(parts)
    whole_needed = first[:2] == b"PK" or first[:4] == b"PAR1"
    is_gzip = first[:2] == b"\x1f\x8b"
    bytes_max = None if whole_needed else HEAD_BYTES_MAX

    def head() -> Any:
        yield first
        taken = len(first)
        for part in parts:
            if not whole_needed and taken >= HEAD_BYTES_MAX:
                return
            taken += len(part)
            yield part

    path = unpack(head(), folder, bytes_max=bytes_max)
    frames, read = [], 0
    ended = True
    for chunk in parse_file(path, mapping, source_of(upload, tolerance_s)):
        frames.append(chunk.frame)
        read += chunk.rows
        if read >= ROWS_READ_MAX:
            ended = False
            break
    if not frames or not any(frame.height for frame in frames):
        raise ConfigError("expected rows that can be read so, got none among the first")
    frame = pl.concat(frames)
    if path.suffix == ".parquet":
        return frame, read, int(pl.scan_parquet(path).select(pl.len()).collect().item()), True
    size = path.stat().st_size
    plain = upload.bytes
    if is_gzip and (not ended or size >= HEAD_BYTES_MAX):
        plain = round(upload.bytes * _growth(first, folder))
    elif whole_needed:
        plain = size
    if ended and size < HEAD_BYTES_MAX:
        return frame, read, read, True
    row_bytes = float(frame["line"].max() or 1)  # type: ignore[arg-type]
    sample = size if ended else _bytes_of_lines(path, int(row_bytes))
    return frame, read, max(read, round(read * plain / max(1, sample))), False


def _growth(first: bytes, folder: Path) -> float:
    """How much a gzip file grows, by its beginning."""
    inner = folder / "growth"
    inner.mkdir()
    return unpack([first[:RATIO_BYTES]], inner, bytes_max=HEAD_BYTES_MAX).stat().st_size / min(
        RATIO_BYTES, len(first)
    )


def _bytes_of_lines(path: Path, lines: int) -> int:
    """Bytes of a file's first lines."""
    size = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            size += len(line)
            if number >= lines:
                break
    return size


def _whole_users(frame: pl.DataFrame) -> pl.DataFrame:
    """As many users as fit, with all their rows, in the order of time; which ones only their names decide."""
    if frame.height <= ROWS_JUDGED_MAX:
        return frame.sort("ts", "line")
    counts = (
        frame.group_by("user")
        .len()
        .with_columns(pl.col("user").hash(seed=7).alias("lot"))
        .sort("lot", "user")
    )
    chosen = counts.filter(pl.col("len").cum_sum() <= ROWS_JUDGED_MAX)["user"]
    if chosen.is_empty():
        # One user has more rows than may be judged.
        return frame.sort("ts", "line").head(ROWS_JUDGED_MAX)
    return frame.filter(pl.col("user").is_in(chosen.implode())).sort("ts", "line")


def _judge(
    sample: pl.DataFrame, bundle: Bundle, progress: Callable[[int, int], None]
) -> tuple[dict[Severity, int], int]:
    """Cases by their highest severity, and rows judged before the time was up."""
    replay = Replay(Detector(bundle))
    worst: dict[str, int] = {}
    done, until_s = 0, time.monotonic() + JUDGE_S_MAX
    for part in sample.iter_slices(CHUNK_ROWS):
        values = part["value"].cast(pl.Binary).to_list()
        chunk = SourceChunk(part["user"].to_list(), part["ts"].to_list(), values, [-1] * part.height)
        batch = replay.decode(chunk)
        verdicts = replay.detector.process(batch, replay.states)
        for row, anomaly in verdicts.anomalies.items():
            if verdicts.disposition[row] == Disposition.JUDGE:
                worst[anomaly.case_id] = max(worst.get(anomaly.case_id, 0), int(verdicts.severity[row]))
        done += part.height
        progress(done, sample.height)
        if time.monotonic() > until_s:
            break
    return {
        severity: sum(v == severity for v in worst.values()) for severity in reversed(Severity) if severity
    }, done


def main() -> None:
    """One request from standard input, JSON lines to standard output."""

    def say(content: dict[str, Any]) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(content) + b"\n")
        sys.stdout.buffer.flush()

    try:
        request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
        settings = Settings()
        objects = open_objects(settings.object_store, s3_endpoint_url=settings.s3_endpoint_url)
        bundles = BundleStore(objects)
        champion = bundles.pointer("champion")
        if champion is None:
            raise ConfigError("no bundle is in force yet")
        made = estimate_upload(
            objects,
            request.upload,
            FileMapping.model_validate(request.mapping),
            bundles.load(champion),
            settings.future_tolerance_s,
            lambda done, of: say({"rows_judged": done, "of": of}),
        )
        say({"estimate": made})
    except AnomalyzeError as error:
        say({"error": str(error)})


if __name__ == "__main__":
    main()
