"""Detection on Sparkov's simulated card payments: learned from labels a week late, and without any.

The same path and the same configuration as ``benchmarks.fdh``; every card stays in the test.

    python -m benchmarks.sparkov --data FILE_OR_DIR [--test 2023-05-01..2023-06-30] [--delay-days 7]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from anomalyze.backtest.mapping import ColumnMapping, load_mapping
from benchmarks.fdh import DAY_MS, Days, evaluate, find_file, judge_file, parse_days, show

METHODS = {
    "learned": "learned from late labels (the product)",
    "isolation_forest": "isolation forest alone, no labels",
    "statistics": "two-quantile maximum alone, no labels",
    "amount": "the amount alone",
    "rules": "rules alone, no labels",
    "verdict": "severity of the verdict (five levels)",
}


def main() -> None:
    """Run, print a table, then JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="parquet or CSV file, or a folder with one")
    parser.add_argument("--delay-days", type=float, default=7.0, help="days until a label is known")
    parser.add_argument("--test", default="2023-05-01..2023-06-30", help="days judged")
    parser.add_argument("--mapping", type=Path, default=Path("benchmarks/mappings/sparkov.yaml"))
    parser.add_argument("--config", type=Path, default=Path("metrics_config"))
    parser.add_argument("--json", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    first, end = parse_days(options.test)
    days = Days(first, first, round(options.delay_days * DAY_MS), first, end)
    result = run(find_file(options.data), load_mapping(options.mapping), options.config, days)
    show(result, METHODS)
    document = json.dumps(result)
    if options.json:
        options.json.write_text(document)
    print(document)


def run(path: Path, mapping: ColumnMapping, config: Path, days: Days) -> dict[str, Any]:
    """All methods on the same test rows."""
    tested, bundle, seconds = judge_file(path, mapping, config, days)
    rows = tested.frame()
    methods = {name: evaluate(rows, name) for name in METHODS}
    return {
        **methods["learned"],
        "average_precision_unsupervised": methods["isolation_forest"]["average_precision"],
        "transactions": len(rows),
        "frauds": int((rows["fraud"] == 1).sum()),
        "methods": methods,
        "seconds": seconds,
        "model": dict(bundle.supervised.metrics) if bundle.supervised else {},
    }


if __name__ == "__main__":
    main()
