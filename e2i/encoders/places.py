"""Places that encoders run at: one on each device asked for, each with chunks of its own.

Conventions: a chunk takes the place that the fewest chunks of this process are at. Among equals its
own index decides, so that processes which know nothing of each other spread theirs too.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from e2i.encoders.config import EncodersConfig

_guard = threading.Lock()
_chunks: Counter[Place] = Counter()


class Place(NamedTuple):
    """Where one encoder of a side runs.

    Attributes:
        device: a torch device.
        number: which of the places on that device, from 1; it has several if it is named so often.
    """

    device: str
    number: int = 1

    def __str__(self) -> str:
        return self.device if self.number == 1 else f"{self.device} ({self.number})"


def encoder_places(config: EncodersConfig) -> tuple[Place, ...]:
    """The places of a configuration: one a device; encoders without weights need one in all.

    Raises:
        ConfigError: a device cannot be used here.
    """
    if config.audio_encoder == "logmel" and config.text_encoder == "hashing":
        return (Place("cpu"),)
    from e2i.device import resolve_devices  # noqa: PLC0415 - imports torch

    devices = [str(device) for device in resolve_devices(config.device)]
    return tuple(
        Place(device, devices[: place + 1].count(device)) for place, device in enumerate(devices)
    )


@contextlib.contextmanager
def taken_place(places: Sequence[Place], index: int) -> Iterator[Place]:
    """The place for a chunk, which counts as one of those there until it is done.

    Args:
        places: at least one.
        index: of the chunk.
    """
    first = index % len(places)
    with _guard:
        place = min([*places[first:], *places[:first]], key=lambda place: _chunks[place])
        _chunks[place] += 1
    try:
        yield place
    finally:
        with _guard:
            _chunks[place] -= 1
