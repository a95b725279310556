"""Rows into batches for a model: by length, within a budget, halved where memory is short.

Conventions: a row is what a model embeds at once (a caption, a window), named by its index. A
batch costs its longest row's length for each row, since the others are padded to it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

_R = TypeVar("_R")
_log = logging.getLogger(__name__)
_WORDS = ("can't allocate memory", "not enough memory", "out of memory")


def length_batches(
    lengths: Sequence[int], *, budget: int, most_rows: int | None = None
) -> list[list[int]]:
    """Indices of rows in batches, the longest rows first, each row once.

    Args:
        lengths: of the rows, each at least 1.
        budget: most that a batch may cost; a row that costs more is a batch of its own.
        most_rows: most rows in a batch.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batches: list[list[int]] = []
    start = 0
    while start < len(order):
        rows = max(1, budget // lengths[order[start]])
        stop = start + (rows if most_rows is None else min(rows, most_rows))
        batches.append(order[start:stop])
        start = stop
    return batches


def halved_if_too_large(
    rows: Sequence[int], forward: Callable[[Sequence[int]], _R]
) -> Iterator[tuple[Sequence[int], _R]]:
    """Run a batch; where memory does not do, its halves, and theirs.

    Args:
        rows: the batch.
        forward: runs the model on rows.

    Yields:
        Rows and what came of them, until all of the batch are done.

    Raises:
        MemoryError: one row alone does not fit.
    """
    waiting = [list(rows)]
    while waiting:
        batch = waiting.pop()
        try:
            result = forward(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise MemoryError(
                    "one row alone does not fit into memory: got no room for a batch of 1, "
                    "expected some. Free memory, or choose a smaller model."
                ) from error
        else:
            yield batch, result
            continue
        # Out of the handler, so that nothing holds the memory of the failed batch.
        half = len(batch) // 2
        _log.warning("out of memory with a batch of %d: halved", len(batch))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        waiting += [batch[half:], batch[:half]]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short, on whichever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)
