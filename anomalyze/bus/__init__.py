"""The event log: Kafka, or a log table in the embedded PostgreSQL, behind one contract."""

from __future__ import annotations

from anomalyze.bus.contract import Bus, Consumer, Producer, Reader, Rebalance, Records
from anomalyze.errors import ConfigError
from anomalyze.settings import Settings

__all__ = ["Bus", "Consumer", "Producer", "Reader", "Rebalance", "Records", "open_bus"]


def open_bus(settings: Settings, *, postgres_dsn: str | None = None) -> Bus:
    """The log that the settings name; it connects when first used.

    Parameters
    ----------
    settings
        With ``kafka_bootstrap_servers`` it is Kafka, else the embedded log.
    postgres_dsn
        Where the embedded log lives; ``settings.postgres_dsn`` when None.

    Raises
    ------
    ConfigError
        The embedded log has no PostgreSQL to live in.
    """
    # Each program loads one of the two clients only.
    if not settings.embedded_bus:
        from anomalyze.bus.kafka import KafkaBus

        return KafkaBus(settings)
    from anomalyze.bus.embedded import EmbeddedBus

    dsn = postgres_dsn or (settings.postgres_dsn and settings.postgres_dsn.get_secret_value())
    if not dsn:
        raise ConfigError(
            "The embedded log lives in PostgreSQL: expected its DSN, got none. Set ANOMALYZE_POSTGRES_DSN, or "
            "ANOMALYZE_KAFKA_BOOTSTRAP_SERVERS to use Kafka"
        )
    return EmbeddedBus(dsn, prefix=settings.topic_prefix)
