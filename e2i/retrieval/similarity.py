"""Cosine similarity of projections, in row blocks, exact enough that equal candidates tie.

Conventions: text (N, P) and audio (C, P) projections; a block is (q, candidates) float32, its rows
consecutive queries. A zero projection is equally far from everything: its scores are 0. Of several
models, whose P may differ, the similarities are added up.

Two things would quietly turn ties into an order, or an order into ties, and are kept out:
- a matrix product may add up its last columns in another sequence than the others, so that equal
  candidates differ in the last bit. The product is therefore taken over distinct rows, and equal
  rows share one result;
- TF32, bfloat16 products and autocast, which a caller may have switched on for training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

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


Projected = Tensor | Sequence[Tensor]
"""Rows (B, P) of one model, or of each of several models the same rows in one order."""


class Similarity(Protocol):
    """Scores of all captions against all clips, served in blocks of either direction."""

    num_captions: int
    num_clips: int

    def text_to_audio(self, queries: int) -> Iterator[Tensor]:
        """Blocks (q, candidates) of `queries` captions each, in the order of the captions."""

    def audio_to_text(self, queries: int) -> Iterator[Tensor]:
        """Blocks (q, candidates) of `queries` clips each, in the order of the clips."""


class CosineSimilarity:
    """Cosines of all captions and all clips of a split, served in blocks of either direction.

    Attributes:
        num_captions: queries text→audio: the first rows of the text.
        num_clips: queries audio→text: the first rows of the audio.
        text: float32 (N, P), a row a caption: unit rows, those of several models side by side, so
            that the product of two rows is their score.
        audio: float32 (C, P), a row a clip, likewise.
    """

    def __init__(
        self,
        text: Projected,
        audio: Projected,
        *,
        num_captions: int | None = None,
        num_clips: int | None = None,
    ) -> None:
        """Normalize, and find the rows that are equal.

        Args:
            text: (N, P), one row a caption; of several models one tensor each.
            audio: (C, P), one row a clip, on the device of `text`; likewise.
            num_captions: captions that are searched with; those behind them are candidates only.
                None: all.
            num_clips: clips that are searched with, likewise.

        Raises:
            RetrievalInputError: not matrices of one width, or a row is not finite.
        """
        self.text, self.audio = _joint_rows(text, audio)
        self.num_captions = len(self.text) if num_captions is None else num_captions
        self.num_clips = len(self.audio) if num_clips is None else num_clips
        self._text, self._text_copies = distinct_rows(self.text)
        self._audio, self._audio_copies = distinct_rows(self.audio)
        self._kept: Tensor | None = None
        if len(self.text) * len(self.audio) <= _CELLS_KEPT:
            with _full_precision(self._text.device):
                scores = self._text @ self._audio.T
            self._kept = _spread(_spread(scores, self._text_copies, 0), self._audio_copies, 1)

    def text_to_audio(self, queries: int) -> Iterator[Tensor]:
        """Blocks (q, C) of `queries` captions each, in the order of the captions."""
        if self._kept is not None:
            return _rows(self._kept[: self.num_captions], queries)
        rows = _Rows(self._text, self._text_copies, self.num_captions)
        return _products(rows, self._audio, self._audio_copies, queries)

    def audio_to_text(self, queries: int) -> Iterator[Tensor]:
        """Blocks (q, N) of `queries` clips each, in the order of the clips."""
        if self._kept is not None:
            columns = self._kept[:, : self.num_clips]
            return (block.contiguous() for block in _rows(columns.T, queries))
        rows = _Rows(self._audio, self._audio_copies, self.num_clips)
        return _products(rows, self._text, self._text_copies, queries)


def _joint_rows(text: Projected, audio: Projected) -> tuple[Tensor, Tensor]:
    """Unit rows of either side, of several models side by side."""
    texts = [text] if isinstance(text, Tensor) else list(text)
    audios = [audio] if isinstance(audio, Tensor) else list(audio)
    rows = [
        (unit_rows(captions, "caption"), unit_rows(clips, "clip"))
        for captions, clips in zip(texts, audios, strict=True)
    ]
    for captions, clips in rows:
        if captions.shape[1] != clips.shape[1]:
            raise RetrievalInputError(
                "text and audio projections differ in width: got "
                f"{captions.shape[1]} and {clips.shape[1]}, expected one joint space. "
                "Use the two heads of one checkpoint."
            )
    if len(rows) == 1:
        return rows[0]
    return torch.cat([t for t, _ in rows], dim=1), torch.cat([a for _, a in rows], dim=1)


class _Rows(NamedTuple):
    """Queries as distinct rows; `copies` says which row each is, None where all are distinct."""

    distinct: Tensor
    copies: Tensor | None
    total: int


def _rows(scores: Tensor, size: int) -> Iterator[Tensor]:
    return (scores[start : start + size] for start in range(0, len(scores), size))


def _products(
    queries: _Rows, candidates: Tensor, candidate_copies: Tensor | None, size: int
) -> Iterator[Tensor]:
    for start in range(0, queries.total, size):
        chosen = slice(start, min(start + size, queries.total))
        if queries.copies is None:
            rows = queries.distinct[chosen]
        else:
            rows = queries.distinct[queries.copies[chosen]]
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
