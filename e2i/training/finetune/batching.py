"""Which pairs make which batch, and what the encoders are given of it.

Decides: an epoch's batches depend on the seed and the epoch alone, so that a run that goes on in
the middle of an epoch finds the same ones; so does what is drawn for each pair. The next batches
are read while the one in hand is trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor

from e2i.errors import ConfigError
from e2i.heads.build import seeded_generator
from e2i.training.batches import DistinctClipBatches, EpochPlan, RandomPairBatches
from e2i.training.finetune.config import FinetuneConfig
from e2i.training.finetune.encoders import WindowGroup
from e2i.training.finetune.examples import (
    CaptionTokens,
    Examples,
    Hearing,
    Listener,
    generator_of,
)
from e2i.training.finetune.step import Batch, LocalPart, shares


class BatchPlans:
    """The batches of each epoch."""

    def __init__(self, examples: Examples, config: FinetuneConfig) -> None:
        """Take the pairs.

        Raises:
            ConfigError: no batch is full, and what does not fill one is to be left out.
        """
        self._seed = config.seed
        self._pairs = len(examples.pair_clip)
        pair_clip = torch.from_numpy(examples.pair_clip)
        kind = RandomPairBatches if config.repeat_clips else DistinctClipBatches
        self._plans = kind(pair_clip, config.batch_size, only_full=config.drop_last)
        self.notes: tuple[str, ...] = ()
        if self._plans.fits >= config.batch_size:
            return
        if config.drop_last:
            raise ConfigError(
                f"no batch can be filled: got batch_size {config.batch_size} and drop_last for "
                f"{self._pairs} training pairs of {len(examples.keys)} clips, expected at most "
                f"{self._plans.fits}. Lower --batch-size."
            )
        self.notes = (
            f"The batch size is cut from {config.batch_size} to {self._plans.fits}: there are "
            f"{self._pairs} training pairs of {len(examples.keys)} clips.",
        )

    @property
    def num_batches(self) -> int:
        """Of an epoch."""
        return len(self.epoch(1).sizes)

    def epoch(self, epoch: int) -> EpochPlan:
        """The batches of an epoch, from 1."""
        return self._plans.epoch(seeded_generator(self._seed, f"batches {epoch}"))


@dataclass(frozen=True, slots=True)
class Sides:
    """What batches take of the training pairs.

    Attributes:
        tokens: of their captions.
        listener: reads waveforms.
        hearing: how they are cut.
        audio: float32 (C, D), embeddings of the clips, where the audio encoder is frozen.
        text: float32 (N, D), of the captions, where the text encoder is.
    """

    tokens: CaptionTokens
    listener: Listener
    hearing: Hearing
    audio: Tensor | None
    text: Tensor | None


class Batches:
    """Batches as one process takes them.

    Args:
        fabric: launched.
        config: of the training.
        examples: to train on.
        sides: what is taken of them.
    """

    def __init__(
        self, fabric: Fabric, config: FinetuneConfig, examples: Examples, sides: Sides
    ) -> None:
        self._fabric, self._config, self._examples = fabric, config, examples
        self._tokens, self._tables = sides.tokens, (sides.audio, sides.text)
        self._listener, self._hearing = sides.listener, sides.hearing

    def of(self, plan: EpochPlan, epoch: int, start: int) -> Iterator[Batch]:
        """The batches of an epoch from the one numbered `start` on."""
        rank, world = self._fabric.global_rank, self._fabric.world_size
        batches = [rows.tolist() for rows in plan][start:]
        parts: list[list[int]] = []
        counts: list[int] = []
        for pairs in batches:
            own = pairs[shares(len(pairs), world)[rank]]
            most = self._config.grad_cache or len(own)
            cut = [own[first : first + most] for first in range(0, len(own), most)]
            parts += cut
            counts.append(len(cut))
        made = self._listener.prefetched(parts, lambda pairs: self._windows(pairs, epoch))
        for pairs, count in zip(batches, counts, strict=True):
            local = [self._part(*next(made), epoch) for _ in range(count)]
            yield self._batch(pairs, local)

    def _windows(self, pairs: Sequence[int], epoch: int) -> list[WindowGroup]:
        """The windows of the clips of some pairs; none where the encoder is frozen."""
        if self._tables[0] is not None:
            return []
        waveforms = [self._examples.waveforms[self._examples.pair_clip[pair]] for pair in pairs]
        draws = [generator_of(self._config.seed, "clip", epoch, pair) for pair in pairs]
        return self._listener.groups(waveforms, self._hearing, draws)

    def _part(self, pairs: Sequence[int], groups: list[WindowGroup], epoch: int) -> LocalPart:
        device, share = self._fabric.device, self._config.word_dropout
        tokens = None
        if self._tables[1] is None:
            if share:
                draws = [generator_of(self._config.seed, "words", epoch, pair) for pair in pairs]
                tokens = self._tokens.disturbed(pairs, share, draws, device)
            else:
                tokens = self._tokens.batch(pairs, device)
        return LocalPart(len(pairs), [group.to(device) for group in groups], tokens)

    def _batch(self, pairs: Sequence[int], parts: list[LocalPart]) -> Batch:
        device = self._fabric.device
        clips = torch.from_numpy(self._examples.pair_clip[np.array(pairs)]).to(device)
        audio, text = self._tables
        return Batch(
            clip=clips,
            parts=parts,
            audio=None if audio is None else audio[clips],
            text=None if text is None else text[torch.tensor(pairs, device=device)],
            cached=self._config.grad_cache > 0,
        )
