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
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from e2i.audio import Waveform
from e2i.decoding.mapping import map_waveform
from e2i.decoding.process import DecodingProcess, NotBegunError
from e2i.resampling import ResamplerName
from e2i.storage import translation

DEFAULT_TIMEOUT_S = 60.0
_ATTEMPTS = 3


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
            source = recording if not isinstance(recording, bytes) else _file(stack, recording)
            target = _file(stack)
            for attempt in range(_ATTEMPTS):
                process = self._free.get()
                try:
                    if process is None:
                        process = self._start()
                    decoded = process.decode(
                        source,
                        target,
                        sample_rate=sample_rate,
                        name=name,
                        resampler=resampler,
                        timeout_s=timeout_s,
                    )
                    break
                except NotBegunError:
                    if attempt == _ATTEMPTS - 1:
                        raise
                finally:
                    self._free.put(process if process and process.alive else None)
            return Waveform(map_waveform(target, decoded.samples), decoded.duration_s)

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


def _file(stack: contextlib.ExitStack, content: bytes = b"") -> BinaryIO:
    """A temporary file without a name."""
    try:
        file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - `stack` closes it
        file.write(content)
        file.flush()
    except OSError as error:
        raise translation.from_os_error(error, "write", "temporary files") from error
    return file
