"""Snowflake as fakesnow plays it, on DuckDB; run by the engines' own Python: ``serve_snowflake.py PORT PASSWORD``.

fakesnow takes any password and knows no time limit. Both are added here, with the codes and words of Snowflake's own
answers, so that the client meets them.
"""

from __future__ import annotations

import asyncio
import gzip
import importlib
import json
import sys

import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

# The package has a function of this name, too.
server = importlib.import_module("fakesnow.server")
PORT, PASSWORD = int(sys.argv[1]), sys.argv[2]
LIMIT = "STATEMENT_TIMEOUT_IN_SECONDS"
limits: dict[str, int] = {}


async def login(request: Request) -> JSONResponse:
    told = json.loads(_unpacked(request, await request.body()))["data"]
    if told.get("PASSWORD") != PASSWORD:
        return _refused("390100", "Incorrect username or password was specified.", "08001")
    answer = await server.login_request(request)
    token = json.loads(bytes(answer.body))["data"]["token"]
    limits[token] = int(told["SESSION_PARAMETERS"].get(LIMIT, 172_800))
    return answer


async def query(request: Request) -> JSONResponse:
    token = server.to_token(request)
    running = asyncio.create_task(server.query_request(request))
    done, _ = await asyncio.wait([running], timeout=limits.get(token))
    if done:
        return running.result()
    server.to_conn(token)._duck_conn.interrupt()
    await asyncio.wait([running])
    said = (
        f"Statement reached its statement or warehouse timeout of {limits[token]} second(s) and was canceled."
    )
    return _refused("000630", said, "57014")


def _unpacked(request: Request, body: bytes) -> bytes:
    return gzip.decompress(body) if request.headers.get("Content-Encoding") == "gzip" else body


def _refused(code: str, said: str, state: str) -> JSONResponse:
    data = {"errorCode": code, "sqlState": state}
    return JSONResponse({"data": data, "code": code, "message": said, "success": False})


own = {"/session/v1/login-request": login, "/queries/v1/query-request": query}
server.app.router.routes = [
    Route(route.path, own.get(route.path, route.endpoint), methods=list(route.methods or ()))
    for route in server.routes
]

if __name__ == "__main__":
    uvicorn.run(server.app, host="127.0.0.1", port=PORT, log_level="warning")
