"""A payments company's month, written straight into the tables: what the dashboard's tests look at.

Ordinary users pay by daily rhythm; incidents of every severity lie in the last hours, some of them decided
already. The same seed and moment give the same rows.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg

from anomalyze.access.keys import create_key
from anomalyze.storage.partition import ensure_partitions

CITIES = (
    ("New York", "US", "USD"), ("Newark", "US", "USD"), ("Austin", "US", "USD"), ("Berlin", "DE", "EUR"),
    ("Lisbon", "PT", "EUR"), ("Lyon", "FR", "EUR"), ("Leeds", "GB", "GBP"), ("Kraków", "PL", "PLN"),
    ("Osaka", "JP", "JPY"), ("Toronto", "CA", "CAD"), ("São Paulo", "BR", "BRL"), ("Manila", "PH", "USD"),
)  # fmt: skip
SCALE = {"JPY": 150.0, "PLN": 4.0, "BRL": 5.0}
CATEGORIES = (
    "groceries",
    "coffee",
    "electronics",
    "transit",
    "donations",
    "digital_goods",
    "fuel",
    "restaurants",
)
BUNDLE = "sha256:7f3ac1e09b5d4c6e8a1f2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f70"
DAYS = 30


@dataclass(slots=True)
class User:
    user_id: str
    city: tuple[str, str, str]
    median: float
    device: str
    merchants: list[str]
    times: list[datetime] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Incident:
    """One kind of case: severity, rules, its sentence and how its transactions differ."""

    severity: int
    rules: tuple[str, ...]
    sentence: str
    score: float
    count: int = 1
    times_median: float = 1.0
    amount: float | None = None
    place: tuple[str, str] | None = None
    new_device: bool = False
    merchant: str | None = None
    channel: str = "online"


INCIDENTS = (
    Incident(4, ("GEO_IMPOSSIBLE", "AMOUNT_SPIKE", "VELOCITY_5M"), "5th transaction in 5 minutes; {amount} is 37.5 times this user’s usual {usual}; 8,440 km from the last one, 72 seconds earlier", 0.998, 5, 37.5, None, ("Lagos", "NG"), True, "m_0417"),
    Incident(4, ("CARD_TESTING", "VELOCITY_5M"), "9 payments of 0.50 to 2.00 USD at 9 merchants in 4 minutes, on a new device", 0.994, 9, 1, 1.25, None, True),
    Incident(3, ("GEO_IMPOSSIBLE",), "New York to Lisbon, 5,420 km in 38 minutes", 0.981, 1, 2, None, ("Lisbon", "PT"), False, None, "card_present"),
    Incident(3, ("NEW_DEVICE_HIGH",), "First payment on this device; {amount} is 11.2 times the median of {usual}", 0.987, 1, 11.2, None, None, True, "m_0417"),
    Incident(2, ("VELOCITY_1H",), "14th transaction in 1 hour; this user usually makes 1 to 3", 0.964, 1, 1.2, None, None, False, None, "transit"),
    Incident(3, ("DORMANT_AWAKES",), "Silent for 143 days, then 3 payments in 10 minutes, {total} together", 0.972, 3, 6),
    Incident(2, ("ROUND_NIGHT",), "Round {amount} at 03:12, the first purchase at night in 90 days", 0.958, 1, 4, None, None, False, "m_0882"),
    Incident(1, ("NEW_COUNTRY",), "First payment in Brazil; the amount is ordinary", 0.931, 1, 1, None, ("São Paulo", "BR")),
    Incident(2, (), "No rule; hour, merchant and pause since the last payment are strange together", 0.991, 1, 2.5),
    Incident(3, ("AMOUNT_SPIKE",), "{amount} is 19 times this user’s usual {usual}", 0.996, 1, 19, None, ("Lagos", "NG"), False, "m_0417"),
    Incident(1, ("AMOUNT_SPIKE",), "{amount}, twice this user’s usual top", 0.918, 1, 2.2),
    Incident(2, ("DECLINE_RUN",), "4 declined payments, then {amount} accepted on another card", 0.955, 5, 5),
)  # fmt: skip


@dataclass(slots=True)
class Seeded:
    account_id: str
    admin_key: str
    read_key: str
    case_ids: list[str]
    anomaly_ids: list[str]
    user_ids: list[str]


class Seeder:
    """Writes one account's rows."""

    def __init__(
        self, connection: psycopg.Connection[Any], account_id: str, now: datetime, seed: int = 7
    ) -> None:
        self.connection = connection
        self.account_id = account_id
        self.now = now
        self.random = random.Random(f"{account_id} {seed}")
        self.offset = 0
        self.users: dict[str, User] = {}
        self.counts: dict[str, list[Any]] = {}
        self.transactions: list[tuple[Any, ...]] = []
        self.anomalies: list[tuple[Any, ...]] = []
        self.cases: list[tuple[Any, ...]] = []

    def fill(self, users: int = 240, waiting: int = 27, decided: int = 60) -> None:
        """Ordinary traffic, then incidents to review in the last day and decided ones before."""
        for number in range(users):
            self._add_user(number)
        names = list(self.users)
        ages = sorted(self.random.uniform(0, 1) ** 1.6 * 20 * 3600 + 42 for _ in range(waiting))
        for index in range(waiting):
            self.add_incident(
                names[index], INCIDENTS[index % len(INCIDENTS)], self.now - timedelta(seconds=ages[index])
            )
        for _ in range(decided):
            at = self.now - timedelta(hours=self.random.uniform(1, 13 * 24))
            state = "confirmed" if self.random.random() < 0.76 else "dismissed"
            self.add_incident(self.random.choice(names[waiting:]), self.random.choice(INCIDENTS), at, state)
        self.write()
        self._write_hourly()

    def _add_user(self, number: int) -> None:
        pick = self.random
        city = pick.choice(CITIES) if number else CITIES[0]
        median = round(math.exp(pick.gauss(3.6, 0.7)) * SCALE.get(city[2], 1.0), 2)
        user = User(
            f"user_{99 if not number else 1000 + number * 37}",
            city,
            median,
            f"d_{pick.randrange(16**4):04x}",
            [f"m_{pick.randrange(900):04d}" for _ in range(5)],
        )
        self.users[user.user_id] = user
        count = 60 if not number else max(2, int(pick.gauss(30, 14)))
        for _ in range(count):
            day = self.now - timedelta(days=pick.uniform(0.2, DAYS))
            hour = min(23, max(6, int(pick.gauss(14, 4))))
            ts = day.replace(hour=hour, minute=pick.randrange(60), second=pick.randrange(60), microsecond=0)
            if ts < self.now - timedelta(hours=1):
                amount = median * math.exp(pick.gauss(0, 0.6))
                self._add_transaction(user, ts, amount, 0)

    def take_user(self, user_id: str) -> User:
        """A user that incidents may be added to, whether or not this seeder made him."""
        return self.users.setdefault(user_id, User(user_id, CITIES[0], 60.0, "d_0001", ["m_0001", "m_0417"]))

    def _add_transaction(
        self, user: User, ts: datetime, amount: float, severity: int, **changes: Any
    ) -> dict[str, Any]:
        self.offset += 1
        decimals = 0 if user.city[2] == "JPY" else 2
        value = Decimal(f"{amount:.{decimals}f}")
        merchant = changes.get("merchant") or self.random.choice(user.merchants)
        place = changes.get("place") or user.city[:2]
        data = {
            "tx_id": f"tx_{self.offset:06d}", "amount": float(value), "currency": user.city[2], "location": place[0],
            "country": place[1], "merchant_id": merchant, "merchant_category": CATEGORIES[int(merchant[-2:]) % len(CATEGORIES)],
            "device_id": changes.get("device") or user.device, "channel": changes.get("channel", "card_present"),
            "ip": f"102.89.{self.offset % 250}.{self.offset % 240 + 1}",
        }  # fmt: skip
        score = changes.get("score", round(self.random.uniform(0.05, 0.9), 3))
        sections = {
            "enrichment": changes.get(
                "enrichment", {"user_avg_spend": user.median, "features": {"is_new_device": 0.0}}
            ),
            "analysis": changes.get(
                "analysis", {"rule_flags": [], "ml_score": score, "ml_prediction": "NORMAL", "bundle": BUNDLE}
            ),
            "verdict": changes.get("verdict", {"final_severity": "NONE", "action": "ALLOW"}),
        }
        self.transactions.append(
            (self.account_id, user.user_id, ts, data["tx_id"], value, user.city[2], changes.get("status", 0), severity,
             2 if severity == 4 else 1 if severity else 0, score, changes.get("case_id"), self.offset % 8, self.offset,
             "REALTIME_API", f"trace-{self.offset}", BUNDLE, json.dumps(data), *(json.dumps(s) for s in sections.values()))
        )  # fmt: skip
        seen = self.counts.setdefault(user.user_id, [ts, ts, 0, 0])
        seen[0], seen[1], seen[2], seen[3] = (
            min(seen[0], ts),
            max(seen[1], ts),
            seen[2] + 1,
            seen[3] + bool(severity),
        )
        return {"data": data, "amount": value, "score": score, **sections}

    def add_incident(self, user_id: str, incident: Incident, at: datetime, state: str = "open") -> str:
        """One case of a user whose last transaction is at ``at``; returns its id."""
        user = self.users[user_id]
        case_id = f"case_{len(self.cases):04x}{self.random.randrange(16**8):08x}"
        amount = incident.amount or user.median * incident.times_median
        money = f"{amount:,.{0 if user.city[2] == 'JPY' else 2}f} {user.city[2]}"
        sentence = incident.sentence.format(
            amount=money, usual=f"{user.median:,.2f}", total=f"{amount * incident.count:,.2f} {user.city[2]}"
        )
        device = f"d_91e{self.random.randrange(16):x}" if incident.new_device else None
        total, first, last_id = 0.0, at - timedelta(seconds=48 * (incident.count - 1)), ""
        for index in range(incident.count):
            ts = at - timedelta(seconds=48 * (incident.count - 1 - index))
            value = amount * (1 if index == incident.count - 1 or incident.amount else 0.1)
            severity = incident.severity if index == incident.count - 1 else max(1, incident.severity - 1)
            last_id = self._add_anomaly(user, incident, ts, value, severity, case_id, sentence, device)
            total += value
        decided = at + timedelta(minutes=20) if state != "open" else None
        self.cases.append(
            (self.account_id, case_id, user_id, first, at, min(self.now, at + timedelta(seconds=1)), incident.severity, incident.score,
             incident.count, Decimal(f"{total:.2f}"), sentence, last_id, list(incident.rules), state, decided,
             "az_colleague" if decided else None)
        )  # fmt: skip
        return case_id

    def _add_anomaly(
        self,
        user: User,
        incident: Incident,
        ts: datetime,
        value: float,
        severity: int,
        case_id: str,
        sentence: str,
        device: str | None,
    ) -> str:
        from tests.browser.explained import explain

        sections = explain(user.median, value, user.city[2], incident, severity, BUNDLE, case_id, sentence)
        row = self._add_transaction(
            user, ts, value, severity, place=incident.place, merchant=incident.merchant, channel=incident.channel,
            device=device, score=incident.score, case_id=case_id, **sections,
        )  # fmt: skip
        anomaly_id = f"an_{self.offset:06x}{self.random.randrange(16**6):06x}"
        data = row["data"]
        self.anomalies.append(
            (self.account_id, anomaly_id, user.user_id, ts, data["tx_id"], row["amount"], user.city[2], row["amount"], severity,
             2 if severity == 4 else 1, incident.score, case_id, sentence, list(incident.rules), data["merchant_id"], data["country"],
             data["device_id"], BUNDLE, self.offset % 8, self.offset, json.dumps(data), json.dumps(row["enrichment"]),
             json.dumps(row["analysis"]), json.dumps(row["verdict"]))
        )  # fmt: skip
        return anomaly_id

    def write(self) -> None:
        """Store what was added since the last time."""
        ensure_partitions(self.connection, [row[2] for row in self.transactions] + [self.now])
        with self.connection.transaction(), self.connection.cursor() as cursor:
            for table, columns, rows in (
                ("transactions", "account_id, user_id, ts, tx_id, amount, currency, status, severity, action, score, case_id, src_partition, src_offset, source, trace_id, bundle, data, enrichment, analysis, verdict", self.transactions),
                ("anomalies", "account_id, anomaly_id, user_id, ts, tx_id, amount, currency, amount_base, severity, action, score, case_id, explanation, rule_flags, merchant_id, country, device_id, bundle, src_partition, src_offset, data, enrichment, analysis, verdict", self.anomalies),
                ("cases", "account_id, case_id, user_id, opened_at, last_at, stored_at, severity, score, anomalies, value_base, headline, headline_anomaly_id, rule_flags, state, decided_at, decided_by", self.cases),
            ):  # fmt: skip
                with cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
                    for row in rows:
                        copy.write_row(row)
            cursor.executemany(
                "INSERT INTO users VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (account_id, user_id) DO UPDATE SET "
                "last_ts = greatest(users.last_ts, EXCLUDED.last_ts), transactions = users.transactions + EXCLUDED.transactions, "
                "anomalies = users.anomalies + EXCLUDED.anomalies",
                [(self.account_id, user_id, *seen) for user_id, seen in self.counts.items()],
            )
        for rows in (self.transactions, self.anomalies, self.cases):
            rows.clear()
        self.counts.clear()

    def _write_hourly(self) -> None:
        """A month of hours with a daily rhythm; the last day from what was written."""
        hour = self.now.replace(minute=0, second=0, microsecond=0)
        rows = []
        for back in range(DAYS * 24, -1, -1):
            at = hour - timedelta(hours=back)
            wave = 1 + 0.7 * math.cos((at.hour - 14) / 24 * 2 * math.pi)
            part = 1.0 if back else max(self.now.minute / 60, 0.05)
            for severity, mean in ((0, 42_000), (1, 1.6), (2, 2.1), (3, 1.3), (4, 0.5)):
                value = self.random.gauss(mean * wave, math.sqrt(mean * wave)) * part
                count = max(0, round(value + (1.5 if severity in (3, 4) and back in (0, 1) else 0)))
                if count:
                    rows.append((self.account_id, at, severity, count))
        hits = [
            (self.account_id, hour - timedelta(hours=b), rule, 1 + b % 3)
            for b in range(24)
            for i in INCIDENTS
            for rule in i.rules
        ]
        with self.connection.transaction(), self.connection.cursor() as cursor:
            cursor.executemany("INSERT INTO hourly VALUES (%s, %s, %s, %s)", rows)
            cursor.executemany("INSERT INTO rule_hourly VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING", hits)


def beat(connection: psycopg.Connection[Any], *, rate: float = 1284.0, bundle_kind: str = "champion") -> None:
    """A heartbeat of every program, now."""
    now = datetime.now(UTC)
    for program, state in (
        ("api", {"rate": 61.0, "p99_ms": 4.1, "restarts": 0}),
        (
            "detector",
            {
                "rate": rate,
                "lag_s": 0.4,
                "lag": 512,
                "p99_ms": 11.0,
                "restarts": 1,
                "bundle": BUNDLE,
                "bundle_kind": bundle_kind,
                "partitions": 8,
            },
        ),
        ("sink", {"rate": rate, "lag_s": 0.6, "p99_ms": 38.0, "restarts": 0}),
    ):
        connection.execute(
            "INSERT INTO program_states VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (program, instance) DO UPDATE SET seen_at = EXCLUDED.seen_at, state = EXCLUDED.state",
            [
                program,
                "1",
                4000 + len(program),
                now - timedelta(hours=31),
                now + timedelta(days=1),
                json.dumps(state),
            ],
        )


def seed_account(
    connection: psycopg.Connection[Any],
    account_id: str = "acct_7",
    name: str = "Northwind Pay",
    now: datetime | None = None,
    **amounts: int,
) -> Seeded:
    """An account with two keys and a month of data."""
    moment = (now or datetime.now(UTC)).replace(microsecond=0)
    _, admin_key = create_key(connection, account_id, "Dana", ["admin"], "test")
    _, read_key = create_key(connection, account_id, "Reader", ["read"], "test")
    connection.execute("UPDATE accounts SET name = %s WHERE account_id = %s", [name, account_id])
    seeder = Seeder(connection, account_id, moment)
    seeder.fill(**amounts)
    beat(connection)
    connection.execute(
        "INSERT INTO dead_letters SELECT %s, 1, n, %s, CASE WHEN n %% 3 = 0 THEN 'conflict' ELSE 'invalid' END, 'data.amount', "
        "'a finite number', 'NaN', 'x', now() - n * interval '1 hour' FROM generate_series(1, 7) n",
        [f"log {account_id}", account_id],
    )
    return Seeded(
        account_id, admin_key, read_key,
        [r[0] for r in connection.execute("SELECT case_id FROM cases WHERE account_id = %s AND state = 'open' ORDER BY last_at DESC", [account_id])],
        [r[0] for r in connection.execute("SELECT headline_anomaly_id FROM cases WHERE account_id = %s AND state = 'open' ORDER BY last_at DESC", [account_id])],
        list(seeder.users),
    )  # fmt: skip
