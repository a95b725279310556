"""What a chunk came to, and what both sides need to embed one."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from e2i.cache.failures import Failure, chunk_failures_name, encode_failures
from e2i.cache.header import SideSettings
from e2i.cache.shards import ShardStamp
from e2i.errors import CacheError, FingerprintMismatchError
from e2i.storage import Folder

Progress = Callable[[int], None]
"""Called with the number of clips or captions that are done since the last call."""

Stop = Callable[[], bool]
"""Asked between forward passes; True ends the chunk early and stores what it has."""


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What a chunk came to.

    Attributes:
        embedded: rows embedded and stored.
        reused: rows found stored by another run.
        discarded: rows embedded, then dropped because another run had stored them first.
        failed: clips or captions that could not be embedded.
        left: rows that were not begun, because the run is to stop.
        stored_bytes: size of the shard written.
        seconds: wall time.
    """

    embedded: int = 0
    reused: int = 0
    discarded: int = 0
    failed: tuple[Failure, ...] = ()
    left: int = 0
    stored_bytes: int = 0
    seconds: float = 0.0


_locks: dict[int, threading.Lock] = {}
_locks_guard = threading.Lock()


def encoder_lock(encoder: object) -> threading.Lock:
    """The lock under which an encoder runs: one forward at a time."""
    with _locks_guard:
        if id(encoder) not in _locks:
            _locks[id(encoder)] = threading.Lock()
            weakref.finalize(encoder, _locks.pop, id(encoder))
        return _locks[id(encoder)]


def record_failures(
    folder: Folder, stamp: ShardStamp, chunk_key: str, failed: Sequence[Failure]
) -> None:
    """Store a chunk's failures; done before its shard is, so that none is lost by a kill."""
    if failed:
        folder.write(chunk_failures_name(stamp.side, chunk_key), encode_failures(failed))


def check_encoder(stamp: ShardStamp, encoder: SideSettings) -> None:
    """Refuse an encoder other than the one that the chunk was planned for.

    Raises:
        FingerprintMismatchError: it has other settings.
        CacheError: its embeddings have another length.
    """
    if encoder.fingerprint != stamp.fingerprint:
        raise FingerprintMismatchError(
            f"a chunk was given to another {stamp.side} encoder: got fingerprint "
            f"{encoder.fingerprint}, expected {stamp.fingerprint} as planned. Plan the cache again "
            "with this encoder."
        )
    if encoder.dim != stamp.dim:
        raise wrong_dimension(stamp, encoder.dim)


def wrong_dimension(stamp: ShardStamp, got: int | tuple[int, ...]) -> CacheError:
    """The error for embeddings of another length than the cache holds."""
    return CacheError(
        f"the {stamp.side} encoder gives embeddings of another length: got {got}, expected "
        f"{stamp.dim}. Correct the encoder's `dim`."
    )
