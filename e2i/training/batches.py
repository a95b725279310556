"""Which pairs stand in which batch.

Decides: an epoch passes each pair exactly once, and a batch holds a clip at most once, so every
other cell of a batch's similarity matrix is a negative. Batches of an epoch differ in size by one
at most, so no epoch ends on a batch too small to learn from. Where batches have to be full, those
of an epoch are, and the pairs that are left over, other ones each time, wait for another epoch.

How: the captions of a clip, in random order, go to different rounds, clips in random order; with
equally many captions a clip, each round holds every clip once. Each round is shuffled and the
rounds are strung together and cut. Where a batch reaches over the end of a round, clips that it
holds already are kept out of its second half. Everything is index arithmetic on tensors.

Conventions: N pairs, C clips; `pair_clip` is int64 (N,), the clip of each pair. Plans are drawn on
the CPU, so that a seed gives the same batches on every device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class EpochPlan:
    """The batches of one epoch.

    Attributes:
        order: int64 (N,), a permutation of the pairs, or of those that fill a batch.
        sizes: length of each batch; they cut `order` from left to right.
    """

    order: Tensor
    sizes: tuple[int, ...]

    def to(self, device: torch.device) -> EpochPlan:
        """The same plan with its indices on a device."""
        return EpochPlan(self.order.to(device), self.sizes)

    def __iter__(self) -> Iterator[Tensor]:
        """The pair indices of each batch."""
        return iter(torch.split(self.order, list(self.sizes)))


class DistinctClipBatches:
    """Plans epochs in which no batch holds a clip twice."""

    def __init__(self, pair_clip: Tensor, batch_size: int, *, only_full: bool = False) -> None:
        """Take the pairs.

        Args:
            pair_clip: int64 (N,) on the CPU, indices in [0, C).
            batch_size: pairs in a batch, at most.
            only_full: leave out what does not fill a batch; for a `batch_size` that `fits`.
        """
        self._pair_clip = pair_clip
        self._batch_size = batch_size
        self._only_full = only_full
        captions_per_clip = torch.bincount(pair_clip)
        self._num_clips = int(captions_per_clip.numel())
        self._num_rounds = int(captions_per_clip.max())
        pairs = int(pair_clip.numel())
        # A round holds ⌊N/R⌋ or ⌈N/R⌉ pairs. Only where the shorter ones fill a batch can batches
        # reach over the end of a round; else each round is a batch.
        self._rounds_are_batches = pairs // self._num_rounds < batch_size
        self._num_batches = (
            self._num_rounds if self._rounds_are_batches else -(-pairs // batch_size)
        )

    @property
    def fits(self) -> int:
        """Pairs that a batch can hold: the size asked for, or less where clips do not suffice.

        Batches of the size asked for may still come out somewhat smaller, where all are evened.
        Where only full ones count, this is what every batch can hold.
        """
        if not self._rounds_are_batches:
            return self._batch_size
        pairs = int(self._pair_clip.numel())
        return pairs // self._num_rounds if self._only_full else -(-pairs // self._num_rounds)

    def epoch(self, generator: torch.Generator) -> EpochPlan:
        """Draw one epoch; `generator` is on the CPU."""
        rounds = self._rounds(generator)
        if self._rounds_are_batches:
            picks = torch.randperm(len(rounds), generator=generator).tolist()
            rounds = [rounds[pick] for pick in picks]
            return EpochPlan(torch.cat(rounds), tuple(len(one) for one in rounds))
        pairs = int(self._pair_clip.numel())
        if self._only_full:
            starts = _full_cuts(pairs, self._batch_size)
            return _full_batches(self._strung_together(rounds, starts), self._batch_size)
        starts = _even_cuts(pairs, self._num_batches)
        return EpochPlan(self._strung_together(rounds, starts), _sizes(starts))

    def _rounds(self, generator: torch.Generator) -> list[Tensor]:
        """Shuffled rounds of pairs, none with a clip twice, lengths within one of each other."""
        shuffled = torch.randperm(int(self._pair_clip.numel()), generator=generator)
        clip_rank = torch.randperm(self._num_clips, generator=generator)
        by_clip = torch.argsort(clip_rank[self._pair_clip[shuffled]], stable=True)
        grouped = shuffled[by_clip]
        # A clip's captions now stand side by side, at most R of them: dealt out in turn, they
        # land in different rounds.
        rounds = []
        for first in range(self._num_rounds):
            one = grouped[first :: self._num_rounds]
            rounds.append(one[torch.randperm(len(one), generator=generator)])
        return rounds

    def _strung_together(self, rounds: list[Tensor], starts: list[int]) -> Tensor:
        """All rounds in one row, each reordered so that the batch across its start stays valid."""
        done = rounds[0]
        batch = 0
        parts = [done]
        end = len(done)
        for following in rounds[1:]:
            while starts[batch + 1] <= end:
                batch += 1
            open_pairs = parts[-1][len(parts[-1]) - (end - starts[batch]) :]
            parts.append(self._without_clash(open_pairs, following, starts[batch + 1] - end))
            end += len(following)
        return torch.cat(parts)

    def _without_clash(self, open_pairs: Tensor, following: Tensor, needed: int) -> Tensor:
        """`following` with `needed` pairs up front whose clips are not among `open_pairs`."""
        if len(open_pairs) == 0:
            return following
        taken = torch.zeros(self._num_clips, dtype=torch.bool)
        taken[self._pair_clip[open_pairs]] = True
        free = ~taken[self._pair_clip[following]]
        front = free & (free.cumsum(0) <= needed)
        return torch.cat([following[front], following[~front]])


class RandomPairBatches:
    """Plans epochs of pairs in plain random order: a batch may hold a clip more than once."""

    def __init__(self, pair_clip: Tensor, batch_size: int, *, only_full: bool = False) -> None:
        """Take the pairs, as `DistinctClipBatches` does."""
        self._pairs = int(pair_clip.numel())
        self._batch_size = batch_size
        self._only_full = only_full
        self._num_batches = -(-self._pairs // batch_size)

    @property
    def fits(self) -> int:
        """Pairs that a batch can hold, as in `DistinctClipBatches`."""
        return min(self._pairs, self._batch_size)

    def epoch(self, generator: torch.Generator) -> EpochPlan:
        """Draw one epoch; `generator` is on the CPU."""
        order = torch.randperm(self._pairs, generator=generator)
        if self._only_full:
            return _full_batches(order, self._batch_size)
        return EpochPlan(order, _sizes(_even_cuts(self._pairs, self._num_batches)))


def _even_cuts(pairs: int, batches: int) -> list[int]:
    """Where batches start, and the end: lengths within one of each other."""
    return [index * pairs // batches for index in range(batches + 1)]


def _full_cuts(pairs: int, batch_size: int) -> list[int]:
    """Where batches start that are full but for the last, and the end."""
    return [*range(0, pairs, batch_size), pairs]


def _full_batches(order: Tensor, batch_size: int) -> EpochPlan:
    """The full batches at the beginning of a row of pairs."""
    full = len(order) // batch_size
    return EpochPlan(order[: full * batch_size], (batch_size,) * full)


def _sizes(starts: list[int]) -> tuple[int, ...]:
    return tuple(end - start for start, end in pairwise(starts))
