"""Read batches with DuckDB and its extension httpfs from the engines' packages, whatever DuckDB is our own.

Run by our own Python: ``read_batches.py SITE FOLDER``. Each folder below ``FOLDER`` is a configuration with a batch
``one`` below ``metrics``; prints an object by their names: ``rows``, or ``error`` and ``said``. ``SITE`` is the
engines' folder of packages; empty: our own DuckDB, which has the extension.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
from pathlib import Path
from typing import Any

SITE, FOLDER = sys.argv[1], Path(sys.argv[2])
if SITE:
    # Its DuckDB only: all else stays our own.
    sys.path.insert(0, SITE)
    import duckdb
    import duckdb_extension_httpfs

    sys.path.remove(SITE)
    platform = duckdb.sql("PRAGMA platform").fetchone()[0]
    installed = Path.home() / ".duckdb" / "extensions" / f"v{duckdb.__version__}" / platform
    installed.mkdir(parents=True)
    for file in Path(next(iter(duckdb_extension_httpfs.__path__))).rglob("*.duckdb_extension"):
        (installed / file.name).symlink_to(file)

from anomalyze.errors import AnomalyzeError  # noqa: E402
from anomalyze.metrics.library import load_batches  # noqa: E402
from anomalyze.metrics.sources import read  # noqa: E402
from anomalyze.metrics.window import Window  # noqa: E402

START = dt.datetime(2025, 11, 3, tzinfo=dt.UTC)
WINDOW = Window(START, START + dt.timedelta(hours=4), dt.timedelta(hours=1))


def answer(folder: Path) -> dict[str, Any]:
    try:
        frame = read(load_batches(folder, {}).batches["one"], WINDOW).frame
    except AnomalyzeError as error:
        return {"error": type(error).__name__, "said": str(error)}
    return {"rows": [[metric, ts.isoformat(), value] for metric, ts, value in frame.rows()]}


print(json.dumps({folder.name: answer(folder) for folder in sorted(FOLDER.iterdir())}))
