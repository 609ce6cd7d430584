"""Deployment settings: environment variables with the prefix ``ANOMALYZE_``, also from ``.env``.

Nothing else in the project reads the environment. The four addresses (PostgreSQL, Redis, Kafka, object
store) are optional, each on its own: what has no address runs embedded, inside the data folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from dotenv import dotenv_values
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["Settings", "find_secret", "find_variables"]


class Settings(BaseSettings):
    """Where everything is. Frozen; secrets never print."""

    model_config = SettingsConfigDict(
        env_prefix="ANOMALYZE_", env_file=".env", env_file_encoding="utf-8", frozen=True, extra="ignore"
    )

    data_dir: Path = Path(".anomalyze")
    config_dir: Path = Path("metrics_config")
    bind: str = "127.0.0.1"
    api_port: int = Field(8000, ge=0, le=65535)
    dashboard_port: int = Field(8080, ge=0, le=65535)
    dagster_port: int = Field(3000, ge=0, le=65535)
    dagster: bool = Field(True, description="whether `anomalyze up` starts Dagster")
    dagster_dsn: SecretStr | None = Field(
        None, description="Dagster's own database; else <database>_dagster beside ours"
    )
    promotion: Literal["hand", "automatic"] = Field(
        "hand", description="who makes a challenger that passed every check the champion"
    )
    admin_key: SecretStr | None = None

    postgres_dsn: SecretStr | None = None
    redis_url: SecretStr | None = None
    kafka_bootstrap_servers: str | None = None
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: str | None = None
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    kafka_ssl_ca_location: str | None = None
    kafka_replication_factor: int = Field(1, ge=1, le=9)
    object_store_url: str | None = None
    s3_endpoint_url: str | None = None

    partitions: int | None = Field(None, ge=1, le=1024, description="of a new log; fixed for its life")
    topic_prefix: str = ""
    workers: int = Field(1, ge=1, le=64)
    metrics_port: int = Field(0, ge=0, le=65535, description="Prometheus port of a worker; 0 = any free")
    checkpoint_interval_s: float = Field(30.0, gt=0)
    future_tolerance_s: int = Field(300, ge=0, description="a transaction further ahead is refused")
    cors_origins: list[str] = []
    public_account: str | None = Field(None, description="account whose read routes need no key")
    rate_limit_per_s: int = Field(20_000, ge=1, description="transactions a second that one key may send")
    upload_kept_days: int = Field(30, ge=1, description="days that the bytes of an uploaded file are kept")
    upload_bytes_max: int = Field(4 * 2**30, ge=1, description="bytes that an uploaded file may have")
    log_level: str = "INFO"

    @field_validator("data_dir", "config_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @property
    def embedded_postgres(self) -> bool:
        """Whether PostgreSQL runs inside the data folder."""
        return self.postgres_dsn is None

    @property
    def embedded_redis(self) -> bool:
        """Whether Valkey runs inside the data folder."""
        return self.redis_url is None

    @property
    def embedded_bus(self) -> bool:
        """Whether the event log is the embedded one on PostgreSQL instead of Kafka."""
        return self.kafka_bootstrap_servers is None

    @property
    def partitions_default(self) -> int:
        """Partitions of a log made now: 64 on Kafka; 8 on the embedded log, which serves one machine."""
        return self.partitions or (8 if self.embedded_bus else 64)

    @property
    def object_store(self) -> str:
        """The object store's URL: the data folder's ``objects`` unless another is named."""
        return self.object_store_url or (self.data_dir / "objects").as_uri()


def find_secret(variable: str) -> SecretStr | None:
    """The value of a variable that a configuration file names: from the environment, else from ``.env``."""
    value = os.environ.get(variable) or dotenv_values(".env").get(variable)
    return SecretStr(value) if value else None


def find_variables(prefix: str) -> dict[str, str]:
    """All variables whose names begin so: from the environment, else from ``.env``."""
    written = {name: value for name, value in dotenv_values(".env").items() if value is not None}
    return {name: value for name, value in (written | dict(os.environ)).items() if name.startswith(prefix)}
