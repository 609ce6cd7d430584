"""moto's S3 server for tests, which may go away and come back with all it held."""

from __future__ import annotations

from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from anomalyze.embedded.process import free_port

__all__ = ["CREDENTIALS", "Bucket", "new_bucket"]

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
}


class Bucket:
    """A bucket of its own."""

    def __init__(self) -> None:
        self.port = free_port()
        self.name = f"b{self.port}"  # moto remembers buckets for as long as the process lives
        self.url = f"http://127.0.0.1:{self.port}"
        self._server: ThreadedMotoServer | None = None

    def start(self) -> None:
        """Start the server, or start it again."""
        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        """The store is away."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    @property
    def client(self) -> Any:
        """A client of its own."""
        return boto3.client("s3", endpoint_url=self.url, region_name="us-east-1")


def new_bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A running server with an empty bucket, and the credentials for it in the environment."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    made = Bucket()
    made.start()
    made.client.create_bucket(Bucket=made.name)
    return made
