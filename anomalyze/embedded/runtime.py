"""Where the embedded servers of a data folder listen: written by `anomalyze up`, read by every other command."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from anomalyze.errors import ConfigError
from anomalyze.settings import Settings

__all__ = ["Addresses", "find_addresses", "publish_addresses"]

FILE = "runtime.json"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Addresses with their passwords: never to be logged."""

    postgres_dsn: str
    redis_url: str

    def environment(self) -> dict[str, str]:
        """The settings that hand them to a program."""
        return {"ANOMALYZE_POSTGRES_DSN": self.postgres_dsn, "ANOMALYZE_REDIS_URL": self.redis_url}


def publish_addresses(data_dir: Path, addresses: Addresses) -> None:
    """Write them into the data folder, readable by its owner only, whole or not at all."""
    new = data_dir / f"{FILE}.new"
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(asdict(addresses), file)
    new.rename(data_dir / FILE)


def find_addresses(settings: Settings) -> Addresses:
    """The configured addresses, and for what runs embedded those of the running `anomalyze up`.

    Raises
    ------
    ConfigError
        Something runs embedded, and nothing has been started in the data folder.
    """
    dsn = settings.postgres_dsn.get_secret_value() if settings.postgres_dsn else None
    url = settings.redis_url.get_secret_value() if settings.redis_url else None
    if dsn is None or url is None:
        try:
            written = Addresses(**json.loads((settings.data_dir / FILE).read_text()))
        except (OSError, ValueError, TypeError):
            raise ConfigError(
                f"nothing was started in {settings.data_dir}: run `anomalyze up` there first, or name servers with "
                "ANOMALYZE_POSTGRES_DSN and ANOMALYZE_REDIS_URL"
            ) from None
        dsn, url = dsn or written.postgres_dsn, url or written.redis_url
    return Addresses(dsn, url)
