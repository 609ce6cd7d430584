"""Rows as queries return them. ``data``, ``enrichment``, ``analysis`` and ``verdict`` are JSON text: `data` with the
detector's meaning, the other three with its bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

__all__ = ["AnomalyRow", "CaseRow", "DeadLetterRow", "ProgramRow", "TransactionRow", "UserRow"]


@dataclass(frozen=True, slots=True)
class TransactionRow:
    """A judged transaction; ``status``, ``severity`` and ``action`` are the numbers of their enumerations."""

    account_id: str
    user_id: str
    ts: datetime
    tx_id: str
    amount: Decimal
    currency: str
    status: int
    severity: int
    action: int
    score: float | None
    case_id: str | None
    source: str
    trace_id: str | None
    bundle: str
    src_partition: int
    src_offset: int
    stored_at: datetime
    data: str
    enrichment: str
    analysis: str
    verdict: str


@dataclass(frozen=True, slots=True)
class AnomalyRow:
    """An anomaly, and what was decided of its case: ``state`` (open, confirmed, dismissed), when, by whom."""

    account_id: str
    anomaly_id: str
    user_id: str
    ts: datetime
    tx_id: str
    amount: Decimal
    currency: str
    amount_base: Decimal | None
    severity: int
    action: int
    score: float | None
    case_id: str
    explanation: str
    rule_flags: list[str]
    merchant_id: str | None
    country: str | None
    device_id: str | None
    bundle: str
    src_partition: int
    src_offset: int
    late: bool
    stored_at: datetime
    data: str
    enrichment: str
    analysis: str
    verdict: str
    state: str
    decided_at: datetime | None
    decided_by: str | None


@dataclass(frozen=True, slots=True)
class CaseRow:
    """Anomalies of one user within 24 hours."""

    account_id: str
    case_id: str
    user_id: str
    opened_at: datetime
    last_at: datetime
    stored_at: datetime
    severity: int
    score: float | None
    anomalies: int
    value_base: Decimal
    headline: str
    headline_anomaly_id: str
    rule_flags: list[str]
    state: str
    decided_at: datetime | None
    decided_by: str | None
    note: str | None


@dataclass(frozen=True, slots=True)
class UserRow:
    """A user as counted by the sink."""

    user_id: str
    first_ts: datetime
    last_ts: datetime
    transactions: int
    anomalies: int


@dataclass(frozen=True, slots=True)
class DeadLetterRow:
    """A record that could not be judged or stored."""

    log_id: str
    src_partition: int
    src_offset: int
    account_id: str | None
    reason: str
    field: str
    expected: str
    got: str
    value: bytes
    stored_at: datetime


@dataclass(frozen=True, slots=True)
class ProgramRow:
    """A program's last heartbeat."""

    program: str
    instance: str
    pid: int
    started_at: datetime
    seen_at: datetime
    state: dict[str, Any]
