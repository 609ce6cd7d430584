"""The API is what its OpenAPI document says: requests are made up from it, answers held against it."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.test_realtime.conftest import Api

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
# How long the API may say that a dependency does not answer just now: a busy machine is no mistake in the document.
AWAY_S = 60.0
# What is drawn depends on the constants in all modules that are loaded, so that few requests may be all wrong.
RIGHT_TRIES_MAX = 300
BOUNDS = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def answer_to(case: Any, headers: dict[str, str]) -> Any:
    """The answer, asked for again as long as the API asks to be asked again."""
    deadline_s = time.monotonic() + AWAY_S
    while True:
        response = case.call(headers=headers, timeout=AWAY_S)
        again_s = response.headers.get("retry-after")
        if response.status_code != 503 or not again_s or time.monotonic() > deadline_s:
            return response
        time.sleep(float(again_s[0]))


@pytest.mark.timeout(900)
def test_answers_are_as_documented(api: Api) -> None:
    """Made-up requests to every operation, without the endless streams."""
    headers = {"Authorization": f"Bearer {api.platform.key('admin', account='acct_fuzz')}"}
    document = schemathesis.openapi.from_url(f"{api.url}/openapi.json").exclude(path_regex="^/sse/")
    asked: Counter[tuple[str, int]] = Counter()

    def checked(case: Any, label: str) -> int:
        response = answer_to(case, headers)
        case.validate_response(response, checks=CHECKS, headers=headers)
        asked[label, response.status_code] += 1
        return int(response.status_code)

    def ask(operation: Any) -> None:
        right = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
        wrong = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

        @settings(BOUNDS, max_examples=25)
        @given(st.one_of(right, wrong))
        def run(case: Any) -> None:
            checked(case, operation.label)

        run()
        # Ids that somebody makes up lead nowhere.
        if "}" not in operation.label and not asked[operation.label, 200] + asked[operation.label, 202]:
            find(
                right,
                lambda case: checked(case, operation.label) in (200, 202),
                settings=settings(BOUNDS, max_examples=RIGHT_TRIES_MAX),
            )

    for found in document.get_all_operations():
        ask(found.ok())
    labels = {label for label, _ in asked}
    assert len(labels) >= 11
    assert sum(n for (_, status), n in asked.items() if status == 422) > 0


def test_every_operation_is_documented_for_people(api: Api) -> None:
    found = api.stranger().get("/openapi.json").json()
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation["description"], where
            if path == "/health":
                assert operation["security"] == []
                continue
            assert {"401", "403", "503"} <= operation["responses"].keys(), where
            for status, response in operation["responses"].items():
                kind = "application/problem+json" if status >= "400" else None
                assert response["description"], where
                assert kind is None or list(response["content"]) == [kind], (where, status)
    assert found["security"] == [{"key": []}]
