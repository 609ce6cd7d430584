"""Where the assets read and write: the same addresses as every other program's, embedded or on real servers.

No address is part of a resource's configuration, because Dagster shows configuration in its UI: each is taken
from the settings, and from the data folder's address file for what runs embedded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dagster as dg
import psycopg

from anomalyze.embedded.runtime import Addresses, find_addresses
from anomalyze.settings import Settings
from anomalyze.storage.objects import ObjectStore, open_objects
from anomalyze.storage.pool import connect
from anomalyze_dagster.run_log import keep_log

if TYPE_CHECKING:
    import redis

    from anomalyze.bus.contract import Bus
    from anomalyze.detection.bundle_store import BundleStore

__all__ = ["BusResource", "ObjectsResource", "PostgresResource", "RedisResource", "build_resources"]

STATEMENT_TIMEOUT_S = 600.0


def _addresses() -> Addresses:
    return find_addresses(Settings())


class PostgresResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Our tables."""

    @property
    def dsn(self) -> str:
        """The address with its password: never to be logged."""
        return _addresses().postgres_dsn

    @contextmanager
    def connect(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection in autocommit mode. Raises `TransientError` when PostgreSQL is away."""
        keep_log()
        with connect(
            self.dsn, program="anomalyze-dagster-run", statement_timeout_s=STATEMENT_TIMEOUT_S
        ) as connection:
            yield connection


class ObjectsResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The object store: bundles, pointers, candidates, uploads."""

    def open(self) -> ObjectStore:
        """The store that the settings name."""
        settings = Settings()
        return open_objects(settings.object_store, s3_endpoint_url=settings.s3_endpoint_url)

    def bundles(self) -> "BundleStore":
        """Bundles and pointers in it."""
        from anomalyze.detection.bundle_store import BundleStore

        return BundleStore(self.open())


class BusResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The event log."""

    @contextmanager
    def open(self) -> Iterator["Bus"]:
        """The log that the settings name."""
        from anomalyze.bus import open_bus

        bus = open_bus(Settings(), postgres_dsn=_addresses().postgres_dsn)
        try:
            yield bus
        finally:
            bus.close()


class RedisResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Redis or Valkey."""

    @contextmanager
    def open(self) -> Iterator["redis.Redis"]:
        """A client."""
        import redis

        with redis.Redis.from_url(_addresses().redis_url) as client:
            yield client


def build_resources(settings: Settings) -> dict[str, Any]:
    """Resources by name. ``s3`` (of dagster-aws) is there where the store is a bucket of S3, R2 or their like."""
    resources: dict[str, Any] = {
        "postgres": PostgresResource(),
        "objects": ObjectsResource(),
        "bus": BusResource(),
        "redis": RedisResource(),
    }
    if settings.object_store.startswith(("s3://", "s3a://")):
        from dagster_aws.s3 import S3Resource

        resources["s3"] = S3Resource(endpoint_url=settings.s3_endpoint_url)
    return resources
