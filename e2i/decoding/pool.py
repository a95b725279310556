"""Recordings to waveforms in processes of their own, several at once, in bounded memory.

Conventions: a recording comes as bytes or as an open file. Its waveform lies in a temporary file
that has no name any more, mapped into memory: so nothing is copied on its way, nothing is left
behind, whoever is killed, and however long it is, the system can take its memory back.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

from e2i.audio import Waveform
from e2i.cores import usable_cores
from e2i.decoding.mapping import map_waveform
from e2i.decoding.process import DecodingProcess, NotBegunError
from e2i.decoding.temporary import temporary_file
from e2i.resampling import ResamplerName

DEFAULT_TIMEOUT_S = 60.0
_ATTEMPTS = 3
_T = TypeVar("_T")


class DecodingPool:
    """Decoding processes, started when they are needed, for any number of threads.

    Args:
        processes: most of them at once.
        start: makes one.
    """

    def __init__(
        self, processes: int, start: Callable[[], DecodingProcess] = DecodingProcess
    ) -> None:
        self._start = start
        # The one used last comes first, so that no more are started than are needed.
        self._free: queue.LifoQueue[DecodingProcess | None] = queue.LifoQueue()
        for _ in range(processes):
            self._free.put(None)

    def load(
        self,
        recording: bytes | BinaryIO,
        sample_rate: int,
        name: str,
        *,
        resampler: ResamplerName = "torchaudio",
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> Waveform:
        """A recording as an encoder takes it: mono, at `sample_rate` (Hz), in [-1, 1].

        Waits until one of the processes is free.

        Args:
            recording: the bytes of the file, or the file, opened for reading.
            sample_rate: rate wanted, in Hz.
            name: what the recording is called, for messages.
            resampler: which.
            timeout_s: how long decoding may go without another block of samples.

        Raises:
            AudioError: as `e2i.audio.decode`, and if the decoder hangs, crashes, or takes too much
                memory.
            RunFailedError: decoding processes cannot be started.
            StorageError: there is no room for temporary files.
        """
        with contextlib.ExitStack() as stack:
            source = _opened(stack, recording)
            target = stack.enter_context(temporary_file())
            decoded = self._by_any(
                lambda process: process.decode(
                    source,
                    target,
                    sample_rate=sample_rate,
                    name=name,
                    resampler=resampler,
                    timeout_s=timeout_s,
                )
            )
            return Waveform(map_waveform(target, decoded.samples), decoded.duration_s)

    def measure(
        self,
        recording: bytes | BinaryIO,
        sample_rate: int,
        name: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> int | None:
        """How many samples `load` will come to, by the header; None where that does not say.

        Args:
            recording: as for `load`.
            sample_rate: rate wanted, in Hz.
            name: what the recording is called, for messages.
            timeout_s: how long it may take.

        Raises:
            AudioError: as `load`, where the header alone shows it.
            RunFailedError: decoding processes cannot be started.
            StorageError: there is no room for temporary files.
        """
        with contextlib.ExitStack() as stack:
            source = _opened(stack, recording)
            return self._by_any(
                lambda process: process.measure(
                    source, sample_rate=sample_rate, name=name, timeout_s=timeout_s
                )
            )

    def _by_any(self, ask: Callable[[DecodingProcess], _T]) -> _T:
        """What the first process that is free says; another one where it ended before it began."""
        attempts = 0
        while True:
            process = self._free.get()
            try:
                if process is None:
                    process = self._start()
                return ask(process)
            except NotBegunError:
                attempts += 1
                if attempts == _ATTEMPTS:
                    raise
            finally:
                self._free.put(process if process and process.alive else None)

    def close(self) -> None:
        """End those that are idle; others are started when they are needed."""
        idle = []
        with contextlib.suppress(queue.Empty):
            while True:
                idle.append(self._free.get_nowait())
        for process in idle:
            if process is not None:
                process.end()
            self._free.put(None)


_pools: dict[int, DecodingPool] = {}
_pools_guard = threading.Lock()


def shared_pool(processes: int | None = None) -> DecodingPool:
    """The pool of this process, with so many decoding processes at most; default: one a core."""
    number = processes or usable_cores()
    with _pools_guard:
        return _pools.setdefault(number, DecodingPool(number))


@atexit.register
def _close_pools() -> None:
    for pool in _pools.values():
        pool.close()


# A copy of this process has no processes of its own, and must not talk to those of the original.
os.register_at_fork(after_in_child=_pools.clear)


@dataclass(frozen=True)
class WaveformLoader:
    """Decodes as a run wants it; called like `e2i.audio.load_waveform`.

    Attributes:
        resampler: which.
        processes: decoding processes at most; None: one a core.
        timeout_s: how long decoding may go without another block of samples.
    """

    resampler: ResamplerName = "torchaudio"
    processes: int | None = None
    timeout_s: float = DEFAULT_TIMEOUT_S

    @property
    def at_once(self) -> int:
        """Recordings that are decoded at once."""
        return self.processes or usable_cores()

    def __call__(self, recording: bytes | BinaryIO, sample_rate: int, name: str) -> Waveform:
        """See `DecodingPool.load`."""
        return shared_pool(self.processes).load(
            recording, sample_rate, name, resampler=self.resampler, timeout_s=self.timeout_s
        )

    def measure(self, recording: bytes | BinaryIO, sample_rate: int, name: str) -> int | None:
        """See `DecodingPool.measure`."""
        return shared_pool(self.processes).measure(
            recording, sample_rate, name, timeout_s=self.timeout_s
        )


def _opened(stack: contextlib.ExitStack, recording: bytes | BinaryIO) -> BinaryIO:
    """A recording as an open file."""
    if isinstance(recording, bytes):
        return stack.enter_context(temporary_file(recording))
    return recording
