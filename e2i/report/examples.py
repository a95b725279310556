"""Single captions: which ones a report shows, and what they found.

Conventions: N captions and C clips of one evaluation, in its order. An evaluation keeps ranks and
no projections, so the clips and the chosen captions are projected once more. At most one caption
a clip is shown on either side: five captions of one odd clip say less than five clips.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e2i.cache.embeddings import CachedEmbeddings
from e2i.device import resolve_device
from e2i.errors import CacheError
from e2i.heads.checkpoint import Checkpoint
from e2i.retrieval.evaluation import MEDIAN_RANK
from e2i.retrieval.similarity import CosineSimilarity
from e2i.training.evaluate import Evaluation

_BEST_LOOKED_AT = 512
_PROJECT_ROWS = 1024
_BLOCK_CELLS = 2**22


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the clips and captions of an evaluation stand in its cache.

    Attributes:
        clips: int64 (C,).
        captions: int64 (N,).
    """

    clips: NDArray[np.int64]
    captions: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Neighbors:
    """What one caption found.

    Attributes:
        clips: the closest clips, the closest first; of equal ones the first of the split.
        scores: the cosine of each.
        right: the clip that the caption describes.
        right_score: the cosine of that one.
    """

    clips: tuple[int, ...]
    scores: tuple[float, ...]
    right: int
    right_score: float


def rows_of(evaluation: Evaluation, cache: CachedEmbeddings) -> Rows:
    """The rows of a cache that were scored.

    Raises:
        CacheError: the evaluation is one of another cache.
    """
    clip_rows = {clip_id: row for row, clip_id in enumerate(cache.clip_ids)}
    caption_rows = {caption_id: row for row, caption_id in enumerate(cache.caption_ids)}
    for kind, ids, rows in (
        ("clip", evaluation.clip_ids, clip_rows),
        ("caption", evaluation.caption_ids, caption_rows),
    ):
        stranger = next((item for item in ids if item not in rows), None)
        if stranger is not None:
            raise CacheError(
                f"the scores are of another cache: got {kind} {stranger!r}, expected one of "
                f"{cache.url}. Give the cache that was evaluated."
            )
    return Rows(
        clips=np.array([clip_rows[item] for item in evaluation.clip_ids], dtype=np.int64),
        captions=np.array([caption_rows[item] for item in evaluation.caption_ids], dtype=np.int64),
    )


class ExampleFinder:
    """Picks captions of one evaluation, and finds again what they found.

    Attributes:
        clip_rows: int64 (C,), where the clips stand in the cache.
        caption_rows: int64 (N,), likewise.
        ranks: float64 (N,), the rank of each caption's clip.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | None,
        cache: CachedEmbeddings,
        evaluation: Evaluation,
        device: str = "auto",
    ) -> None:
        """Take the C clips as they were scored; captions are projected when they are asked for.

        Args:
            checkpoint: the heads that were scored; None for the embeddings as they are.
            cache: the cache that was scored.
            evaluation: of this checkpoint on this cache.
            device: a device's name, or `auto`.

        Raises:
            CacheError: the evaluation is one of another cache.
            CheckpointError: the checkpoint does not fit its own configuration.
            ConfigError: no such device.
        """
        self._device = resolve_device(device)
        self._heads = None if checkpoint is None else checkpoint.heads(self._device)
        rows = rows_of(evaluation, cache)
        self.clip_rows, self.caption_rows = rows.clips, rows.captions
        self._text = cache.text
        self._audio = evaluation.audio.to(self._device)
        table = evaluation.retrieval.text_to_audio
        self.ranks = table.values[MEDIAN_RANK]
        self._clip = table.clip

    def choose(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The captions that did best and worst, each list from its extreme on.

        Best: the lowest rank, then the widest margin over all other clips (among the 512 captions
        of lowest rank). Worst: the highest rank, then the order of the split. No caption is in
        both lists.

        Args:
            count: captions wanted in each list.

        Returns:
            Two int64 arrays of indices in [0, N), each up to `count` long.
        """
        low = np.argsort(self.ranks, kind="stable")[:_BEST_LOOKED_AT]
        order = np.lexsort((-self._margins(low), self.ranks[low]))
        best = _one_a_clip(low[order].tolist(), self._clip, count)
        taken = set(best)
        high = np.argsort(-self.ranks, kind="stable").tolist()
        worst = _one_a_clip((q for q in high if q not in taken), self._clip, count)
        return np.array(best, dtype=np.int64), np.array(worst, dtype=np.int64)

    def neighbors(self, queries: NDArray[np.int64], count: int) -> list[Neighbors]:
        """What some captions found.

        Args:
            queries: int64 (q,), indices of captions in [0, N); a few.
            count: clips wanted for each; where there are fewer, all.
        """
        found: list[Neighbors] = []
        for block, right in self._blocks(queries):
            scores, clips = block.sort(dim=1, descending=True, stable=True)
            found += [
                Neighbors(tuple(row_clips), tuple(row_scores), row_right, right_score)
                for row_clips, row_scores, row_right, right_score in zip(
                    clips[:, :count].tolist(),
                    scores[:, :count].tolist(),
                    right[:, 0].tolist(),
                    block.gather(1, right)[:, 0].tolist(),
                    strict=True,
                )
            ]
        return found

    def _margins(self, queries: NDArray[np.int64]) -> NDArray[np.float64]:
        """By how much the right clip's score is above all others', float64 (q,)."""
        found = []
        for block, right in self._blocks(queries):
            others = block.scatter(1, right, -2.0).amax(dim=1)
            found.append((block.gather(1, right)[:, 0] - others).cpu().numpy())
        return np.concatenate(found).astype(np.float64)

    def _blocks(self, queries: NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor]]:
        """Similarities (b, C) of some captions, and the column (b, 1) of each one's clip."""
        if not len(queries):
            return
        text = self._projected(self._text, self.caption_rows[queries])
        right = torch.from_numpy(self._clip[queries][:, None]).to(self._device)
        done = 0
        size = max(1, _BLOCK_CELLS // len(self._audio))
        for block in CosineSimilarity(text, self._audio).text_to_audio(size):
            yield block, right[done : done + len(block)]
            done += len(block)

    @torch.no_grad()
    def _projected(self, embeddings: NDArray[np.float32], rows: NDArray[np.int64]) -> Tensor:
        """Some captions of the cache, through their head, block by block."""
        blocks = []
        for start in range(0, len(rows), _PROJECT_ROWS):
            taken = embeddings[rows[start : start + _PROJECT_ROWS]].astype(np.float32, copy=False)
            block = torch.from_numpy(taken).to(self._device)
            if self._heads is not None:
                block = self._heads.project_text(block)
            blocks.append(block)
        return torch.cat(blocks)


def _one_a_clip(queries: Iterable[int], clip: NDArray[np.int64], count: int) -> list[int]:
    chosen: dict[int, int] = {}
    for query in queries:
        if len(chosen) == count:
            break
        chosen.setdefault(int(clip[query]), int(query))
    return list(chosen.values())
