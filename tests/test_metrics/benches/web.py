"""Sources that are asked over HTTP without SQL."""

from __future__ import annotations

import json
import math
import time
from base64 import b64encode
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from tests.test_metrics.benches.bench import ROWS, SECRET, STRANGE, WINDOW, Bench, Row
from tests.test_metrics.servers import PASSWORD, USER
from tests.test_metrics.web import web_server

__all__ = ["SAMPLES", "Http", "Prometheus"]

VARIABLE = "ANOMALYZE_SOURCE_TEST"


def _labels(of: str, metric: str) -> str:
    return f"of={json.dumps(of)},shop={json.dumps(metric, ensure_ascii=False)}"


def _samples() -> str:
    told = sorted(
        (of, metric, ts.timestamp(), math.nan if value is None else value)
        for of, rows in (("rows", ROWS), ("strange", STRANGE))
        for ts, metric, value in rows
    )
    lines = [f"points{{{_labels(of, metric)}}} {value} {at}" for of, metric, at, value in told]
    return "\n".join(["# TYPE points gauge", *lines, ""])


SAMPLES = _samples()


class Http(Bench):
    kind = "http"
    wrong_named = "nothing here"
    rows: Sequence[Row] = ()
    pause_s = 0.0

    def store(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.server = ExitStack()
        self.host = self.server.enter_context(web_server(self.answer)).removeprefix("http://")
        self.stack.push(self.server)
        self.point_to(PASSWORD)

    def point_to(self, password: str, path: str = "data") -> None:
        self.monkeypatch.setenv(VARIABLE, f"http://{USER}:{password}@{self.host}/{path}")

    def answer(self, path: str, query: dict[str, str], headers: dict[str, str], body: str) -> tuple[int, str]:
        time.sleep(self.pause_s)
        if headers["Authorization"] != f"Basic {b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}":
            return 401, "who is there?"
        if path != "/data":
            return 404, "nothing here"
        assert query == {"from": "2025-11-03T00:00:00Z", "until": "1762142400"}
        rows = [
            {"at": ts.isoformat(), "n": {"name": metric}, "v": value}
            for ts, metric, value in self.rows
            if ts < WINDOW.end
        ]
        return 200, json.dumps({"data": {"points": rows}})

    def source(self) -> dict[str, Any]:
        return {
            "url": VARIABLE,
            "query": {"from": "{{ start | iso }}", "until": "{{ end | unix }}"},
            "items": "data.points",
            "columns": {"timestamp": "at", "metric": "n.name", "value": "v"},
        }

    def batch(self, **more: Any) -> dict[str, Any]:
        return {"source": self.source() | {"kind": self.kind} | more}

    def slow(self) -> dict[str, Any]:
        self.pause_s = 3
        return self.batch(timeout_s=1)

    def wrong(self) -> dict[str, Any]:
        self.point_to(PASSWORD, "elsewhere")
        return self.batch()

    def vanish(self) -> None:
        self.point_to(SECRET)
        self.server.close()

    def lock(self) -> None:
        self.point_to(SECRET)


class Prometheus(Bench):
    kind = "prometheus"
    wrong_named = "parse error"

    def store(self, rows: Sequence[Row]) -> None:
        # One server holds what all tests ask for: it takes no samples from others.
        self.of = "strange" if rows[0] in STRANGE else "rows"
        self.metrics = sorted({metric for _, metric, _ in rows})
        self.host = self.servers.prometheus(SAMPLES)
        self.point_to(self.host, PASSWORD)

    def point_to(self, host: str, password: str) -> None:
        self.monkeypatch.setenv(VARIABLE, f"http://{USER}:{password}@{host}")

    def source(self) -> dict[str, Any]:
        # Without their labels, so that the name is the query's alone.
        asked = {metric: f"sum(points{{{_labels(self.of, metric)}}})" for metric in self.metrics}
        return {"url": VARIABLE, "queries": asked}

    def batch(self, **more: Any) -> dict[str, Any]:
        return {"source": self.source() | {"kind": self.kind} | more}

    def slow(self) -> dict[str, Any]:
        # Three hundred thousand samples at each of so many inner steps.
        heavy = "sum(sum_over_time((count_values('v', vector(time())))[300000s:1s]))"
        return self.batch(timeout_s=1, queries={"a": heavy})

    def wrong(self) -> dict[str, Any]:
        return self.batch(queries={"a": "nothing("})

    def vanish(self) -> None:
        self.point_to("127.0.0.1:1", SECRET)

    def lock(self) -> None:
        self.point_to(self.host, SECRET)
