"""Where progress goes: to bars on a terminal when a command runs, to the log of the run always.

The sink is one a process: a command installs bars before it runs its flow, a worker installs
nothing. A stage that embeds also keeps a progress artifact, so that the UI shows how far it is; a
Prefect server that is away costs that, and not the stage.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Protocol
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger


class ProgressSink(Protocol):
    """Somebody who shows progress."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """A stage of `total` units begins."""
        ...

    def advance(self, stage: str, count: int) -> None:
        """`count` more units are done; called from any thread."""
        ...

    def note(self, text: str) -> None:
        """One line that the user should see now; called from any thread."""
        ...

    def finish(self, stage: str, outcome: str) -> None:
        """The stage is over."""
        ...


class _Silent:
    """Shows nothing."""

    def start(self, stage: str, total: int, unit: str) -> None: ...

    def advance(self, stage: str, count: int) -> None: ...

    def note(self, text: str) -> None: ...

    def finish(self, stage: str, outcome: str) -> None: ...


_installed: list[ProgressSink] = [_Silent()]


def install_sink(sink: ProgressSink) -> None:
    """Show the progress of this process through `sink` from now on."""
    _installed[0] = sink


def progress_sink() -> ProgressSink:
    """The sink of this process."""
    return _installed[0]


class Stage:
    """One named stage of a flow run: `with Stage("embed evaluation", 100, "clips") as stage: …`.

    Args:
        name: what is being done, as a user would say it.
        total: units in it.
        unit: what is counted, in the plural.
        artifact_key: keep a progress artifact of this key (`[a-z0-9-]`) in the flow run.
    """

    def __init__(self, name: str, total: int, unit: str, artifact_key: str | None = None) -> None:
        self.name = name
        self.total = total
        self.unit = unit
        self.outcome = ""
        self._artifact_key = artifact_key
        self._artifact_id: UUID | None = None
        self._settled = 0
        self._started = 0.0

    def __enter__(self) -> Stage:
        """Begin."""
        self._started = time.monotonic()
        progress_sink().start(self.name, self.total, self.unit)
        if self._artifact_key is not None:
            with self._without_server():
                created = create_progress_artifact(
                    progress=0.0 if self.total else 100.0,
                    key=self._artifact_key,
                    description=f"{self.name}: {self.total} {self.unit}",
                )
                self._artifact_id = created if isinstance(created, UUID) else None
        return self

    def settle(self, count: int, *, told: bool = True) -> None:
        """`count` units are stored: the progress artifact moves on; call it from the flow only.

        Args:
            count: since the last call.
            told: whether the sink of this process has heard of them already.
        """
        self._settled += count
        if not told:
            progress_sink().advance(self.name, count)
        if self._artifact_id is not None and self.total:
            with self._without_server():
                update_progress_artifact(
                    artifact_id=self._artifact_id,
                    progress=min(100.0, 100.0 * self._settled / self.total),
                    description=self._so_far(time.monotonic() - self._started),
                )

    @contextlib.contextmanager
    def _without_server(self) -> Iterator[None]:
        """Go on without the artifact where the server was not reached by all tries of its client.

        The tries take minutes, so that there are none for the rest of the stage.
        """
        try:
            yield
        except httpx.TransportError as error:
            self._artifact_id = None
            get_run_logger().warning("%s: the UI shows no more of it: %s", self.name, error)

    def _so_far(self, seconds: float) -> str:
        """How far it is, how fast, and how long it will take at that rate."""
        rate = self._settled / seconds if seconds > 0 else 0.0
        text = f"{self.name}: {self._settled:,} of {self.total:,} {self.unit}"
        if not rate:
            return text
        left_s = (self.total - self._settled) / rate
        text = f"{text}, {rate:,.3g} a second"
        return f"{text}, {in_words(left_s)} to go" if left_s > 0 else f"{text}, done"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End, and say how it went."""
        seconds = time.monotonic() - self._started
        outcome = self.outcome or f"{self.total} {self.unit}"
        if error is not None:
            outcome = "stopped"
        progress_sink().finish(self.name, f"{outcome} in {seconds:.1f} s")
        get_run_logger().info("%s: %s in %.1f s", self.name, outcome, seconds)


def in_words(seconds: float) -> str:
    """A time for people: `45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"
