"""What of uploads is forgotten, and when: bytes of those that were done, all of those that nobody started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import psycopg

from anomalyze.ingestion.receive import delete_parts
from anomalyze.storage import upload as store
from anomalyze.storage.objects import ObjectStore

__all__ = ["Forgotten", "forget_uploads"]

# A night's work at most; the next night goes on.
UPLOADS_MAX = 1_000
# Folders that had no upload last time. A file that is coming in has none yet, but not for two nights.
STRAYS = "housekeeping/uploads-without-a-row.json"


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Uploads whose bytes were removed, uploads that were removed whole, folders of no upload."""

    finished: int
    abandoned: int
    strays: int


def forget_uploads(connection: psycopg.Connection[Any], objects: ObjectStore, kept_days: int) -> Forgotten:
    """Forget what is older; may be killed and begun again at any point.

    Raises
    ------
    TransientError
        A store does not answer now.
    """
    finished = store.find_finished(connection, kept_days, UPLOADS_MAX)
    for upload_id, parts in finished:
        # Noted last: after a crash between, the next night does it again.
        delete_parts(objects, upload_id, parts)
        store.forget_bytes(connection, upload_id)
    # The other way round: nobody may start what has no bytes. A crash between leaves strays.
    abandoned = store.delete_abandoned(connection, kept_days, UPLOADS_MAX)
    for upload_id, parts in abandoned:
        delete_parts(objects, upload_id, parts)
    return Forgotten(len(finished), len(abandoned), _forget_strays(connection, objects))


def _forget_strays(connection: psycopg.Connection[Any], objects: ObjectStore) -> int:
    paths = objects.list("uploads")
    folders = {path.split("/")[1] for path in paths}
    strays = folders - store.known_uploads(connection, sorted(folders))
    before = set(msgspec.json.decode(objects.get(STRAYS) or b"[]", type=list[str]))
    for path in paths:
        if path.split("/")[1] in strays & before:
            objects.delete(path)
    if strays != before:
        objects.put(STRAYS, msgspec.json.encode(sorted(strays - before)))
    return len(strays & before)
