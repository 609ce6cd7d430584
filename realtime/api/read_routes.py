"""What is stored: transactions, anomalies, cases, users. Lists go by cursor; an empty page ends the walk."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from anomalyze.access.keys import Principal
from anomalyze.events.batch import Severity
from anomalyze.events.schema import ID_CHARACTERS_MAX
from anomalyze.storage import queries
from anomalyze.storage.query import LIMIT_MAX, fetch_async
from anomalyze.storage.query import Query as Statement
from realtime.api.problems import Problem, problem_responses
from realtime.api.schemas import json_answer
from realtime.api.security import require
from realtime.api.shapes import anomaly_shape, case_shape, stored_transaction_shape, user_shape
from realtime.api.state import state_of

__all__ = ["router"]

router = APIRouter()

Result = TypeVar("Result")
# Amounts are exact in PostgreSQL and leave as plain numbers.
_ENCODER = msgspec.json.Encoder(decimal_format="number")
Reader = Annotated[Principal, Depends(require("read", public=True))]
UserId = Annotated[str | None, Query(min_length=1, max_length=ID_CHARACTERS_MAX)]
Limit = Annotated[int, Query(ge=1, le=LIMIT_MAX)]
Cursor = Annotated[str | None, Query(max_length=2048, description="from the answer before; same filters")]
MOMENT = "RFC 3339 with offset, or a date (UTC)"
Moment = Annotated[datetime | None, Query(description=MOMENT)]
# Far beyond any money; PostgreSQL would refuse a number of a million digits.
AMOUNT_MAX = Decimal(10) ** 18
Amount = Annotated[
    Decimal | None,
    Query(
        ge=-AMOUNT_MAX,
        le=AMOUNT_MAX,
        decimal_places=12,
        allow_inf_nan=False,
        description="in the transaction's own currency",
    ),
]
Severities = Annotated[
    list[str] | None,
    Query(description="any of these; comma-separated or repeated", examples=["HIGH,CRITICAL"]),
]
Id = Annotated[str, Path(min_length=1, max_length=256)]


@router.get("/transactions", tags=["transactions"], responses={200: json_answer("Transactions", "One page.")})
@router.get("/v1/transactions", tags=["transactions"], include_in_schema=False)
async def list_transactions(
    request: Request,
    principal: Reader,
    user_id: UserId = None,
    from_date: Moment = None,
    to_date: Moment = None,
    min_amount: Amount = None,
    max_amount: Amount = None,
    limit: Limit = queries.LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> Response:
    """Transactions, newest first; the last 30 days unless `from_date` says otherwise."""
    page = await run(
        request,
        queries.transactions(
            principal.account_id,
            user_id=user_id,
            since=aware("from_date", from_date),
            until=aware("to_date", to_date),
            amount_min=min_amount,
            amount_max=max_amount,
            limit=limit,
            cursor=cursor,
        ),
    )
    return answer(
        {"transactions": [stored_transaction_shape(row) for row in page.rows], "cursor": page.cursor}
    )


@router.get("/v1/anomalies", tags=["anomalies"], responses={200: json_answer("Anomalies", "One page.")})
async def list_anomalies(
    request: Request,
    principal: Reader,
    user_id: UserId = None,
    severity: Severities = None,
    rule: Annotated[str | None, Query(max_length=128)] = None,
    from_date: Annotated[datetime | None, Query(alias="from", description=MOMENT)] = None,
    to_date: Annotated[datetime | None, Query(alias="to", description=MOMENT)] = None,
    min_score: Annotated[float | None, Query(ge=0, le=1)] = None,
    reviewed: bool | None = None,
    limit: Limit = queries.LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> Response:
    """Anomalies, newest first; the last 30 days unless `from` says otherwise."""
    page = await run(
        request,
        queries.anomalies(
            principal.account_id,
            user_id=user_id,
            severities=severities(severity),
            rule=rule,
            since=aware("from", from_date),
            until=aware("to", to_date),
            score_min=min_score,
            reviewed=reviewed,
            limit=limit,
            cursor=cursor,
        ),
    )
    return answer({"anomalies": [anomaly_shape(row) for row in page.rows], "cursor": page.cursor})


@router.get(
    "/v1/anomalies/{anomaly_id}",
    tags=["anomalies"],
    responses={200: json_answer("Anomaly", "It."), **problem_responses(404)},
)
async def get_anomaly(request: Request, principal: Reader, anomaly_id: Id) -> Response:
    """One anomaly with everything that decided it."""
    row = await run(request, queries.anomaly(principal.account_id, anomaly_id))
    if row is None:
        raise Problem(
            404, f"no anomaly with this id in {principal.account_id}", field="anomaly_id", got=anomaly_id
        )
    return answer(anomaly_shape(row))


@router.get("/v1/cases", tags=["cases"], responses={200: json_answer("Cases", "One page.")})
async def list_cases(
    request: Request,
    principal: Reader,
    state: Annotated[str | None, Query(pattern="^(open|confirmed|dismissed)$")] = None,
    severity: Severities = None,
    user_id: UserId = None,
    limit: Limit = queries.LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> Response:
    """Anomalies of one user within 24 hours as one case; those that grew last first."""
    page = await run(
        request,
        queries.cases(
            principal.account_id,
            state=state,
            severities=severities(severity),
            user_id=user_id,
            limit=limit,
            cursor=cursor,
        ),
    )
    return answer({"cases": [case_shape(row) for row in page.rows], "cursor": page.cursor})


@router.get(
    "/v1/cases/{case_id}",
    tags=["cases"],
    responses={200: json_answer("CaseWithMembers", "It."), **problem_responses(404)},
)
async def get_case(request: Request, principal: Reader, case_id: Id) -> Response:
    """One case with its anomalies, newest first."""
    row = await run(request, queries.case(principal.account_id, case_id))
    if row is None:
        raise Problem(404, f"no case with this id in {principal.account_id}", field="case_id", got=case_id)
    members = await run(request, queries.case_anomalies(principal.account_id, case_id))
    return answer({**case_shape(row), "members": [anomaly_shape(member) for member in members]})


@router.get("/users", tags=["users"], responses={200: json_answer("Users", "One page.")})
async def list_users(
    request: Request, principal: Reader, limit: Limit = queries.LIMIT_DEFAULT, cursor: Cursor = None
) -> Response:
    """Users that were seen, in the order of their ids."""
    page = await run(request, queries.users(principal.account_id, limit=limit, cursor=cursor))
    return answer({"users": [user_shape(row) for row in page.rows], "cursor": page.cursor})


async def run(request: Request, statement: Statement[Result]) -> Result:
    """Run one query on the pool."""
    async with state_of(request).pool.connection() as connection:
        return await fetch_async(connection, statement)


def answer(document: Any) -> Response:
    """A JSON answer."""
    return Response(_ENCODER.encode(document), media_type="application/json")


def aware(field: str, moment: datetime | None) -> datetime | None:
    """A moment that names its offset; a bare date is midnight UTC."""
    if moment is None or moment.tzinfo is not None:
        return moment
    if (moment.hour, moment.minute, moment.second, moment.microsecond) == (0, 0, 0, 0):
        return moment.replace(tzinfo=UTC)
    raise Problem(
        422,
        f"{field}: expected a time with its offset, such as 2025-12-20T12:00:00Z, got {moment.isoformat()}",
        field=field,
        expected="RFC 3339 with offset",
        got=moment.isoformat(),
    )


def severities(names: list[str] | None) -> list[int] | None:
    """Severities by name."""
    if not names:
        return None
    found = []
    for name in (part.strip().upper() for text in names for part in text.split(",")):
        if name not in Severity.__members__ or name == "NONE":
            expected = ", ".join(severity.name for severity in Severity if severity)
            raise Problem(
                422,
                f"severity: expected some of {expected}, got {name}",
                field="severity",
                expected=expected,
                got=name,
            )
        found.append(int(Severity[name]))
    return found
