"""What changes while programs are killed: files come in, and the bundle that judges is swapped and swapped back."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx

from anomalyze.detection.bundle import Bundle
from anomalyze.errors import AnomalyzeError, TransientError
from anomalyze.learning import promotion
from anomalyze.learning.promotion import CHALLENGER, CHAMPION, open_bundles
from tests.simulation.stack import CHECKOUT, Stack

__all__ = ["Swaps", "Uploads"]

UPLOADER_BATCH_ROWS = 10
# Beyond what the files take when nobody disturbs: who works them off may have been killed at the very beginning.
DONE_TIMEOUT_S = 180.0
RETRY_S = 0.2
TRY_TIMEOUT_S = 60.0
# The promoted bundle judges at least so long: also when promoting took until it was to be rolled back.
CHAMPION_S = 4.0


class Uploads:
    """Files sent over REST and worked off by a program that is killed like the others.

    Parameters
    ----------
    bodies
        Flat records, as a POST takes them.
    files
        Into how many files they go, one worked off after the other.
    seconds
        How long they shall take when nobody disturbs.
    """

    def __init__(self, stack: Stack, bodies: Sequence[bytes], files: int, seconds: float) -> None:
        self._stack = stack
        rows = [json.loads(body) for body in bodies]
        self.sent = {row["tx_id"] for row in rows}
        self._contents = [self._csv(rows[i::files]) for i in range(files)]
        self._seconds = seconds
        self._pause_s = seconds / max(1, len(rows) / UPLOADER_BATCH_ROWS)
        self._ids: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def _csv(rows: Sequence[dict[str, Any]]) -> bytes:
        names = list(dict.fromkeys(name for row in rows for name in row))
        out = io.StringIO()
        writer = csv.DictWriter(out, names)
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue().encode()

    def start(self) -> None:
        """Send the files, and start who works them off."""
        for content in self._contents:
            answer = httpx.post(
                f"{self._stack.api}/v1/uploads",
                content=content,
                headers={**self._stack.headers, "Content-Type": "text/csv"},
                timeout=30,
            )
            answer.raise_for_status()
            taken = answer.json()
            assert taken["state"] == "started", taken
            self._ids.append(taken["id"])
        self.run()

    def run(self) -> None:
        """Start the program that works them off."""
        with (self._stack.folder / "uploader.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.simulation.uploader", "--pause", f"{self._pause_s:.3f}"],
                cwd=CHECKOUT,
                env=self._stack.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """SIGKILL, and the next one."""
        self.stop()
        self.run()

    def stop(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def wait(self) -> set[str]:
        """Ids of all rows, once every file is done; one that gave up is started again, as a person would."""
        deadline = time.monotonic() + self._seconds + DONE_TIMEOUT_S
        states: list[str] = []
        while time.monotonic() < deadline:
            try:
                found = [self._ask("GET", upload_id) for upload_id in self._ids]
                states = [one["state"] for one in found]
                for one in found:
                    if one["state"] == "failed":
                        self._ask("POST", one["id"], "/start")
                if states == ["done"] * len(states):
                    refused = sum(one["rows"]["refused"] for one in found)
                    assert refused == 0, found
                    return self.sent
            except httpx.HTTPError:
                pass
            time.sleep(0.3)
        raise TimeoutError(f"the uploads are not done: {states}")

    def _ask(self, method: str, upload_id: str, step: str = "") -> dict[str, Any]:
        answer = httpx.request(
            method,
            f"{self._stack.api}/v1/uploads/{upload_id}{step}",
            headers=self._stack.headers,
            timeout=10,
        )
        answer.raise_for_status()
        return dict(answer.json())


class Swaps:
    """A challenger is published, promoted and rolled back, on threads of their own, while programs are killed."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._threads: list[threading.Thread] = []
        self._failures: list[str] = []
        self._begun_s = time.monotonic()
        self.done: list[str] = []

    def publish(self) -> None:
        """A bundle with the same model and other severities becomes the challenger."""

        def step(store: Any, bus: Any) -> str:
            champion: Bundle = store.load(store.pointer(CHAMPION))
            document = json.loads(champion.rules["rules.json"])
            for rule in document["rules"]:
                rule["severity"] = {"LOW": "HIGH", "MEDIUM": "CRITICAL"}.get(rule["severity"], "LOW")
            changed = replace(
                champion,
                rules={**champion.rules, "rules.json": json.dumps(document, sort_keys=True)},
                created_from={"parent": champion.id},
            )
            return promotion.publish_challenger(store, bus, changed, "chaos").id

        self._begin("published", step)

    def promote(self) -> None:
        """The challenger becomes the champion."""
        self._begin(
            "promoted", lambda store, bus: promotion.promote(store, bus, store.pointer(CHALLENGER)).id
        )

    def roll_back(self) -> None:
        """The champion before it becomes the champion again."""
        before: list[str] = []

        def step(store: Any, bus: Any) -> str:
            before.append(store.pointer(CHAMPION))
            if before[-1] == before[0]:
                return str(promotion.roll_back(store, bus).id)
            promotion.announce_champion(store, bus)  # a try before moved the pointer, and died
            return str(store.pointer(CHAMPION))

        self._begin("rolled back", step, after_s=CHAMPION_S)

    def wait(self) -> list[str]:
        """What was done, when it is; raises when something could not be done."""
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise RuntimeError(f"a bundle could not be moved: {self._failures}")
        return self.done

    def _begin(self, what: str, step: Any, after_s: float = 0.0) -> None:
        earlier = list(self._threads)

        def run() -> None:
            for thread in earlier:
                thread.join()
            time.sleep(after_s)
            deadline = time.monotonic() + TRY_TIMEOUT_S
            while True:
                try:
                    bus = self._stack.open_bus()
                    try:
                        bundle = step(open_bundles(self._stack.settings), bus)
                    finally:
                        bus.close()
                    self.done.append(f"{what} {bundle[7:19]} after {time.monotonic() - self._begun_s:.1f} s")
                    return
                except (TransientError, OSError) as error:
                    if time.monotonic() > deadline:
                        self._failures.append(f"{what}: {error}")
                        return
                    time.sleep(RETRY_S)
                except AnomalyzeError as error:
                    self._failures.append(f"{what}: {error!r}")
                    return

        thread = threading.Thread(target=run, name=what, daemon=True)
        self._threads.append(thread)
        thread.start()
