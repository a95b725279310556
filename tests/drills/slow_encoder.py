"""A preload of dask workers: the audio encoder takes its time, so that one can be killed at it."""

from __future__ import annotations

import time
from typing import Any

from e2i.encoders.logmel import LogMelEncoder

SECONDS_A_CALL = 0.3


def dask_setup(worker: object) -> None:
    """Slow the encoder of this process down."""
    encode = LogMelEncoder.encode

    def slowly(encoder: LogMelEncoder, waveforms: Any) -> Any:
        time.sleep(SECONDS_A_CALL)
        return encode(encoder, waveforms)

    LogMelEncoder.encode = slowly  # type: ignore[method-assign]
