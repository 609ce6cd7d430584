"""Rows of daily profiles in Redis: loaded under their version, read in bulk.

A version lies in 16 hashes, by the low bits of its keys: field = key (8 bytes, little-endian), value = its float32 row.
The field ``whole`` of each is written last: a hash without it (not loaded, half loaded, evicted, expired) says
nothing, and one with it says also of a key that it lacks that no profile knows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import redis

from anomalyze.errors import TransientError
from anomalyze.log import get

__all__ = ["EXPIRY_S", "MEMORY_SHARE_MAX", "RedisRows", "load_rows", "redis_bytes"]

SHARDS = 16
WHOLE = b"whole"
# The next day's version comes before; when none does, the file stands in.
EXPIRY_S = 36 * 3600
FIELDS = 2_000
# What a field costs beside its value, measured on Valkey 8.
FIELD_BYTES = 88
# Two versions lie there at a time, and Redis has other things to hold.
MEMORY_SHARE_MAX = 0.3
# A Redis that is away is not asked again at once: each question may cost its whole timeout.
PAUSE_S = 2.0


def redis_bytes(keys: int, columns: int) -> int:
    """Memory that a version takes in Redis, about."""
    return keys * (FIELD_BYTES + 4 * columns)


def load_rows(
    client: redis.Redis,
    version: str,
    keys: npt.NDArray[np.uint64],
    values: npt.NDArray[np.float32],
    *,
    expiry_s: int = EXPIRY_S,
) -> bool:
    """Load a version; again when it is there already.

    Returns
    -------
    bool
        False when Redis is limited to so little memory that this version would push out everything else: then
        nothing was loaded.

    Raises
    ------
    TransientError
        Redis does not answer. What was loaded so far says nothing, and expires.
    """
    try:
        limit = int(client.info("memory").get("maxmemory", 0))
        if limit and redis_bytes(len(keys), values.shape[1]) > limit * MEMORY_SHARE_MAX:
            return False
        rows = np.ascontiguousarray(values, dtype="<f4").view(np.uint8).reshape(len(keys), -1)
        fields = keys.astype("<u8").view(np.uint8).reshape(-1, 8)
        shard = (keys % np.uint64(SHARDS)).astype(np.int64)
        for number in range(SHARDS):
            _load_shard(
                client, _name(version, number), fields[shard == number], rows[shard == number], expiry_s
            )
    except redis.RedisError as error:
        raise TransientError(f"Redis: profiles {version} were not loaded: {error}") from error
    return True


def _load_shard(
    client: redis.Redis,
    name: bytes,
    fields: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.uint8],
    expiry_s: int,
) -> None:
    client.hdel(name, WHOLE)
    for first in range(0, len(fields), FIELDS):
        pipeline = client.pipeline(transaction=False)
        part = slice(first, first + FIELDS)
        width = rows.shape[1]
        joined = rows[part].tobytes()
        pipeline.hset(
            name,
            mapping={
                field.tobytes(): joined[i * width : (i + 1) * width] for i, field in enumerate(fields[part])
            },
        )
        pipeline.expire(name, expiry_s)
        pipeline.execute()
    pipeline = client.pipeline(transaction=False)
    pipeline.hset(name, WHOLE, b"1")
    pipeline.expire(name, expiry_s)
    pipeline.execute()


class RedisRows:
    """Reads rows of any version; says which it could not.

    Parameters
    ----------
    client
        With short timeouts: whoever waits goes on with the file.
    clock
        Seconds, monotonic.
    """

    def __init__(self, client: redis.Redis, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._quiet_until_s = -np.inf

    def read(
        self, version: str, keys: npt.NDArray[np.uint64], columns: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Rows of these keys, in one exchange.

        Returns
        -------
        tuple
            float32 ``[n, columns]``, NaN where no profile knows the key; and of which keys Redis could say so: the
            others are to be looked up elsewhere.
        """
        values = np.full((len(keys), columns), np.nan, dtype=np.float32)
        said = np.zeros(len(keys), dtype=np.bool_)
        if not len(keys) or self._clock() < self._quiet_until_s:
            return values, said
        shard = (keys % np.uint64(SHARDS)).astype(np.int64)
        order = np.argsort(shard, kind="stable")
        parts = np.split(order, np.cumsum(np.bincount(shard, minlength=SHARDS))[:-1])
        asked = [(number, part) for number, part in enumerate(parts) if len(part)]
        pipeline = self._client.pipeline(transaction=False)
        for number, part in asked:
            joined = keys[part].astype("<u8").tobytes()
            pipeline.hmget(
                _name(version, number), [WHOLE, *(joined[i : i + 8] for i in range(0, len(joined), 8))]
            )
        try:
            answers = pipeline.execute()
        except (redis.RedisError, OSError) as error:
            self._quiet_until_s = self._clock() + PAUSE_S
            get().warning("profiles_not_in_redis", reason=repr(error)[:200])
            return values, said
        width = 4 * columns
        unknown = np.full(columns, np.nan, dtype="<f4").tobytes()
        for (_, part), (whole, *found) in zip(asked, answers, strict=True):
            if whole is None or any(row is not None and len(row) != width for row in found):
                continue
            joined = b"".join(unknown if row is None else row for row in found)
            values[part] = np.frombuffer(joined, dtype="<f4").reshape(len(part), columns)
            said[part] = True
        return values, said


def _name(version: str, number: int) -> bytes:
    return f"anomalyze:profiles:{version.removeprefix('sha256:')[:32]}:{number:x}".encode()
