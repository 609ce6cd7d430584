"""Files that other systems drop into the object store under ``landing/<account>/<name>``.

They are taken in as if they had been sent, and started when the account's own mapping or a sure guess says how.
What is no table is moved to ``landing-refused/`` and logged, so that it is seen once. A system that writes into a
local folder writes under another name first and renames: half a file is a file of its own here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from anomalyze.errors import ConfigError, ContractError
from anomalyze.ingestion.account import choose_mapping
from anomalyze.ingestion.receive import TooLarge, take_file
from anomalyze.log import get
from anomalyze.storage import upload as store
from anomalyze.storage.objects import ObjectStore
from anomalyze.storage.pool import AsyncPool
from anomalyze.storage.query import fetch_async
from anomalyze.storage.upload import Upload

__all__ = ["take_landed"]

LANDING, REFUSED = "landing", "landing-refused"
LANDED_MAX = 20


async def take_landed(objects: ObjectStore, dsn: str, config_dir: Path, bytes_max: int) -> list[Upload]:
    """Take the files that lie there, twenty at most; returns their uploads.

    Parameters
    ----------
    bytes_max
        Of one file: a larger one is refused.

    Raises
    ------
    TransientError
        A store does not answer now: what was not taken still lies there.
    """
    pool = AsyncPool(dsn, program="anomalyze-landing", size_max=1)
    await pool.open()
    try:
        paths = await asyncio.to_thread(objects.list, LANDING)
        found = [await _take(objects, pool, config_dir, path, bytes_max) for path in paths[:LANDED_MAX]]
        return [upload for upload in found if upload is not None]
    finally:
        await pool.close()


async def _take(
    objects: ObjectStore, pool: AsyncPool, config_dir: Path, path: str, bytes_max: int
) -> Upload | None:
    account_id, _, name = path.removeprefix(f"{LANDING}/").partition("/")
    try:
        blocks = await asyncio.to_thread(objects.stream, path)
    except ContractError as error:
        # Nor can it be moved: its name is none of an object.
        get().error("landed_file_refused", path=path, reason=str(error))
        return None
    if blocks is None:
        return None
    try:
        async with pool.connection() as connection:
            cursor = await connection.execute("SELECT 1 FROM accounts WHERE account_id = %s", [account_id])
            if not name or await cursor.fetchone() is None:
                raise ConfigError(
                    f"expected {LANDING}/<account>/<name> of an account that exists, got {path}"
                )
        taken = await take_file(
            _stream(blocks),
            objects,
            pool,
            account_id=account_id,
            created_by=LANDING,
            name=lambda: name,
            bytes_max=bytes_max,
        )
        upload = taken.upload
        if upload.state == "waiting":
            mapping = choose_mapping(config_dir, account_id, name, taken.guess)
            if mapping is not None:
                async with pool.connection() as connection:
                    query = store.start_upload(account_id, upload.upload_id, mapping.model_dump())
                    started = await fetch_async(connection, query)
                upload = started or upload
    except (ConfigError, TooLarge) as error:
        get().error("landed_file_refused", path=path, reason=str(error))
        await asyncio.to_thread(objects.move, path, path.replace(LANDING, REFUSED, 1))
        return None
    # Last: taken again after a crash it is the same upload.
    await asyncio.to_thread(objects.delete, path)
    return upload


async def _stream(blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (block := await asyncio.to_thread(next, blocks, None)) is not None:
        yield block
