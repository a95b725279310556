"""One batch: its loss, and the gradients of encoders and heads.

How: the encoders make embeddings; these are gathered from all processes; heads and loss see the
whole batch, in each process alike; the gradients of the embeddings then go back into the encoders
that made them. So negatives come from all processes, batch normalization is over the whole batch,
and where a batch is encoded in parts (GradCache) the gradients are those of the whole batch still:
the parts are encoded without keeping anything, and once more, with the same random draws, for the
gradient.

Decides: a side that is frozen is not encoded here; its embeddings come from a table. Random draws
depend on the step alone (patches, mel bands, heads), or on the step and the part (dropout within
the text encoder).

Shape letters: B pairs of the whole batch, D embedding.

Source: L. Gao et al., "Scaling deep contrastive learning batch size under memory limited setup",
2021 (arXiv 2101.06983).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.wrappers import _FabricModule
from torch import Tensor

from e2i.encoders.passt_training import PasstNoise
from e2i.heads.build import ProjectionHeads
from e2i.images.config import ImagesConfig
from e2i.images.differentiable import fold_with_gradient
from e2i.losses import contrastive_loss, positives_from_clips
from e2i.training.finetune.encoders import WindowGroup
from e2i.training.finetune.examples import seed_of
from e2i.training.finetune.fabric import loss_scaler


@dataclass(frozen=True, slots=True)
class LocalPart:
    """Pairs that this process encodes at once.

    Attributes:
        num_pairs: how many.
        groups: windows of their clips; empty where the audio encoder is frozen.
        tokens: of their captions; None where the text encoder is frozen.
    """

    num_pairs: int
    groups: Sequence[WindowGroup]
    tokens: dict[str, Tensor] | None


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as one process sees it.

    Attributes:
        clip: int64 (B,), the clip of each pair of the whole batch.
        parts: the pairs that this process encodes, in order.
        audio: float32 (B, D), embeddings of the whole batch, where the audio encoder is frozen.
        text: float32 (B, D), likewise.
        cached: whether the parts are encoded twice (GradCache).
    """

    clip: Tensor
    parts: Sequence[LocalPart]
    audio: Tensor | None
    text: Tensor | None
    cached: bool


@dataclass(frozen=True, slots=True)
class Draws:
    """What training changes at random.

    Attributes:
        noise: of the audio encoder.
        seed: of all draws.
    """

    noise: PasstNoise
    seed: int


class Learner:
    """Encoders and heads in training.

    Args:
        fabric: launched.
        wrapped: both encoders, set up by Fabric; None where both are frozen.
        heads: on the device.
        images: how the audio embeddings are folded, for a head that takes images; else None.
        draws: what is drawn at random.
    """

    def __init__(
        self,
        fabric: Fabric,
        wrapped: _FabricModule | None,
        heads: ProjectionHeads,
        images: ImagesConfig | None,
        draws: Draws,
    ) -> None:
        self._fabric, self._wrapped, self._heads = fabric, wrapped, heads
        self._images, self._noise, self._seed = images, draws.noise, draws.seed

    def backward(self, batch: Batch, step: int, *, share: float = 1.0, last: bool = True) -> Tensor:
        """Add a batch's gradients to those that are there.

        Args:
            batch: which.
            step: of the training; draws depend on it.
            share: of the loss in the gradients.
            last: whether processes add up their gradients now, or after another batch.

        Returns:
            The loss of the whole batch, a scalar.
        """
        encoded = self._encoded(batch, step, last=last)
        audio = batch.audio if batch.audio is not None else self._gathered(encoded, 0)
        text = batch.text if batch.text is not None else self._gathered(encoded, 1)
        scale = self._loss_scale()
        loss = self._loss(audio, text, batch.clip, step)
        (loss * (share * scale)).backward()  # type: ignore[no-untyped-call]
        if self._wrapped is not None:
            gradients = (audio.grad, text.grad)
            self._into_encoders(self._wrapped, batch, encoded, gradients, step, last=last)
        return loss.detach()

    def average_head_gradients(self) -> None:
        """Make the heads' gradients the same in all processes, to the last bit."""
        if self._fabric.world_size > 1:
            for parameter in self._heads.parameters():
                if parameter.grad is not None:
                    reduced: Any = self._fabric.all_reduce(parameter.grad, reduce_op="mean")
                    parameter.grad.copy_(reduced)

    def _loss(self, audio: Tensor, text: Tensor, clip: Tensor, step: int) -> Tensor:
        heads, device = self._heads, audio.device
        generator = torch.Generator(device).manual_seed(seed_of(self._seed, "heads", step))
        seen = audio if self._images is None else fold_with_gradient(audio, self._images)
        return contrastive_loss(
            heads.project_audio(seen, generator),
            heads.project_text(text, generator),
            positives_from_clips(clip),
            heads.logit_scale,
        )

    def _loss_scale(self) -> float:
        scaler = loss_scaler(self._fabric)
        return 1.0 if scaler is None else float(scaler.get_scale())

    def _encoded(
        self, batch: Batch, step: int, *, last: bool
    ) -> list[tuple[Tensor | None, Tensor | None]]:
        """Embeddings of this process's pairs, part by part; with a graph unless they are cached."""
        if self._wrapped is None:
            return []
        if not batch.cached:
            with self._fabric.no_backward_sync(self._wrapped, enabled=not last):
                return [self._encode(part, step, place) for place, part in enumerate(batch.parts)]
        with torch.no_grad():
            return [self._encode(part, step, place) for place, part in enumerate(batch.parts)]

    def _encode(
        self, part: LocalPart, step: int, place: int
    ) -> tuple[Tensor | None, Tensor | None]:
        fabric = self._fabric

        def draw() -> torch.Generator:
            return torch.Generator().manual_seed(seed_of(self._seed, "patches", step))

        seed = seed_of(self._seed, "dropout", step, fabric.global_rank, place)
        with _seeded(seed, fabric.device):
            heard = part.num_pairs if part.groups else 0
            encoded: tuple[Tensor | None, Tensor | None] = self._wrapped(  # type: ignore[misc]
                part.groups, heard, part.tokens, self._noise, draw
            )
            return encoded

    def _gathered(self, encoded: Sequence[tuple[Tensor | None, ...]], side: int) -> Tensor:
        """One side's embeddings of the whole batch: a leaf, (B, D)."""
        own = torch.cat([made.detach() for both in encoded if (made := both[side]) is not None])
        return gathered(self._fabric, own).requires_grad_()

    def _into_encoders(
        self,
        wrapped: _FabricModule,
        batch: Batch,
        encoded: Sequence[tuple[Tensor | None, Tensor | None]],
        gradients: tuple[Tensor | None, Tensor | None],
        step: int,
        *,
        last: bool,
    ) -> None:
        """The gradients of the embeddings that this process made, into its encoders."""
        fabric = self._fabric
        first = shares(len(batch.clip), fabric.world_size)[fabric.global_rank].start
        # Fabric scales by the loss scale once more, and processes average what is to be added up.
        factor = fabric.world_size / self._loss_scale()
        ends = len(batch.parts) - 1
        for place, part in enumerate(batch.parts):
            rows = slice(first, first + part.num_pairs)
            first += part.num_pairs
            syncs = last and (place == ends)
            with fabric.no_backward_sync(wrapped, enabled=not syncs):
                made = self._encode(part, step, place) if batch.cached else encoded[place]
                along = [
                    (side * (gradient[rows] * factor)).sum()
                    for side, gradient in zip(made, gradients, strict=True)
                    if side is not None and gradient is not None and side.requires_grad
                ]
                fabric.backward(torch.stack(along).sum())


def shares(num_pairs: int, world_size: int) -> list[slice]:
    """Which rows of a batch each process encodes."""
    cuts = [rank * num_pairs // world_size for rank in range(world_size + 1)]
    return [slice(start, end) for start, end in pairwise(cuts)]


def gathered(fabric: Fabric, own: Tensor) -> Tensor:
    """The rows of all processes, one after the other; processes may have different numbers."""
    if fabric.world_size == 1:
        return own
    counts: Any = fabric.all_gather(torch.tensor(len(own), device=own.device))
    padded = own.new_zeros((int(counts.max()), *own.shape[1:]))
    padded[: len(own)] = own
    everyone: Any = fabric.all_gather(padded)
    rows: Tensor = torch.cat(
        [rows[:count] for rows, count in zip(everyone, counts.tolist(), strict=True)]
    )
    return rows


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """The global random state set for a while: dropout within transformers models draws from it."""
    on_gpu = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=on_gpu):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            torch.cuda.manual_seed(seed)
        yield
