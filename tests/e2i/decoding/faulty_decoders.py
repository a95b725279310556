"""What decoding processes of tests run: a recording that begins with a word does what it says."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from typing import BinaryIO

import numpy as np

import e2i.decoding.worker as worker

decode_plainly = worker.write_waveform
measure_plainly = worker.expected_samples


def decode(source: BinaryIO, target: BinaryIO, **options: object) -> tuple[int, float]:
    source.seek(0)
    word = source.read(20).split(b" ")[0]
    if word == b"hang":
        # Native code that keeps the interpreter's lock: no thread of Python gets to run.
        ctypes.PyDLL(None).sleep(1000)
    elif word == b"segfault":
        ctypes.string_at(0)
    elif word == b"abort":
        os.abort()
    elif word == b"exit":
        os._exit(7)
    elif word == b"killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == b"memory":
        np.ones(2**28)
    elif word == b"strange":
        raise RuntimeError("the decoder lost its way")
    elif word == b"full":
        raise OSError(28, "No space left on device")
    elif word == b"slow":
        for _ in range(7):
            time.sleep(0.5)
            options["moved"]()
    return decode_plainly(source, target, **options)


def measure(source: BinaryIO, sample_rate: int, name: str) -> int | None:
    """Headers do no harm; those of recordings that begin with a word say nothing."""
    plain = source.read(4) == b"RIFF"
    source.seek(0)
    return measure_plainly(source, sample_rate, name) if plain else None


def serve(descriptor: int) -> None:
    worker.write_waveform = decode
    worker.expected_samples = measure
    worker.serve(descriptor)


def refuse(descriptor: int) -> None:
    sys.stderr.write("no such decoder\n")
    os._exit(1)


def leave_soon(descriptor: int) -> None:
    """Ends as soon as it has nothing to do."""
    worker.IDLE_S = 0.05
    worker.serve(descriptor)
