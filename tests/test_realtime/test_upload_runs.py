"""The orchestrator's side of uploads: a run an attempt, started by the sensor."""

from __future__ import annotations

import dagster as dg
import psycopg
import pytest

from anomalyze_dagster.ingestion import definitions
from anomalyze_dagster.ingestion.sensors import uploads
from anomalyze_dagster.resources import BusResource, ObjectsResource, PostgresResource
from tests.test_realtime.conftest import Api
from tests.test_realtime.test_uploads import rows, upload


@pytest.fixture
def here(api: Api, monkeypatch: pytest.MonkeyPatch) -> Api:
    """The platform as the environment names it."""
    monkeypatch.setenv("ANOMALYZE_DATA_DIR", str(api.platform.folder))
    monkeypatch.setenv("ANOMALYZE_POSTGRES_DSN", api.platform.dsn)
    monkeypatch.setenv("ANOMALYZE_REDIS_URL", api.platform.redis_url)
    return api


def test_the_sensor_starts_one_run_for_each_attempt(here: Api) -> None:
    client = here.client("ingest", "read")
    taken = upload(client, rows(40, bad=1))
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(instance=instance, resources={"postgres": PostgresResource()}) as context,
    ):
        found = uploads(context)
    assert isinstance(found, dg.SensorResult)
    requests = {r.run_key: r for r in found.run_requests or []}
    request = requests[f"{taken['id']}:1"]
    resolved = dg.Definitions.merge(
        definitions,
        dg.Definitions(
            resources={"postgres": PostgresResource(), "objects": ObjectsResource(), "bus": BusResource()}
        ),
    )
    job = resolved.resolve_job_def("work_off_upload")
    run = job.execute_in_process(run_config=request.run_config)
    assert run.success
    shown = client.get(f"/v1/uploads/{taken['id']}").json()
    assert (shown["state"], shown["rows"]["scored"], shown["rows"]["refused"]) == ("done", 40, 1)
    assert shown["run_id"] == run.run_id
    with psycopg.connect(here.platform.dsn) as connection:
        found = connection.execute(
            "SELECT to_char(first_ts AT TIME ZONE 'UTC', 'MM-DD HH24:MI'), to_char(last_ts AT TIME ZONE 'UTC', "
            "'MM-DD HH24:MI') FROM uploads WHERE upload_id = %s",
            [taken["id"]],
        ).fetchone()
    assert found == ("11-01 10:00", "11-28 10:00"), "from the first good row to the last"
    assert job.execute_in_process(run_config=request.run_config).success


def test_the_sensor_runs_by_itself() -> None:
    assert uploads.default_status == dg.DefaultSensorStatus.RUNNING
