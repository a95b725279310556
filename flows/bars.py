"""Progress on stderr: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SECONDS_BETWEEN_LINES = 15.0


class Bars:
    """Stages as live bars; a finished one stays as a line."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Something that moves while there is no stage yet; nothing of it stays."""
        with self._console.status(what):
            yield

    def start(self, stage: str, total: int, unit: str) -> None:
        """Add the stage's bar."""
        with self._lock:
            if not self._tasks:
                self._progress.start()
            self._tasks[stage] = self._progress.add_task(stage, total=total, unit=unit)

    def advance(self, stage: str, count: int) -> None:
        """Move the bar on."""
        with self._lock:
            if stage in self._tasks:
                self._progress.advance(self._tasks[stage], count)

    def note(self, text: str) -> None:
        """A line above the bars."""
        self._console.print(f"  {text}", markup=False, highlight=False)

    def finish(self, stage: str, outcome: str) -> None:
        """Turn the bar into a line."""
        with self._lock:
            task = self._tasks.pop(stage, None)
            if task is not None:
                self._progress.remove_task(task)
            if not self._tasks:
                self._progress.stop()
        self._console.print(f"{stage}: {outcome}", markup=False, highlight=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()


class Lines:
    """Stages as lines: one when it begins, one every while, one at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._stages: dict[str, _Counter] = {}

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:  # noqa: ARG002
        """Nothing."""
        yield

    def start(self, stage: str, total: int, unit: str) -> None:
        """One line."""
        with self._lock:
            self._stages[stage] = _Counter(total, unit)
        self._print(f"{stage}: {total:,} {unit}")

    def advance(self, stage: str, count: int) -> None:
        """Count, and say so now and then."""
        with self._lock:
            counter = self._stages.get(stage)
            if counter is None:
                return
            counter.done += count
            now = time.monotonic()
            if now - counter.said < SECONDS_BETWEEN_LINES:
                return
            counter.said = now
            text = f"{stage}: {counter.done:,} of {counter.total:,} {counter.unit}"
        self._print(text)

    def note(self, text: str) -> None:
        """One line."""
        self._print(text)

    def finish(self, stage: str, outcome: str) -> None:
        """One line."""
        with self._lock:
            self._stages.pop(stage, None)
        self._print(f"{stage}: {outcome}")

    def close(self) -> None:
        """Nothing to put back."""


class _Counter:
    """How far a stage is."""

    def __init__(self, total: int, unit: str) -> None:
        self.total = total
        self.unit = unit
        self.done = 0
        self.said = time.monotonic()


def progress_on_stderr(*, quiet: bool = False) -> Bars | Lines:
    """Bars where stderr is a terminal, else lines; nothing where nobody wants to see it."""
    console = Console(stderr=True, quiet=quiet)
    return Bars(console) if console.is_terminal and not quiet else Lines(console)
