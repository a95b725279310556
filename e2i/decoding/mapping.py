"""Waveforms that lie in a file, mapped into memory.

Conventions: what was read of a mapped file counts as memory of the process until it is given back.
Nothing is lost by that: it stays in the file, from where it comes when it is read again. A process
that reads on gives back now and then; for others a thread does so while the waveform is in use.
"""

from __future__ import annotations

import mmap
import threading
import weakref
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

WATCHER = "e2i: memory of a waveform"
"""Name of the threads that give memory of large waveforms back."""

_LARGE_BYTES = 64 * 2**20
_PAUSE_S = 0.2


def map_waveform(file: BinaryIO, samples: int) -> NDArray[np.float32]:
    """The float32 samples of a file, writable; the file stays as long as the array does."""
    mapped = mmap.mmap(file.fileno(), samples * np.dtype(np.float32).itemsize)
    if _is_large(mapped):
        threading.Thread(
            target=_watch, args=(weakref.ref(mapped),), name=WATCHER, daemon=True
        ).start()
    return np.frombuffer(mapped, dtype=np.float32)


def give_back(waveform: NDArray[np.float32]) -> None:
    """Let go of the memory that reading a large mapped waveform took; others are left alone."""
    base: object = waveform
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    if isinstance(base, mmap.mmap) and _is_large(base):
        base.madvise(mmap.MADV_DONTNEED)


def _is_large(mapped: mmap.mmap) -> bool:
    return len(mapped) >= _LARGE_BYTES and hasattr(mmap, "MADV_DONTNEED")


def _watch(reference: weakref.ref[mmap.mmap]) -> None:
    pause = threading.Event()
    while (mapped := reference()) is not None:
        mapped.madvise(mmap.MADV_DONTNEED)
        del mapped
        pause.wait(_PAUSE_S)
