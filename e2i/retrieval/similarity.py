"""Cosine similarity of projections, in row blocks, exact enough that equal candidates tie.

Conventions: text (N, P) and audio (C, P) projections; a block is (q, candidates) float32, its rows
consecutive queries. A zero projection is equally far from everything: its scores are 0.

Two things would quietly turn ties into an order, or an order into ties, and are kept out:
- a matrix product may add up its last columns in another sequence than the others, so that equal
  candidates differ in the last bit. The product is therefore taken over distinct rows, and equal
  rows share one result;
- TF32, bfloat16 products and autocast, which a caller may have switched on for training.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from e2i.errors import RetrievalInputError

_CELLS_KEPT = 2**24
"""Up to this many scores (64 MiB) one product serves both directions; above, blocks come and go."""


def unit_rows(projections: Tensor, subject: str) -> Tensor:
    """L2-normalized float32 rows; a zero row stays zero.

    Args:
        projections: (B, P), any real dtype and length; very long and very short rows are safe.
        subject: what a row stands for, for messages: "caption" or "clip".

    Raises:
        RetrievalInputError: not a matrix with at least one row and column, or a row is not finite.
    """
    if projections.ndim != 2 or 0 in projections.shape:
        raise RetrievalInputError(
            f"the projections of the {subject}s are no matrix: got shape "
            f"{tuple(projections.shape)}, expected (rows, columns) with at least one of each. "
            "Hand over one row a " + subject + "."
        )
    rows = projections.detach().to(torch.float32)
    largest = rows.abs().amax(dim=1, keepdim=True)
    bad = (~largest.isfinite()).flatten().nonzero()
    if len(bad):
        index = int(bad[0])
        value = rows[index][~rows[index].isfinite()][0].item()
        raise RetrievalInputError(
            f"the projection of {subject} {index} is not finite: got {value}, expected finite "
            f"float32 numbers. Look for NaN in its embedding, or a training that diverged."
        )
    # Scaled by its largest entry first, so that no square overflows or vanishes.
    rows = rows / largest.masked_fill(largest == 0, 1.0)
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    # Adding 0 makes -0 to 0: rows that compare equal then have equal bytes.
    return rows.div_(norms.masked_fill_(norms == 0, 1.0)).add_(0.0)


class CosineSimilarity:
    """Scores of all captions against all clips of a split, served in blocks of either direction."""

    def __init__(self, text: Tensor, audio: Tensor) -> None:
        """Normalize, and find the rows that are equal.

        Args:
            text: (N, P), one row a caption.
            audio: (C, P), one row a clip, on the device of `text`.

        Raises:
            RetrievalInputError: not matrices of one width, or a row is not finite.
        """
        self._text, self._text_copies = distinct_rows(unit_rows(text, "caption"))
        self._audio, self._audio_copies = distinct_rows(unit_rows(audio, "clip"))
        if text.shape[1] != audio.shape[1]:
            raise RetrievalInputError(
                f"text and audio projections differ in width: got {text.shape[1]} and "
                f"{audio.shape[1]}, expected one joint space. Use the two heads of one checkpoint."
            )
        self._kept: Tensor | None = None
        if len(text) * len(audio) <= _CELLS_KEPT:
            with _full_precision(self._text.device):
                scores = self._text @ self._audio.T
            self._kept = _spread(_spread(scores, self._text_copies, 0), self._audio_copies, 1)

    def text_to_audio(self, queries: int) -> Iterator[Tensor]:
        """Blocks (q, C) of `queries` captions each, in the order of the captions."""
        if self._kept is not None:
            return _rows(self._kept, queries)
        return _products(self._text, self._text_copies, self._audio, self._audio_copies, queries)

    def audio_to_text(self, queries: int) -> Iterator[Tensor]:
        """Blocks (q, N) of `queries` clips each, in the order of the clips."""
        if self._kept is not None:
            return (columns.contiguous() for columns in _rows(self._kept.T, queries))
        return _products(self._audio, self._audio_copies, self._text, self._text_copies, queries)


def _rows(scores: Tensor, size: int) -> Iterator[Tensor]:
    return (scores[start : start + size] for start in range(0, len(scores), size))


def _products(
    queries: Tensor,
    query_copies: Tensor | None,
    candidates: Tensor,
    candidate_copies: Tensor | None,
    size: int,
) -> Iterator[Tensor]:
    total = len(queries) if query_copies is None else len(query_copies)
    for start in range(0, total, size):
        if query_copies is None:
            rows = queries[start : start + size]
        else:
            rows = queries[query_copies[start : start + size]]
        with _full_precision(rows.device):
            block = rows @ candidates.T
        yield _spread(block, candidate_copies, 1)


def _spread(scores: Tensor, copies: Tensor | None, dim: int) -> Tensor:
    """From distinct rows (or columns) back to all of them."""
    return scores if copies is None else scores.index_select(dim, copies)


def distinct_rows(rows: Tensor) -> tuple[Tensor, Tensor | None]:
    """The distinct rows, by their bytes, so that equal ones can share one result.

    Args:
        rows: (B, ...), any dtype that numpy has.

    Returns:
        The distinct rows, and int64 (B,): for each row the index of its own there; None, and the
        rows as they are, where all are distinct.
    """
    array = np.ascontiguousarray(rows.flatten(1).cpu().numpy())
    as_bytes = array.view(np.dtype((np.void, array.itemsize * array.shape[1]))).ravel()
    _, first, copies = np.unique(as_bytes, return_index=True, return_inverse=True)
    if len(first) == len(array):
        return rows, None
    return (
        rows[torch.from_numpy(first).to(rows.device)],
        torch.from_numpy(copies.astype(np.int64)).to(rows.device),
    )


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Products in plain float32, whatever the caller allows; its settings are put back."""
    # Both are there at run time; torch's stubs do not know the second.
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            # "none" follows the global setting: kept where that is what the caller had.
            backend.fp32_precision = "none"
            if backend.fp32_precision != precision:
                backend.fp32_precision = precision
