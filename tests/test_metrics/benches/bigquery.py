"""BigQuery's REST interface by its documented words, asked by Google's own client.

Nothing here runs SQL: the rows, and what is a mistake, are told by a few words of a query. The shapes of jobs, errors and
rows, and the login by a service account, are those of the reference of BigQuery's REST interface (v2).
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.test_metrics.benches.bench import SECRET, Bench, Row
from tests.test_metrics.web import web_server

__all__ = ["BigQuery"]

PROJECT = "shop-project"
PATH = f"/bigquery/v2/projects/{PROJECT}"
FIELDS = [
    {"name": "timestamp", "type": "TIMESTAMP", "mode": "NULLABLE"},
    {"name": "metric", "type": "STRING", "mode": "NULLABLE"},
    {"name": "value", "type": "FLOAT", "mode": "NULLABLE"},
]


class BigQuery(Bench):
    kind = "bigquery"
    writes = ("WITH one AS (SELECT 1) DELETE FROM points WHERE true",)

    def store(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.jobs: dict[str, dict[str, Any]] = {}
        self.begun: list[str] = []
        self.cancelled: list[str] = []
        self.is_locked = False
        self.server = ExitStack()
        address = self.server.enter_context(web_server(self.answer))
        self.stack.push(self.server)
        account = {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": SECRET,
            "private_key": _private_key(),
            "client_email": f"reader@{PROJECT}.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"{address}/token",
        }
        (self.folder / "account.json").write_text(json.dumps(account))
        self.monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(self.folder / "account.json"))
        self.monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", address)

    def answer(self, path: str, query: dict[str, str], headers: dict[str, str], body: str) -> tuple[int, str]:
        if path == "/token":
            if self.is_locked:
                said = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
                return 400, json.dumps(said)
            return 200, json.dumps({"access_token": "ya29.c", "expires_in": 3599, "token_type": "Bearer"})
        assert {name.lower(): value for name, value in headers.items()}["authorization"] == "Bearer ya29.c"
        if path == f"{PATH}/jobs":
            return self._insert(json.loads(body))
        told = path.removeprefix(f"{PATH}/")
        if told.startswith("jobs/") and told.endswith("/cancel"):
            self.cancelled.append(told.split("/")[1])
            return 200, json.dumps(
                {"kind": "bigquery#jobCancelResponse", "job": self.jobs[told.split("/")[1]]}
            )
        folder, _, name = told.partition("/")
        if folder == "jobs":
            return 200, json.dumps(self.jobs[name])
        assert folder == "queries", path
        return 200, json.dumps(self._results(self.jobs[name], query))

    def _insert(self, asked: dict[str, Any]) -> tuple[int, str]:
        configuration = asked["configuration"]
        text = configuration["query"]["query"]
        if "nowhere" in text:
            said = f"Not found: Table {PROJECT}:shop.nowhere was not found in location EU"
            error = {"message": said, "domain": "global", "reason": "notFound"}
            return 404, json.dumps(
                {"error": {"code": 404, "message": said, "errors": [error], "status": "NOT_FOUND"}}
            )
        is_dry = configuration.get("dryRun", False)
        if not is_dry:
            self.begun.append(text)
        name = asked["jobReference"]["jobId"]
        kind = "DELETE" if "DELETE" in text else "SELECT"
        self.jobs[name] = {
            "kind": "bigquery#job",
            "id": f"{PROJECT}:EU.{name}",
            "user_email": f"reader@{PROJECT}.iam.gserviceaccount.com",
            "configuration": configuration
            | {
                "jobType": "QUERY",
                "query": configuration["query"]
                | {
                    "destinationTable": {
                        "projectId": PROJECT,
                        "datasetId": "_0a1b",
                        "tableId": "anon1",
                    },
                    "priority": "INTERACTIVE",
                },
            },
            "jobReference": {"projectId": PROJECT, "jobId": name, "location": "EU"},
            "statistics": {
                "creationTime": "1762142400000",
                "startTime": "1762142400100",
                "totalBytesProcessed": "128",
                "query": {"statementType": kind, "totalBytesProcessed": "128", "cacheHit": False}
                | ({"schema": {"fields": FIELDS}} if is_dry else {}),
            },
            "status": {"state": "RUNNING" if "endless" in text and not is_dry else "DONE"},
        }
        return 200, json.dumps(self.jobs[name])

    def _results(self, job: dict[str, Any], query: dict[str, str]) -> dict[str, Any]:
        found = {
            "kind": "bigquery#getQueryResultsResponse",
            "jobReference": job["jobReference"],
            "jobComplete": job["status"]["state"] == "DONE",
        }
        if not found["jobComplete"]:
            return found
        bound = {
            one["name"]: one["parameterValue"]["value"]
            for one in job["configuration"]["query"]["queryParameters"]
        }
        first, past = (dt.datetime.fromisoformat(bound[name]) for name in ("start", "end"))
        rows = [
            {"f": [{"v": str(round(ts.timestamp() * 1e6))}, {"v": metric}, {"v": _told(value)}]}
            for ts, metric, value in self.rows
            if first <= ts < past
        ]
        assert query["formatOptions.useInt64Timestamp"].lower() == "true"
        return found | {
            "schema": {"fields": FIELDS},
            "totalRows": str(len(rows)),
            "rows": rows[: int(query.get("maxResults", "10000"))],
            "totalBytesProcessed": "128",
            "cacheHit": False,
        }

    def source(self) -> dict[str, Any]:
        return {"project": PROJECT, "location": "EU"}

    def slow(self) -> dict[str, Any]:
        return self.batch(timeout_s=1) | {"sql": "SELECT endless FROM points"}

    def vanish(self) -> None:
        self.server.close()

    def lock(self) -> None:
        self.is_locked = True


def _told(value: float | None) -> str | None:
    if value is None:
        return None
    return str(value).replace("nan", "NaN").replace("inf", "Infinity")


@cache
def _private_key() -> str:
    made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return made.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
