"""Embeddings of a cache in the joint space of one or several checkpoints.

Shape letters: C clips, N captions, P projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e2i.cache.embeddings import CachedEmbeddings
from e2i.heads.checkpoint import Checkpoint
from e2i.training.pairs import Pairs, clip_keys
from e2i.training.project import project, project_rows
from e2i.training.pseudo_images import LoadStored, stored_images
from e2i.training.windows import LoadWindows, read_all


def all_pairs(cache: CachedEmbeddings, images: NDArray[np.uint8] | None = None) -> Pairs:
    """A cache's clips and captions, and their stored pseudo-images where they were read."""
    return Pairs(
        clip_keys(cache),
        np.array(cache.audio, dtype=np.float32),
        np.array(cache.text, dtype=np.float32),
        np.array(cache.caption_clip, dtype=np.int64),
        images,
    )


@dataclass(frozen=True, slots=True)
class JointSpace:
    """What takes embeddings into joint spaces: one or several heads, or none, which leaves them.

    Attributes:
        checkpoints: each makes a space of its own; none: the embeddings' own space.
        batch_size: rows of one forward pass; changes no value.
        device: where the projections lie.
        load_stored: reads stored pseudo-images, where a CNN was told to take them from there.
        load_windows: reads stored windows, where heads pool them.
    """

    checkpoints: Sequence[Checkpoint]
    batch_size: int
    device: torch.device
    load_stored: LoadStored | None
    load_windows: LoadWindows | None = None

    def both(
        self, cache: CachedEmbeddings, clips: NDArray[np.int64]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Text (N, P) and audio (C, P) of some clips, by each checkpoint.

        Raises:
            CheckpointError: a checkpoint does not fit its own configuration.
            CacheError: heads pool windows, and the cache holds none.
            ImageError: images have to come from the disk, and one is missing or made otherwise.
        """
        if not self.checkpoints:
            tensors = all_pairs(cache).of_clips(clips).to(self.device)
            return [tensors.text], [tensors.audio]
        texts, audios = [], []
        for checkpoint in self.checkpoints:
            config, heads = checkpoint.record.heads, checkpoint.heads(self.device)
            by = heads.audio.standardization
            images = None
            if self.load_stored is not None:
                images = stored_images([cache], config, self.load_stored, by)
            pairs = all_pairs(cache, images)
            if heads.pooling is not None:
                pairs = replace(pairs, windows=read_all([cache], self.load_windows))
            tensors = pairs.of_clips(clips).to(self.device, config, by)
            audio, text = project(heads, tensors.audio_of(heads), tensors.text, self.batch_size)
            texts.append(text)
            audios.append(audio)
        return texts, audios

    def text(self, embeddings: NDArray[np.float32]) -> list[Tensor]:
        """Captions alone, by each checkpoint."""
        rows = torch.from_numpy(np.array(embeddings, dtype=np.float32)).to(self.device)
        return [
            project_rows(checkpoint.heads(self.device).project_text, rows, self.batch_size)
            for checkpoint in self.checkpoints
        ] or [rows]
