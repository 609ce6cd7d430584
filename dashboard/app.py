"""Wires the dashboard: pool, hub, sessions, routes. The only place where its parts meet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import fasthtml.core
from fasthtml.core import Beforeware, FastHTML
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse
from starlette.staticfiles import StaticFiles

from anomalyze.access.sessions import SessionSigner
from anomalyze.access.verify import AsyncKeyVerifier
from anomalyze.backtest.ask import Estimates
from anomalyze.bus import open_bus
from anomalyze.errors import TransientError
from anomalyze.metrics.ownership import OwnedBatches
from anomalyze.settings import Settings
from anomalyze.storage import board_feed
from anomalyze.storage.objects import open_objects
from anomalyze.storage.pool import AsyncPool
from dashboard import routes
from dashboard.alert_channels import alert_routes_page
from dashboard.alerts import alert_picture, alerts_page
from dashboard.anomaly import anomaly_page
from dashboard.bundle_moves import promote, roll_back
from dashboard.bundles import bundles_page
from dashboard.decision import decide
from dashboard.estimate import upload_estimate
from dashboard.events import events, new_rows
from dashboard.heartbeat import Requests, keep_beating
from dashboard.live import Hub
from dashboard.metric import metric_page
from dashboard.metric_actions import post_feedback, post_snooze
from dashboard.metrics import metrics_page
from dashboard.now import now_page
from dashboard.now_budget import budget_page
from dashboard.page import Answer, PageMemory, not_found, unavailable
from dashboard.quality import quality_page
from dashboard.security import OPEN_PATHS, SecurityMiddleware, admit
from dashboard.settings import change_lists, save, settings_page, settings_preview
from dashboard.settings_preview import Previews
from dashboard.sign_in import sign_in, sign_in_form, sign_out
from dashboard.sources import refused_rows
from dashboard.system import system_page
from dashboard.transactions import transactions_csv, transactions_page
from dashboard.upload import start_upload, upload_page
from dashboard.uploads import refused_csv, take, uploads_page
from dashboard.user import user_page
from dashboard.users import users_page

__all__ = ["create_app"]

POOL_MAX = 8
# A page that takes longer says so instead.
STATEMENT_TIMEOUT_S = 5.0
ACCOUNT_NAMES_MAX = 1000


def create_app(
    settings: Settings, dsn: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> FastHTML:
    """The dashboard as an ASGI application.

    Parameters
    ----------
    dsn
        PostgreSQL, migrated.
    clock
        Now, aware; pages take their ages from it.
    """
    pool = AsyncPool(
        dsn, program="anomalyze-dashboard", size_max=POOL_MAX, statement_timeout_s=STATEMENT_TIMEOUT_S
    )
    batches = OwnedBatches(settings.config_dir)
    hub, requests = Hub(pool, clock, batches.of), Requests()
    estimates, previews = Estimates(settings), Previews(settings, dsn)

    async def lifespan(_: object) -> AsyncIterator[None]:
        await pool.open()
        beating = asyncio.create_task(keep_beating(dsn, requests, hub.watchers, clock()), name="heartbeat")
        yield
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        await estimates.close()
        await previews.close()
        await hub.close()
        await pool.close()

    fasthtml.core.fh_cfg.indent = False
    app = FastHTML(
        default_hdrs=False,
        canonical=False,
        sess_cls=None,
        secret_key="unused: sessions are ours",  # noqa: S106 - keeps FastHTML from writing a key file
        title="Anomalyze",
        lifespan=lifespan,
        before=Beforeware(admit, skip=list(OPEN_PATHS)),
        middleware=[
            Middleware(SecurityMiddleware, requests=requests),
            Middleware(GZipMiddleware, minimum_size=500),
        ],
        exception_handlers={404: _missing, TransientError: unavailable},
    )
    state = app.state
    state.pool, state.hub, state.clock, state.memory = pool, hub, clock, PageMemory()
    state.signer = SessionSigner.from_data_dir(settings.data_dir)
    state.verifier = AsyncKeyVerifier(pool)
    state.account_name = _account_names(pool)
    state.stamp = lambda: time.time_ns() // 1000
    state.api_port = settings.api_port
    state.dagster_port = settings.dagster_port
    state.objects = open_objects(settings.object_store, s3_endpoint_url=settings.s3_endpoint_url)
    state.open_bus = lambda: open_bus(settings, postgres_dsn=dsn)
    state.upload_bytes_max = settings.upload_bytes_max
    state.future_tolerance_s = settings.future_tolerance_s
    state.estimates = estimates
    state.batches = batches
    # For what threads do; the address holds a password.
    state.dsn, state.previews = dsn, previews
    _add_routes(app)
    return app


def _add_routes(app: FastHTML) -> None:
    for path, handler, method in (
        (routes.HEALTH, health, "get"),
        ("/", start, "get"),
        (routes.SIGN_IN, sign_in_form, "get"),
        (routes.SIGN_IN, sign_in, "post"),
        (routes.SIGN_OUT, sign_out, "post"),
        (routes.NOW, now_page, "get"),
        (routes.NOW_ROWS, new_rows, "get"),
        (routes.BUDGET, budget_page, "get"),
        (routes.EVENTS, events, "get"),
        (routes.METRICS, metrics_page, "get"),
        (routes.METRIC, metric_page, "get"),
        (routes.ALERTS, alerts_page, "get"),
        (routes.ALERT_ROUTES, alert_routes_page, "get"),
        (routes.ALERT_PICTURE, alert_picture, "get"),
        (routes.ALERT_FEEDBACK, post_feedback, "post"),
        (routes.ALERT_SNOOZE, post_snooze, "post"),
        (routes.CASE_DECISION, decide, "post"),
        (routes.ANOMALY, anomaly_page, "get"),
        (routes.TRANSACTIONS, transactions_page, "get"),
        (routes.TRANSACTIONS_CSV, transactions_csv, "get"),
        (routes.USERS, users_page, "get"),
        (routes.USER, user_page, "get"),
        (routes.UPLOADS, uploads_page, "get"),
        (routes.UPLOADS, take, "post"),
        (routes.UPLOAD_REFUSED, refused_csv, "get"),
        (routes.UPLOAD_START, start_upload, "post"),
        (routes.UPLOAD_ESTIMATE, upload_estimate, "get"),
        (routes.SOURCE_REFUSED, refused_rows, "get"),
        (routes.UPLOAD, upload_page, "get"),
        (routes.BUNDLES, bundles_page, "get"),
        (routes.BUNDLE_PROMOTE, promote, "post"),
        (routes.BUNDLE_ROLL_BACK, roll_back, "post"),
        (routes.QUALITY, quality_page, "get"),
        (routes.SYSTEM, system_page, "get"),
        (routes.SETTINGS, settings_page, "get"),
        (routes.SETTINGS, save, "post"),
        (routes.SETTINGS_LISTS, change_lists, "post"),
        (routes.SETTINGS_PREVIEW, settings_preview, "get"),
    ):
        app.route(path, methods=[method])(handler)
    app.mount(routes.STATIC, StaticFiles(directory=routes.STATIC_FOLDER), name="static")
    app.route("/{path:path}", methods=["get"])(elsewhere)


async def health() -> JSONResponse:
    """GET /health: open, says only that the program answers."""
    return JSONResponse({"health": "ok"})


async def start() -> RedirectResponse:
    """GET /: Now."""
    return RedirectResponse(routes.NOW, 303)


async def elsewhere(request: Request) -> Answer:
    """Any other address, for those who are signed in; others meet the sign-in form first."""
    return await not_found(request, "There is no page at this address.")


async def _missing(request: Request, error: HTTPException) -> Answer:
    return await not_found(request, "There is nothing at this address.")


def _account_names(pool: AsyncPool) -> Callable[[str], Any]:
    known: dict[str, str] = {}

    async def name_of(account_id: str) -> str:
        if account_id not in known:
            if len(known) >= ACCOUNT_NAMES_MAX:
                known.clear()
            async with pool.connection() as connection:
                known[account_id] = await board_feed.load_account_name(connection, account_id)
        return known[account_id]

    return name_of
