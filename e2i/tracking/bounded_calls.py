"""Calls of W&B, which may hang: in a thread of their own, with limits, then left behind."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from e2i.errors import RunFailedError

T = TypeVar("T")


def call_within(function: Callable[[], T], limit_s: float, what: str, next_step: str) -> T:
    """Call something of wandb's, and leave it behind when it takes too long.

    Raises:
        RunFailedError: it took too long.
        Exception: whatever it raises.
    """
    worker = Worker()
    try:
        return worker.call(function, limit_s, what, next_step)
    finally:
        worker.end()


class Worker:
    """A thread that calls one thing after the other, and is left behind when one takes too long."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def call(
        self,
        function: Callable[[], T],
        limit_s: float,
        what: str,
        next_step: str = "Use --wandb-mode offline.",
    ) -> T:
        """Call it there, and wait.

        Raises:
            RunFailedError: it took too long.
            Exception: whatever it raises.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="wandb-run", daemon=True)
            self._thread.start()
        done = threading.Event()
        results: list[T] = []
        errors: list[Exception] = []

        def run() -> None:
            try:
                results.append(function())
            except Exception as error:
                errors.append(error)
            finally:
                done.set()

        self._calls.put(run)
        if not done.wait(limit_s):
            self.end()
            raise RunFailedError(
                f"W&B took too long to {what}: got no end within {limit_s:.0f} s, expected one. "
                f"{next_step}"
            )
        if errors:
            raise errors[0]
        return results[0]

    def end(self) -> None:
        """Let the thread end after what it is at."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
