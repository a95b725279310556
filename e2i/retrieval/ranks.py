"""Where the positives of each query stand, ties counted and not broken.

Conventions: similarity (Q, N), higher is closer; a query's candidates are the N columns; rank 1 is
best. A positive's score is read from the same similarity as all others, so that rounding cannot
put it before or behind itself. Candidates of equal score form a tie group; its order is left open
here, and `metrics` takes the expectation over all its orders.

Source: McSherry and Najork, "Computing information retrieval performance measures efficiently in
the presence of tied scores", ECIR 2008.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e2i.errors import RetrievalInputError

_SORT_FROM = 24
"""From this many positives a query on, a row is sorted and not compared with each of them."""

_TILE_CELLS = 2**19


@dataclass(frozen=True, slots=True)
class PositiveRanks:
    """The tie group of each positive: Q queries, up to M positives each, the best first.

    Where a query has fewer than M positives the row is filled up with entries behind all
    candidates: `above` N, `positives_above` all of them, a group of one.

    Attributes:
        num_candidates: N.
        num_positives: int64 (Q,), at least 1.
        above: int64 (Q, M), candidates with a strictly higher score.
        tied: int64 (Q, M), candidates with this very score, the positive itself included.
        positives_above: int64 (Q, M), positives among those above.
        positives_tied: int64 (Q, M), positives among those tied, itself included.
    """

    num_candidates: int
    num_positives: NDArray[np.int64]
    above: NDArray[np.int64]
    tied: NDArray[np.int64]
    positives_above: NDArray[np.int64]
    positives_tied: NDArray[np.int64]

    @property
    def is_entry(self) -> NDArray[np.bool_]:
        """Bool (Q, M): False where the row is only filled up."""
        return np.arange(self.above.shape[1]) < self.num_positives[:, None]

    @classmethod
    def of_constant_scorer(
        cls, num_candidates: int, num_positives: NDArray[np.int64]
    ) -> PositiveRanks:
        """All candidates of every query tied, which is what a random order amounts to: chance.

        Args:
            num_candidates: N.
            num_positives: int64 (Q,), in [1, N].
        """
        shape = (len(num_positives), int(num_positives.max()))
        counts = np.broadcast_to(num_positives[:, None], shape)
        entry = np.arange(shape[1]) < counts
        return cls(
            num_candidates=num_candidates,
            num_positives=num_positives,
            above=np.where(entry, 0, num_candidates),
            tied=np.where(entry, num_candidates, 1),
            positives_above=np.where(entry, 0, counts),
            positives_tied=np.where(entry, counts, 1),
        )


def positive_columns(positives: Tensor) -> Tensor:
    """The positives of each query as column numbers.

    Args:
        positives: (Q, N) bool, at least one True in each row.

    Returns:
        (Q, M) int64, ascending, -1 where a query has fewer than M.

    Raises:
        RetrievalInputError: not a bool matrix, no query or candidate, or a query has no positive.
    """
    if positives.dtype != torch.bool:
        raise RetrievalInputError(
            f"positives are no mask: got {positives.dtype}, expected torch.bool. "
            "Compare clip indices to make one."
        )
    if positives.ndim != 2 or 0 in positives.shape:
        raise RetrievalInputError(
            f"positives are no task: got shape {tuple(positives.shape)}, expected (queries, "
            "candidates) with at least one of each. Check that the split is not empty."
        )
    counts = positives.sum(dim=1)
    query, column = positives.nonzero(as_tuple=True)
    starts = counts.cumsum(0) - counts
    slot = torch.arange(len(query), device=positives.device) - starts[query]
    columns = column.new_full((len(positives), int(counts.max())), -1)
    columns[query, slot] = column
    _require_positives(columns)
    return columns


def rank_positives(blocks: Iterable[Tensor], columns: Tensor) -> PositiveRanks:
    """Count, for each positive, the candidates above it and tied with it.

    Memory is that of one block and 32 bytes a positive; blocks may be uneven.

    Args:
        blocks: similarity (q, N) float, rows consecutive queries, Q rows together.
        columns: (Q, M) int64, the positives of each query, -1 where it has fewer than M.

    Raises:
        RetrievalInputError: a score is NaN (the query is named), a query has no positive, a
            column is out of range, or the rows of the blocks are not Q.
    """
    _require_positives(columns)
    done, width = 0, 0
    # Filled in place: small results kept between large blocks would leave holes in the heap.
    counts = np.empty((4, *columns.shape), dtype=np.int64)
    for block in blocks:
        _require_block(block, columns[done : done + len(block)], done, width)
        width = block.shape[1]
        here = slice(done, done + len(block))
        parts = _count(block, columns[here].to(block.device), done)
        for count, part in zip(counts, parts, strict=True):
            count[here] = part.cpu().numpy()
        done += len(block)
    if done != len(columns):
        raise RetrievalInputError(
            f"similarity and positives differ in queries: got {done} and {len(columns)}, "
            "expected one row each. Check that both are in one order."
        )
    above, tied, positives_above, positives_tied = counts
    return PositiveRanks(
        num_candidates=width,
        num_positives=(columns >= 0).sum(dim=1).cpu().numpy(),
        above=above,
        tied=tied,
        positives_above=positives_above,
        positives_tied=positives_tied,
    )


def _tiles(block: Tensor) -> Iterator[Tensor]:
    """Rows that stay in the processor's cache while they are read several times."""
    size = max(1, _TILE_CELLS // block.shape[1])
    return (block[start : start + size] for start in range(0, len(block), size))


def _count(
    block: Tensor, columns: Tensor, first_query: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four counts of `PositiveRanks` for one block, int64 (q, M)."""
    num_candidates, entry = block.shape[1], columns >= 0
    scores = block.gather(1, columns.clamp(min=0)).masked_fill(~entry, -torch.inf)
    # Fillers last: -inf ties at worst with positives of -inf, and the slots are alike.
    scores = scores.sort(dim=1, descending=True).values.contiguous()
    entry = entry.sort(dim=1, descending=True).values
    above = torch.empty(scores.shape, dtype=torch.int32, device=block.device)
    tied = torch.empty_like(above)
    done = 0
    # All that is small is done once a block, and a tile only what reads the scores.
    for tile in _tiles(block):
        _require_numbers(tile, first_query + done)
        here = slice(done, done + len(tile))
        _count_tile(tile.contiguous(), scores[here], above[here], tied[here])
        done += len(tile)
    first, behind = _runs(scores, entry)
    return (
        above.long().masked_fill(~entry, num_candidates),
        tied.long().masked_fill(~entry, 1),
        torch.where(entry, first, entry.sum(dim=1, keepdim=True)),
        (behind - first).masked_fill(~entry, 1),
    )


def _count_tile(tile: Tensor, scores: Tensor, above: Tensor, tied: Tensor) -> None:
    """Candidates above each of the scores (q, M) and tied with it, into `above` and `tied`."""
    if scores.shape[1] < _SORT_FROM:
        for slot in range(scores.shape[1]):
            score = scores[:, slot : slot + 1]
            above[:, slot] = _true_in_row(tile > score)
            tied[:, slot] = _true_in_row(tile == score)
        return
    ascending = tile.sort(dim=1).values
    at_or_below = torch.searchsorted(ascending, scores, right=True)
    above.copy_(tile.shape[1] - at_or_below)
    tied.copy_(at_or_below - torch.searchsorted(ascending, scores))


def _true_in_row(mask: Tensor) -> Tensor:
    """How many of each row are true; as bytes they are added up twice as fast as as truths."""
    return mask.view(torch.uint8).sum(1, dtype=torch.int32)


def _runs(scores: Tensor, entry: Tensor) -> tuple[Tensor, Tensor]:
    """For each of the sorted scores (q, M): where its run of equals begins, and where it ends."""
    width = scores.shape[1]
    slot = torch.arange(width, device=scores.device).expand(scores.shape)
    differs = (scores[:, 1:] != scores[:, :-1]) | (entry[:, 1:] != entry[:, :-1])
    edge = torch.ones_like(entry[:, :1])
    first = slot.masked_fill(~torch.cat([edge, differs], dim=1), 0).cummax(dim=1).values
    ends = (slot + 1).masked_fill(~torch.cat([differs, edge], dim=1), width)
    return first, ends.flip(1).cummin(dim=1).values.flip(1)


def _require_positives(columns: Tensor) -> None:
    if columns.ndim != 2 or 0 in columns.shape:
        raise RetrievalInputError(
            f"no query has a positive: got positives of shape {tuple(columns.shape)}, expected at "
            "least one query with one positive. Check that the split is not empty."
        )
    without = (columns < 0).all(dim=1).nonzero()
    if len(without):
        raise RetrievalInputError(
            f"query {int(without[0])} has no positive: got 0, expected at least 1. "
            "Leave the query out."
        )


def _require_block(block: Tensor, columns: Tensor, first_query: int, width: int) -> None:
    """Refuse a block that is not the next rows of one similarity; `width` 0: none came yet."""
    if block.ndim != 2 or 0 in block.shape or not block.is_floating_point():
        raise RetrievalInputError(
            f"similarity is no matrix of scores: got {block.dtype} of shape {tuple(block.shape)}, "
            "expected floats (queries, candidates). Hand over one row a query."
        )
    if width not in (0, block.shape[1]):
        raise RetrievalInputError(
            f"blocks of similarity differ in candidates: got {block.shape[1]} from query "
            f"{first_query} on, expected {width} as before. Score all queries against the same."
        )
    if len(columns) != len(block):
        raise RetrievalInputError(
            f"similarity and positives differ in queries: got at least {first_query + len(block)} "
            f"and {first_query + len(columns)}, expected one row each. "
            "Check that both are in one order."
        )
    if int(columns.max()) >= block.shape[1]:
        raise RetrievalInputError(
            f"a positive is no candidate: got column {int(columns.max())}, expected less than "
            f"{block.shape[1]}. Check that similarity and positives are of one task."
        )


def _require_numbers(scores: Tensor, first_query: int) -> None:
    # The largest of a row is NaN if any of it is.
    undefined = scores.amax(dim=1).isnan().nonzero()
    if len(undefined):
        raise RetrievalInputError(
            f"a score of query {first_query + int(undefined[0])} is NaN: got nan, expected a "
            "number. Look for NaN in its embedding, or a training that diverged."
        )
