"""The audio encoder, slowed down, and writing down what it embeds.

Each embedded recording becomes a line of a log, named by a digest of its waveform. Processes that
others start get it by `environment_for`: `at_start/sitecustomize.py` looks for it there.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
LOG = "E2I_DRILL_LOG"
PACE = "E2I_DRILL_PACE"
"""Names a file that holds the seconds a clip; it may change while processes run."""


def environment_for(log: Path, pace: Path) -> dict[str, str]:
    """What a process is started with, so that it and those that it starts count."""
    path = os.pathsep.join((str(HERE / "at_start"), str(HERE)))
    return {LOG: str(log), PACE: str(pace), "PYTHONPATH": path}


def count(log: Path, seconds_a_clip: Callable[[], float]) -> None:
    """Slow the encoder of this process down, and have it write to the log."""
    from e2i.encoders.logmel import LogMelEncoder
    from e2i.encoders.protocols import AudioEmbedding

    encode_plainly = LogMelEncoder.encode

    def encode_slowly(
        encoder: LogMelEncoder, waveforms: Sequence[NDArray[np.float32]]
    ) -> list[AudioEmbedding]:
        began = time.monotonic()
        while (left := began + seconds_a_clip() * len(waveforms) - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))  # the pace may change meanwhile
        lines = [hashlib.sha256(waveform.tobytes()).hexdigest() for waveform in waveforms]
        with log.open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))
        return encode_plainly(encoder, waveforms)

    LogMelEncoder.encode = encode_slowly  # type: ignore[method-assign]
