"""The program `e2i` with an encoder that is slowed down and writes down what it embeds.

Run as `python counted_program.py LOG SECONDS_A_CLIP COMMAND …`: each embedded recording becomes a
line of LOG, named by a digest of its waveform.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2i.encoders.logmel import LogMelEncoder
from e2i.encoders.protocols import AudioEmbedding
from flows.command_line import main

log, seconds = Path(sys.argv[1]), float(sys.argv[2])
encode_plainly = LogMelEncoder.encode


def encode_slowly(
    encoder: LogMelEncoder, waveforms: Sequence[NDArray[np.float32]]
) -> list[AudioEmbedding]:
    time.sleep(seconds * len(waveforms))
    lines = [hashlib.sha256(waveform.tobytes()).hexdigest() for waveform in waveforms]
    with log.open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))
    return encode_plainly(encoder, waveforms)


LogMelEncoder.encode = encode_slowly  # type: ignore[method-assign]
main(sys.argv[3:])
