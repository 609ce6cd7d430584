"""Asking for estimates: each in a process of its own, one at a time, and remembered. Loads nothing that judges."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sys
from collections import OrderedDict
from typing import Any

import msgspec

from anomalyze.log import get
from anomalyze.settings import Settings
from anomalyze.storage.upload import Upload

__all__ = ["Estimates"]

# Estimates kept, and those that wait or run; beyond, asking says "busy" and starts nothing.
KEPT_MAX = 64
WAITING_MAX = 8
TIMEOUT_S = 90.0
NICENESS = 10
LINE_BYTES_MAX = 1 << 20


class Estimates:
    """Estimates of one program, by upload and mapping.

    Parameters
    ----------
    settings
        Where the object store is.
    """

    def __init__(self, settings: Settings) -> None:
        self._environment = {
            **os.environ,
            "ANOMALYZE_DATA_DIR": str(settings.data_dir),
            "ANOMALYZE_OBJECT_STORE_URL": settings.object_store,
            "ANOMALYZE_FUTURE_TOLERANCE_S": str(settings.future_tolerance_s),
            # The machine is others' as well.
            "OMP_NUM_THREADS": "1",
            "POLARS_MAX_THREADS": "1",
        }
        if settings.s3_endpoint_url:
            self._environment["ANOMALYZE_S3_ENDPOINT_URL"] = settings.s3_endpoint_url
        self._known: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Semaphore(1)

    def ask(self, upload: Upload, mapping: dict[str, Any]) -> dict[str, Any]:
        """The estimate, or how far it is; the first to ask begins it. Never waits.

        Returns
        -------
        dict
            ``state``: ``working`` (with ``rows_judged`` and ``of``), ``done`` (with what `estimate_upload` gives),
            ``failed`` (with ``error``) or ``busy`` (ask again).
        """
        asked = msgspec.json.encode({"upload": upload, "mapping": mapping}, order="sorted")
        # What an upload is: its progress changes, its bytes do not.
        digest = hashlib.sha256(msgspec.json.encode([upload.upload_id, mapping], order="sorted")).hexdigest()
        if digest not in self._known:
            if len(self._tasks) >= WAITING_MAX:
                return {"state": "busy"}
            self._known[digest] = {"state": "working", "rows_judged": 0, "of": None}
            while len(self._known) > KEPT_MAX:
                self._known.popitem(last=False)
            task = asyncio.create_task(self._work(digest, asked), name="estimate")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return self._known[digest]

    async def close(self) -> None:
        """End those that run."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work(self, digest: str, asked: bytes) -> None:
        async with self._turn:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    await self._run(digest, asked)
            except (TimeoutError, OSError, ValueError) as error:
                get().warning("estimate_failed", reason=repr(error))
                self._say(digest, {"state": "failed", "error": f"no estimate within {TIMEOUT_S:.0f} s"})

    async def _run(self, digest: str, asked: bytes) -> None:
        process = await asyncio.create_subprocess_exec(
            *("nice", "-n", str(NICENESS), sys.executable, "-m", "anomalyze.backtest.estimate"),
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=LINE_BYTES_MAX,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(asked)
            process.stdin.close()
            async for line in process.stdout:
                told = msgspec.json.decode(line)
                if "estimate" in told:
                    self._say(digest, {"state": "done", **told["estimate"]})
                elif "error" in told:
                    self._say(digest, {"state": "failed", "error": told["error"]})
                else:
                    self._say(digest, {"state": "working", **told})
            if self._known.get(digest, {}).get("state") == "working":
                self._say(digest, {"state": "failed", "error": "what judges ended without a word"})
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    def _say(self, digest: str, state: dict[str, Any]) -> None:
        if digest in self._known:
            self._known[digest] = state
