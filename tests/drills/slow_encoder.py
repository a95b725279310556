"""A preload of dask workers: the audio encoder takes its time, so that one can be killed at it."""

from __future__ import annotations

import time
from typing import Any

from e2i.encoders.logmel import LogMelEncoder

SECONDS_A_CALL = 0.3
_encode = LogMelEncoder.encode


def _slowly(encoder: LogMelEncoder, waveforms: Any) -> Any:
    time.sleep(SECONDS_A_CALL)
    return _encode(encoder, waveforms)


LogMelEncoder.encode = _slowly  # type: ignore[method-assign]
