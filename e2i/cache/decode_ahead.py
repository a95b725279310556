"""Recordings decoded ahead of the encoder, in order, in bounded memory from the first one on.

Conventions: a recording is begun when there is room for what it will come to, and not before those
in front of it have been. What nobody can tell the length of, or what alone is more than the bound,
is begun when nothing else waits. So what waits for the encoder is at most the bound, or one
recording.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sized
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

from e2i.errors import AudioError


class _Decoded(Protocol):
    @property
    def samples(self) -> Sized: ...


_R = TypeVar("_R")
_W = TypeVar("_W", bound=_Decoded)


class Room:
    """Room for waveforms that wait for the encoder, given out in the order of their turns.

    Args:
        samples: that fit.
    """

    def __init__(self, samples: int) -> None:
        self._most = samples
        self._held: dict[int, int] = {}
        self._settled: set[int] = set()
        self._next = 0
        self._closed = False
        self._changed = threading.Condition()

    def take(self, turn: int, samples: int | None) -> None:
        """Wait until all turns before have room, and there is room for so many samples.

        Raises:
            CancelledError: nobody waits for the waveform any more.
        """
        wanted = self._most if samples is None else samples

        def fits() -> bool:
            held = sum(self._held.values())
            return self._next == turn and (not held or held + wanted <= self._most)

        with self._changed:
            self._changed.wait_for(lambda: self._closed or fits())
            if self._closed:
                raise CancelledError
            self._held[turn] = wanted
            self._settle(turn)

    def settle(self, turn: int, samples: int) -> None:
        """Say what a recording came to, or 0 if it failed, maybe before it took any room."""
        with self._changed:
            self._held[turn] = samples
            self._settle(turn)

    def leave(self, turn: int) -> None:
        """Give the room of a waveform back."""
        with self._changed:
            self._held.pop(turn, None)
            self._changed.notify_all()

    def close(self) -> None:
        """Send those away who wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _settle(self, turn: int) -> None:
        self._settled.add(turn)
        while self._next in self._settled:
            self._settled.discard(self._next)
            self._next += 1
        self._changed.notify_all()


def decoded_ahead(
    recordings: Iterable[_R],
    decode: Callable[[_R, Callable[[int | None], None]], _W],
    *,
    decoders: int,
    samples: int,
) -> Generator[tuple[_R, _W | AudioError]]:
    """Recordings and their waveforms, in order, decoded a few ahead; to be closed when done with.

    Args:
        recordings: what to decode.
        decode: makes a waveform; calls what it is given once, with the samples that it will come
            to, or None where that is not known, before it takes room for them.
        decoders: how many to decode at once; twice as many are begun ahead.
        samples: that may wait for the encoder.

    Raises:
        Exception: what `decode` raises, but for an AudioError, which stands for the waveform.
    """
    room = Room(samples)
    waiting = enumerate(recordings)
    ahead: deque[tuple[int, _R, Future[_W]]] = deque()

    def run(turn: int, recording: _R) -> _W:
        length = 0
        try:
            made = decode(recording, lambda expected: room.take(turn, expected))
            length = len(made.samples)
            return made
        finally:
            room.settle(turn, length)

    pool = ThreadPoolExecutor(decoders)
    try:
        while True:
            while len(ahead) < 2 * decoders and (following := next(waiting, None)) is not None:
                ahead.append((*following, pool.submit(run, *following)))
            if not ahead:
                return
            turn, recording, future = ahead.popleft()
            error = future.exception()
            room.leave(turn)
            if error is not None and not isinstance(error, AudioError):
                raise error
            yield recording, error if error is not None else future.result()
    finally:
        # What a decoder has in hand is not waited for: a chunk that is to stop stores at once.
        room.close()
        pool.shutdown(wait=False, cancel_futures=True)
