"""``anomalyze``: the command line.

A file per group of commands; each imports what it needs inside its commands, so that ``--help`` answers at
once. Long work shows progress on standard error; ``--json`` prints one JSON document on standard output.
"""

from __future__ import annotations

import io
import sys

import typer

from anomalyze.cli import bundle, keys, metrics
from anomalyze.cli.backtest import backtest
from anomalyze.cli.check import check
from anomalyze.cli.import_anomstack import import_anomstack
from anomalyze.cli.mcp import mcp
from anomalyze.cli.replay import replay
from anomalyze.cli.simulate import simulate
from anomalyze.cli.up import logs, status, up
from anomalyze.log import configure

__all__ = ["app"]

app = typer.Typer(
    help="Finds anomalies in transactions as they arrive, with a reason a person can read.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _anomalyze() -> None:
    """Finds anomalies in transactions as they arrive, with a reason a person can read."""
    # Plots and names have signs that not every terminal's encoding has: a question mark is better than no answer.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    # Standard output belongs to the answer, which may be one JSON document.
    configure("cli", "WARNING", "stderr")


app.command("check")(check)
app.command("backtest")(backtest)
app.command("up")(up)
app.command("status")(status)
app.command("logs")(logs)
app.command("simulate")(simulate)
app.command("replay")(replay)
app.add_typer(bundle.app, name="bundle")
app.add_typer(keys.app, name="keys")
app.add_typer(metrics.app, name="metrics")
app.command("mcp")(mcp)
app.command("import-anomstack")(import_anomstack)
app.command("migrate")(keys.migrate)
