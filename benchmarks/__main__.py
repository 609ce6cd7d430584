"""``python -m benchmarks``: every benchmark in a short form, one after the other."""

from __future__ import annotations

import subprocess
import sys

RUNS = (
    ("codec",),
    ("forest",),
    ("state", "--users", "1000,100000"),
    ("stream", "--events", "500000", "--peers", "bytewax,quix"),
    ("latency", "--seconds", "10"),
    ("pipeline", "--events", "200000"),
    ("api", "--seconds", "5"),
    ("transactions_index",),
    ("metrics", "--metrics", "50", "--stored", "1000"),
)


def main() -> int:
    """Run all; the exit code says whether any failed."""
    failed = 0
    for name, *options in RUNS:
        print(f"\n== {name} {' '.join(options)}", flush=True)
        failed |= subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options]).returncode
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
