"""A broker that wants TLS and a password: with the right ones all works, with wrong ones it is said plainly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from anomalyze.bus import open_bus
from anomalyze.bus.topics import TRANSACTIONS
from anomalyze.embedded.process import free_port
from anomalyze.errors import ConfigError
from anomalyze.settings import Settings
from tests.test_bus.conftest import Member
from tests.test_bus.test_contract import poll_until

if TYPE_CHECKING:
    from tests.kafka import KafkaBroker

PASSWORD = "correct-horse-battery"


@pytest.fixture(scope="module")
def secured_broker(
    kafka_broker: KafkaBroker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KafkaBroker]:
    """A broker of its own with a second listener; the shared one says whether there is a Java here."""
    from tests.kafka import KafkaBroker, Secured

    assert kafka_broker is not None
    folder = tmp_path_factory.mktemp("secured") / "kafka"
    broker = KafkaBroker(folder, free_port(), Secured(free_port(), "anomalyze", PASSWORD))
    broker.start()
    yield broker
    broker.stop()


def settings(broker: KafkaBroker, **changed: Any) -> Settings:
    """What an operator sets for the secured listener."""
    assert broker.secured is not None
    chosen = {
        "kafka_bootstrap_servers": f"127.0.0.1:{broker.secured.port}",
        "kafka_security_protocol": "SASL_SSL",
        "kafka_sasl_mechanism": "PLAIN",
        "kafka_sasl_username": broker.secured.user,
        "kafka_sasl_password": PASSWORD,
        "kafka_ssl_ca_location": str(Path(broker.folder) / "ca.pem"),
        **changed,
    }
    return Settings(_env_file=None, **chosen)


def test_records_go_through_tls_with_a_password(secured_broker: KafkaBroker) -> None:
    bus = open_bus(settings(secured_broker), postgres_dsn=None)
    bus.ensure_topics(2)
    producer = bus.producer()
    producer.send(TRANSACTIONS, 1, b"u", b"told in confidence")
    producer.flush(20)
    member = Member(bus)
    poll_until(lambda: bool(member.got), member)
    member.consumer.close()
    bus.close()
    assert member.got == [(1, 0, b"told in confidence")]


def test_a_wrong_password_is_refused_plainly_and_never_shown(
    secured_broker: KafkaBroker, capfd: pytest.CaptureFixture[str]
) -> None:
    bus = open_bus(settings(secured_broker, kafka_sasl_password="wrong-horse"), postgres_dsn=None)
    with pytest.raises(ConfigError, match=r"(?i)authentication") as refused:
        bus.ensure_topics(2)
    bus.close()
    shown = "".join(capfd.readouterr()) + str(refused.value)
    assert "wrong-horse" not in shown


def test_a_broker_whose_certificate_is_not_trusted_gets_no_password(
    secured_broker: KafkaBroker,
) -> None:
    bus = open_bus(settings(secured_broker, kafka_ssl_ca_location=None), postgres_dsn=None)
    with pytest.raises(ConfigError, match=r"(?i)ssl|certificate"):
        bus.ready(5.0)
    bus.close()
