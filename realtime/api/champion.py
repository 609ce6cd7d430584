"""What the policy in force says of a verdict that is not there in time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from anomalyze.detection.bundle_store import BundleStore
from anomalyze.detection.policy import Policy, parse_policy
from anomalyze.errors import AnomalyzeError
from anomalyze.log import get

__all__ = ["Champion"]

REFRESH_S = 5.0


class Champion:
    """Follows the pointer ``champion`` on a thread beside the event loop; keeps the last answer it had.

    Parameters
    ----------
    open_store
        Opens the bundles; called on the thread too.

    Attributes
    ----------
    timeout_action
        ``ALLOW``, ``REVIEW`` or ``BLOCK``; the policy's default until a champion was read.
    """

    def __init__(self, open_store: Callable[[], BundleStore]) -> None:
        self.timeout_action: str = Policy(version=1).score_timeout_action
        self._open_store = open_store
        self._store: BundleStore | None = None
        self._id: str | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to follow."""
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def refresh(self) -> None:
        """Look once; a bundle is read only when the pointer has moved."""
        try:
            if self._store is None:
                self._store = self._open_store()
            found = self._store.pointer("champion")
            if found is None or found == self._id:
                return
            self.timeout_action = parse_policy(self._store.load(found).policy).score_timeout_action
            self._id = found
        except (AnomalyzeError, OSError) as error:
            get().warning("champion_unknown", reason=str(error))

    async def _follow(self) -> None:
        while True:
            await asyncio.to_thread(self.refresh)
            await asyncio.sleep(REFRESH_S)
