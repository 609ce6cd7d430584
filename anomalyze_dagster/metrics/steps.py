"""What a run of batches does, a step at a time and by hand: the same functions, for the batches that are named."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from anomalyze.errors import AnomalyzeError
from anomalyze.settings import Settings
from anomalyze_dagster.metrics.work import NAMED_MAX, find_entry
from anomalyze_dagster.resources import PostgresResource

if TYPE_CHECKING:
    import psycopg

    from anomalyze.metrics.library import BatchEntry

__all__ = ["JOBS"]

# Pictures of one run: metadata lie in Dagster's database.
PLOTS_MAX = 12
SENTENCES_MAX = 100

Shown = dict[str, Any]
Work = Callable[["psycopg.Connection[Any]", "BatchEntry"], Shown]


class Chosen(dg.Config):
    """Which batches."""

    batches: list[str] = Field(default=[], description="names; none: all that are on")


class Back(Chosen):
    """And how far back."""

    back: str = Field(default="30d", description="how far back from now, such as 7d")


@dg.op(
    description="Reads each batch, and stores what is new or corrected; scoring it is left to another run."
)
def ingest_batches(context: dg.OpExecutionContext, config: Chosen, postgres: PostgresResource) -> None:
    from anomalyze.monitoring.run import ingest_batch

    def ingest(connection: "psycopg.Connection[Any]", entry: "BatchEntry") -> Shown:
        done = ingest_batch(connection, entry, postgres.dsn)
        return {"rows": done.rows, "new": done.new, "corrected": done.corrected} | _failed(done.failures)

    _work(context, config, postgres, ingest)


@dg.op(
    description="Scores what is stored of each batch and waits for it, and tells of incidents. No source is read."
)
def score_batches(context: dg.OpExecutionContext, config: Chosen, postgres: PostgresResource) -> None:
    from anomalyze.monitoring.run import score_stored

    def score(connection: "psycopg.Connection[Any]", entry: "BatchEntry") -> Shown:
        done = score_stored(connection, entry, _banks())
        return {"scored": done.scored, "incidents": done.alerts} | _failed(done.failures)

    _work(context, config, postgres, score)


@dg.op(
    description="Tells of each batch what the clock says: metrics whose data are late, incidents to be reminded of."
)
def tell_batches(context: dg.OpExecutionContext, config: Chosen, postgres: PostgresResource) -> None:
    from anomalyze.monitoring.run import tell_stored

    def tell(connection: "psycopg.Connection[Any]", entry: "BatchEntry") -> Shown:
        return {"incidents": tell_stored(connection, entry).alerts}

    _work(context, config, postgres, tell)


@dg.op(
    description="Lets the detectors of each batch forget, and learn anew from all that is stored, by the settings as "
    "they are now. A run does so by itself for metrics whose settings changed. Nobody is told of what is over. PyOD's "
    "detectors by name learn ahead what the next values are to be judged by."
)
def train_batches(context: dg.OpExecutionContext, config: Chosen, postgres: PostgresResource) -> None:
    from anomalyze.monitoring.run import retrain_stored

    def train(connection: "psycopg.Connection[Any]", entry: "BatchEntry") -> Shown:
        done = retrain_stored(connection, entry, _banks())
        changed = done.scored + done.scored_by_name
        return {"series": done.rebuilt, "scores_that_changed": changed} | _failed(done.failures)

    _work(context, config, postgres, train)


@dg.op(
    description="Draws the strangest metrics of each batch with their bands, their newest 2,000 steps at most."
)
def plot_batches(context: dg.OpExecutionContext, config: Back, postgres: PostgresResource) -> None:
    from anomalyze.storage.metrics_ranking import rank_metrics
    from anomalyze.storage.query import fetch
    from anomalyze_dagster.metrics.show import POINTS_MAX, show_period

    plots: Shown = {}

    def plot(connection: "psycopg.Connection[Any]", entry: "BatchEntry") -> Shown:
        until = datetime.now(UTC)
        since = until - min(_span(config.back), POINTS_MAX * entry.batch.step)
        ranked = fetch(
            connection, rank_metrics([entry.name], since, until, order="anomaly_rate", limit=PLOTS_MAX)
        )
        for row in ranked[: PLOTS_MAX - len(plots)]:
            unit = entry.batch.settings(row.metric).unit
            plots[f"{entry.name}: {row.metric}"[:200]] = show_period(
                connection, entry.name, row.metric, since, until, unit
            )
        return {"strangest": [row.metric for row in ranked]}

    _work(context, config, postgres, plot, plots)


@dg.op(
    description="Says which values of the time asked for lie beyond the thresholds as the files have them now, also "
    "where those are newer than the values. Nothing is stored."
)
def check_thresholds(context: dg.OpExecutionContext, config: Back, postgres: PostgresResource) -> None:
    _foresee(context, config, postgres, [])


@dg.op(
    description="Looks in the time asked for for shifts of level of all metrics, also of those whose files name no "
    "such detector. Nothing is stored."
)
def find_changes(context: dg.OpExecutionContext, config: Back, postgres: PostgresResource) -> None:
    _foresee(context, config, postgres, ["level_shift"])


def _foresee(
    context: dg.OpExecutionContext, config: Back, postgres: PostgresResource, detectors: list[str]
) -> None:
    from anomalyze.monitoring.preview import foresee_stored

    wanted = {"shift"} if detectors else {"upper", "lower", "change", "flat"}

    def look(connection: "psycopg.Connection[Any]", entry: "BatchEntry") -> Shown:
        since = datetime.now(UTC) - _span(config.back)
        found = [
            one for one in foresee_stored(connection, entry, detectors, since) if one.incident.kind in wanted
        ]
        return {"found": len(found), "newest": [one.sentence for one in found[-SENTENCES_MAX:]]}

    _work(context, config, postgres, look)


def _work(
    context: dg.OpExecutionContext,
    config: Chosen,
    postgres: PostgresResource,
    do: Work,
    more: Shown | None = None,
) -> None:
    """Do it to one batch after another; none stops another, and the run fails when one did."""
    from anomalyze.metrics.library import load_batches

    loaded = load_batches(Settings().config_dir)
    names = config.batches or [name for name, entry in loaded.batches.items() if entry.batch.enabled]
    done: dict[str, Shown] = {}
    failed: dict[str, str] = {}
    for name in names:
        try:
            with postgres.connect() as connection:
                done[name] = do(connection, find_entry(name, None, loaded))
            if told := done[name].get("failed_metrics"):
                failed[name] = str(told)
        except AnomalyzeError as error:
            failed[name] = str(error)
        context.log.info(f"{name}: {failed.get(name) or done[name]}")
    metadata = {"batches": dg.MetadataValue.json(done)} | (more or {})
    if failed:
        told = "; ".join(f"{name}: {reason}" for name, reason in list(failed.items())[:NAMED_MAX])
        raise dg.Failure(
            description=f"{len(failed)} of {len(names)} batches failed, whole or in part: {told}",
            metadata=metadata,
            allow_retries=False,
        )
    context.add_output_metadata(metadata)


def _failed(failures: Any) -> Shown:
    said = [f"{one.metric}: {one.reason}" for one in failures[:NAMED_MAX]]
    return {"failed_metrics": "; ".join(said)} if said else {}


def _span(text: str) -> timedelta:
    from anomalyze.errors import ConfigError
    from anomalyze.metrics.duration import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise ConfigError(f"back: {error}, got {text[:40]!r}") from None


def _banks() -> Any:
    from anomalyze.monitoring.run import BANKS_FOLDER

    return Settings().data_dir / BANKS_FOLDER


def _job(name: str, op: dg.OpDefinition) -> dg.JobDefinition:
    @dg.job(name=name, description=op.description, executor_def=dg.in_process_executor)
    def one_step() -> None:
        op()

    return one_step


JOBS = [
    _job("ingest_metrics", ingest_batches),
    _job("score_metrics", score_batches),
    _job("alert_metrics", tell_batches),
    _job("train_metrics", train_batches),
    _job("plot_metrics", plot_batches),
    _job("threshold_metrics", check_thresholds),
    _job("change_metrics", find_changes),
]
