"""What new settings would have changed: worked out by a program of its own, followed by the page that asked."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anomalyze.log import get
from anomalyze.settings import Settings

__all__ = ["Preview", "Previews"]

# One at a time: each takes a processor for seconds and memory for two detectors.
WAITING_MAX = 8
KEPT_MAX = 32
TIMEOUT_S = 120.0
LINE_BYTES_MAX = 1 << 20
NICENESS = 10


@dataclass(slots=True)
class Preview:
    """How far one is; ``found`` or ``error`` once it is done."""

    account_id: str
    done: int = 0
    total: int = 0
    found: Mapping[str, Any] | None = None
    error: str = ""

    @property
    def is_open(self) -> bool:
        """Whether it goes on."""
        return self.found is None and not self.error


class Previews:
    """The previews of one dashboard process.

    Parameters
    ----------
    settings, dsn
        Where bundles and transactions are.
    """

    def __init__(self, settings: Settings, dsn: str) -> None:
        self._environment = {
            **{name: value for name, value in os.environ.items() if name != "ANOMALYZE_POSTGRES_DSN"},
            "ANOMALYZE_POSTGRES_DSN": dsn,
            "ANOMALYZE_REDIS_URL": "redis://127.0.0.1:9/0",  # nothing of it is read
            "ANOMALYZE_DATA_DIR": str(settings.data_dir.absolute()),
            "ANOMALYZE_OBJECT_STORE_URL": settings.object_store,
        }
        self._kept: OrderedDict[str, Preview] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Semaphore(1)

    def start(self, account_id: str, document: Mapping[str, Any], champion: str) -> str:
        """Begin one, unless the same was asked before; its name."""
        asked = json.dumps([account_id, document, champion], sort_keys=True)
        name = hashlib.sha256(asked.encode()).hexdigest()[:24]
        if name in self._kept and not self._kept[name].error:
            return name
        preview = self._kept[name] = Preview(account_id)
        while len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
        if len(self._tasks) >= WAITING_MAX:
            preview.error = "too many previews are being worked out; try again in a moment"
            return name
        task = asyncio.create_task(self._run(preview, document))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return name

    def find(self, account_id: str, name: str) -> Preview | None:
        """One of this account."""
        found = self._kept.get(name)
        return found if found is not None and found.account_id == account_id else None

    async def close(self) -> None:
        """End what still runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, preview: Preview, document: Mapping[str, Any]) -> None:
        async with self._turn:
            begun = time.monotonic()
            try:
                await asyncio.wait_for(self._follow(preview, document), TIMEOUT_S)
            except TimeoutError:
                preview.error = f"it took longer than {TIMEOUT_S:.0f} s"
            except OSError as error:
                preview.error = f"it could not be started: {error}"
            if preview.is_open:
                preview.error = "it ended without an answer"
            get().info(
                "settings_previewed", account=preview.account_id, seconds=round(time.monotonic() - begun, 1)
            )

    async def _follow(self, preview: Preview, document: Mapping[str, Any]) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "anomalyze.learning.preview",
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=LINE_BYTES_MAX,
        )
        try:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
            assert process.stdin is not None
            assert process.stdout is not None
            asked = {"account_id": preview.account_id, "document": document}
            process.stdin.write(json.dumps(asked).encode() + b"\n")
            process.stdin.close()
            async for line in process.stdout:
                with contextlib.suppress(ValueError):
                    said = json.loads(line)
                    preview.done = said.get("done", preview.done)
                    preview.total = said.get("total", preview.total)
                    preview.found = said.get("found")
                    preview.error = said.get("error", "")
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
