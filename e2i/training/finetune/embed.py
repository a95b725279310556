"""Clips and captions through the encoders as they are now: for validation, test and frozen sides.

Conventions: as when a cache is embedded: whole recordings, evaluation mode, float32. The processes
share the work and each gets all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor

from e2i.encoders.batching import length_batches
from e2i.encoders.hf_text import TOKENS_A_BATCH
from e2i.encoders.passt_architectures import DIM
from e2i.encoders.products import strict_float32
from e2i.training.finetune.encoders import EncoderPair
from e2i.training.finetune.examples import CaptionTokens, Examples, Hearing, Listener
from e2i.training.finetune.step import gathered, shares

_CLIPS_A_BATCH = {"cpu": 4, "cuda": 32, "mps": 8}


class Embedder:
    """Embeds parts by the encoders as they are.

    Args:
        fabric: launched.
        encoders: on the device.
        listener: reads waveforms.
        hearing: whole recordings.
    """

    def __init__(
        self, fabric: Fabric, encoders: EncoderPair, listener: Listener, hearing: Hearing
    ) -> None:
        self._fabric, self._encoders = fabric, encoders
        self._listener, self._hearing = listener, hearing

    @property
    def device(self) -> torch.device:
        """Where embeddings are made."""
        return self._fabric.device

    def audio(self, examples: Examples) -> Tensor:
        """float32 (C, D) of the clips, on the device."""
        own = range(len(examples.keys))[self._share(len(examples.keys))]
        # Clips of about a length share a batch, so that their windows do.
        order = sorted(own, key=lambda clip: examples.waveforms[clip].num_samples)
        size = _CLIPS_A_BATCH[self._fabric.device.type]
        jobs = [order[first : first + size] for first in range(0, len(order), size)]
        made = torch.empty(len(own), DIM, device=self._fabric.device)
        for clips, groups in self._listener.prefetched(
            jobs,
            lambda clips: self._listener.groups(
                [examples.waveforms[clip] for clip in clips], self._hearing
            ),
        ):
            with self._undisturbed():
                on_device = [group.to(self._fabric.device) for group in groups]
                embedded, _ = self._encoders(on_device, len(clips), None)
            made[torch.tensor(np.array(clips) - own.start)] = embedded
        return gathered(self._fabric, made)

    def text(self, tokens: CaptionTokens) -> Tensor:
        """float32 (N, D) of the captions, on the device."""
        lengths = tokens.lengths
        own = range(len(lengths))[self._share(len(lengths))]
        device = self._fabric.device
        made = torch.empty(len(own), self._encoders.text_dim, device=device)
        for rows in length_batches(
            [lengths[row] for row in own], budget=TOKENS_A_BATCH[device.type]
        ):
            with self._undisturbed():
                _, embedded = self._encoders(
                    [], 0, tokens.batch([own[row] for row in rows], device)
                )
            made[torch.tensor(rows)] = embedded
        return gathered(self._fabric, made)

    def _share(self, count: int) -> slice:
        return shares(count, self._fabric.world_size)[self._fabric.global_rank]

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Evaluation mode without gradients, in exact float32; training mode afterwards."""
        self._encoders.eval()
        try:
            with torch.no_grad(), strict_float32():
                yield
        finally:
            self._encoders.train()
