"""The OpenAPI document: what FastAPI finds in the routes, with our shapes and the way to sign in."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from realtime.api.account_schemas import ACCOUNT_COMPONENTS
from realtime.api.metric_schemas import METRIC_COMPONENTS
from realtime.api.schemas import COMPONENTS
from realtime.api.upload_schemas import UPLOAD_COMPONENTS

__all__ = ["install_openapi"]

OPEN_ROUTES = ("/health",)


def install_openapi(app: FastAPI) -> None:
    """Give an application its document, made when it is first asked for."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = build(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def build(app: FastAPI) -> dict[str, Any]:
    """The document."""
    made = get_openapi(
        title=app.title,
        version=app.version,
        summary="Finds anomalies in transactions as they arrive, with a reason a person can read",
        description=app.description,
        routes=app.routes,
    )
    components = made.setdefault("components", {})
    components["schemas"] = {
        **components.get("schemas", {}),
        **COMPONENTS,
        **UPLOAD_COMPONENTS,
        **ACCOUNT_COMPONENTS,
        **METRIC_COMPONENTS,
    }
    components["securitySchemes"] = {
        "key": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key; `anomalyze keys create` makes one",
        }
    }
    made["security"] = [{"key": []}]
    for path in OPEN_ROUTES:
        for operation in made["paths"][path].values():
            operation["security"] = []
            for status in [s for s in operation["responses"] if s >= "400"]:
                del operation["responses"][status]
    return made
