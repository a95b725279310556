"""How a cache is built: the options, without anything that computes."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, field_validator

from e2i.configuration import Configuration

SnapshotMode = Literal["auto", "always", "never"]
"""When the tensors of the original's form are written beside the shards."""

DEFAULT_FAILURE_SHARE = 0.01
_CHUNK_SIZES = {"logmel": 256, "clap": 32, "passt": 8}
_OTHER_CHUNK_SIZE = 64
_TEXT_CHUNK_SIZES = {"hashing": 2048}
_OTHER_TEXT_CHUNK_SIZE = 512


class CacheConfig(Configuration):
    """How a cache is built and what it may lack."""

    chunk_size: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Clips that one task run embeds and one shard holds, or whose captions it "
        "does. Default: by encoder, so that a chunk is worth seconds to tens of seconds.",
    )
    force: bool = Field(
        default=False,
        description="Embed again what is stored: the side whose encoder settings differ from the "
        "stored ones, or both sides where none differs.",
    )
    store_windows: bool = Field(
        default=False,
        description="Store the embedding of each window of a recording beside that of the whole.",
    )
    snapshot: SnapshotMode = Field(
        default="auto",
        description="Write audio_embeddings.pt, text_embeddings.pt and metadata.json, one row a "
        "pair: 'auto' when they take less than 1 GiB together.",
    )
    max_failures: float | None = Field(
        default=None,
        ge=0,
        description="Clips that may fail before the run counts as failed: a number, or a share of "
        "the clips when below 1. Default: 1 % of the clips, at least 1.",
    )

    @field_validator("max_failures")
    @classmethod
    def _check_max_failures(cls, value: float | None) -> float | None:
        if value is not None and not (math.isfinite(value) and (value < 1 or value == int(value))):
            raise ValueError(
                f"max_failures is neither a share nor a number: got {value}, expected a share "
                "below 1 or a whole number of clips. Round it."
            )
        return value

    def allowed_failures(self, num_clips: int) -> int:
        """How many of `num_clips` clips may fail."""
        if self.max_failures is None:
            return max(1, _share_of(num_clips, DEFAULT_FAILURE_SHARE))
        if self.max_failures < 1:
            return _share_of(num_clips, self.max_failures)
        return int(self.max_failures)


def _share_of(num_clips: int, share: float) -> int:
    """Whole clips in a share: 0.29 of 100 is 29, which their product in floats falls short of."""
    return math.floor(round(share * num_clips, 6))


def default_chunk_size(audio_encoder: str) -> int:
    """Clips a chunk, for an audio encoder by the name that it has on the command line."""
    return _CHUNK_SIZES.get(audio_encoder, _OTHER_CHUNK_SIZE)


def default_text_chunk_size(text_encoder: str) -> int:
    """Clips whose captions are a chunk, for a text encoder by its name on the command line.

    A caption takes far less time than a recording, and a task run costs the same whatever is in
    it: `python -m benchmarks.orchestration share` says how much.
    """
    return _TEXT_CHUNK_SIZES.get(text_encoder, _OTHER_TEXT_CHUNK_SIZE)
