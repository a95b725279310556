"""The two protocols that every encoder follows.

Conventions: a waveform is float32 `(T,)`, mono, in [-1, 1], at the encoder's `sample_rate` (Hz).
An embedding is float32 `(D,)`. An embedding depends on its clip or caption alone: never on batch
size, batch mates or order. Encoders leave the global random state as they found it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Settings = Mapping[str, str | int | float | bool | None]
"""All that changes an encoder's values, by name; flat, so that a difference can be named."""


@dataclass(frozen=True, slots=True)
class AudioEmbedding:
    """What an audio encoder makes of one clip.

    Attributes:
        embedding: float32 (D,).
        num_windows: windows that it is made from.
        windows: float32 (W, D), the embedding of each window before they are averaged and
            normalized; None unless the encoder was made to give them.
    """

    embedding: NDArray[np.float32]
    num_windows: int
    windows: NDArray[np.float32] | None = None


class AudioEncoder(Protocol):
    """Recordings to embeddings."""

    @property
    def dim(self) -> int:
        """D, the length of an embedding."""
        ...

    @property
    def sample_rate(self) -> int:
        """Rate of the waveforms that it takes, in Hz."""
        ...

    @property
    def settings(self) -> Settings:
        """All that changes its values: the fingerprint is made of these."""
        ...

    def encode(self, waveforms: Sequence[NDArray[np.float32]]) -> list[AudioEmbedding]:
        """Embed waveforms `(T,)`, each alone, in the order given."""
        ...


class TextEncoder(Protocol):
    """Captions to embeddings."""

    @property
    def dim(self) -> int:
        """D, the length of an embedding."""
        ...

    @property
    def settings(self) -> Settings:
        """All that changes its values: the fingerprint is made of these."""
        ...

    def encode(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """Embed captions, each alone: float32 (B, D) in the order given."""
        ...


def fingerprint(settings: Settings) -> str:
    """Short hash over all that changes an encoder's values: 16 hexadecimal digits."""
    canonical = json.dumps(dict(settings), sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
