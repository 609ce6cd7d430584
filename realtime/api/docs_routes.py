"""The documentation page: Swagger UI from our own files, so that it works without the internet."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import HTMLResponse, Response

from realtime.api.problems import Problem

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

TYPES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "docs.js": "text/javascript",
}
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Anomalyze API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="static/swagger-ui.css">
</head>
<body>
<div id="documentation"></div>
<script src="static/swagger-ui-bundle.js"></script>
<script src="static/docs.js"></script>
</body>
</html>
"""
# Swagger UI writes style attributes and draws its icons from data URLs.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@router.get("/docs")
async def docs() -> Response:
    """The page."""
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY})


@router.get("/static/{name}")
async def static(name: str) -> Response:
    """One of its files."""
    media_type = TYPES.get(name)
    if media_type is None:
        raise Problem(404, f"there is no file {name}")
    content = (files("realtime.api") / "static" / name).read_bytes()
    return Response(content, media_type=media_type, headers={"Cache-Control": "public, max-age=86400"})
