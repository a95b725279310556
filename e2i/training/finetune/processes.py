"""A training in several processes, one a device, and what the first of them tells of it.

Decides: none of the processes outlives the call that starts them: an error of one, an error of who
is told of the progress, Ctrl-C, SIGTERM and SIGKILL end them all.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import warnings
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from typing import Any, Generic, TypeVar

import torch
from lightning.fabric import Fabric

from e2i.errors import E2IError
from e2i.training.epochs import EpochRecord

_POLL_S = 0.05
_LAST_WORDS_S = 10.0

OnEpoch = Callable[[EpochRecord], None]
OnBatch = Callable[[int], None]
Outcome = TypeVar("Outcome")
Work = Callable[[Fabric, OnEpoch, OnBatch], Outcome]
"""A training, told of its device; it tells of epochs and batches. Has to go to another process."""


def in_processes(
    fabric: Fabric, work: Work[Outcome], on_epoch: OnEpoch, on_batch: OnBatch
) -> Outcome:
    """Work in a process a device, and hear of the first one.

    Args:
        fabric: not launched yet.
        work: what each process does.
        on_epoch: called in a thread of this process; what it raises ends the work.
        on_batch: likewise.

    Returns:
        What the first process returned.

    Raises:
        E2IError: of a process.
    """
    told: Any = multiprocessing.get_context("spawn").SimpleQueue()
    others = set(multiprocessing.active_children())
    listener = _Listener[Outcome](told, on_epoch, on_batch, stop=lambda: _end_all_but(others))
    try:
        # In the function, since Lightning takes arguments and results apart and refuses some.
        fabric.launch(partial(_work_and_tell, work=work, told=told))
    except Exception as error:
        listener.close()
        if listener.failures:
            raise listener.failures[0] from error
        raise
    finally:
        _end_all_but(others)
        listener.close()
    if listener.failures:
        raise listener.failures[0]
    return listener.outcomes[0]


def _end_all_but(others: set[BaseProcess]) -> None:
    """End the processes of this one that are not among others."""
    for process in set(multiprocessing.active_children()) - others:
        process.kill()


def _end_with_the_parent() -> None:
    """Leave no process behind that trains on when the one that started it was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work_and_tell(fabric: Fabric, work: Work[Outcome], told: SimpleQueue[Any]) -> None:
    """What each process does."""
    threading.Thread(target=_end_with_the_parent, name="e2i-finetune-parent", daemon=True).start()
    first = fabric.global_rank == 0
    torch.set_num_threads(max(1, torch.get_num_threads() // fabric.world_size))
    # Lightning's way to gather, and how DDP lays out gradients: none of the user's business.
    for message in (r"torch\.distributed\.nn\.functional\.all_gather", "Grad strides do not match"):
        warnings.filterwarnings("ignore", message=message)

    def on_epoch(record: EpochRecord) -> None:
        if first:
            told.put(("epoch", record))

    def on_batch(count: int) -> None:
        if first:
            told.put(("batch", count))

    try:
        outcome = work(fabric, on_epoch, on_batch)
        if first:
            told.put(("outcome", outcome))
    except E2IError as error:
        told.put(("failure", error))
        raise


class _Listener(Generic[Outcome]):
    """Hears what the first process tells, in a thread of its own.

    Attributes:
        outcomes: what the work came to.
        failures: errors of the processes, and of who is told of progress.
    """

    def __init__(
        self,
        told: SimpleQueue[Any],
        on_epoch: OnEpoch,
        on_batch: OnBatch,
        stop: Callable[[], None],
    ) -> None:
        """Listen from now on; `stop` is called when whoever is told of progress raises."""
        self.outcomes: list[Outcome] = []
        self.failures: list[BaseException] = []
        self._told, self._stop = told, stop
        self._hear: dict[str, Callable[[Any], None]] = {
            "epoch": on_epoch,
            "batch": on_batch,
            "outcome": self.outcomes.append,
            "failure": self.failures.append,
        }
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._listen, name="e2i-finetune-progress", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Hear what has been told, and end."""
        self._over.set()
        self._thread.join(_LAST_WORDS_S)

    def _listen(self) -> None:
        # Polled: a process that is killed may hold the lock that a last message would take.
        while not (self._over.is_set() and self._told.empty()):
            if self._told.empty():
                self._over.wait(_POLL_S)
                continue
            kind, content = self._told.get()
            try:
                self._hear[kind](content)
            except BaseException as error:
                self.failures.append(error)
                self._stop()
