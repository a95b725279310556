"""Hubs taken down: clips that many captions find, whatever the caption says.

Decides: dynamic inverted softmax with a bank of training captions. A clip's score is lowered by the
log of how much the bank's captions are drawn to it, for those captions whose closest clip is also
the closest clip of a caption of the bank; other captions keep their scores as they are. Only
text→audio is corrected: there the bank's captions stand for queries to come, while clips of the
bank would be needed for audio→text.

Conventions: β = 20 and one closest clip a caption, as published. The corrected score is
s − (1/β) log Σ_bank exp(β s_bank), the logarithm of the published quotient divided by β, which
orders each query's candidates alike and stays on the scale of s. The published β is for the cosine
of one model: where s is the sum of M cosines, β is 20 / M, so that the correction is that of their
mean, and M equal models rank as one of them does. Of a caption with several closest clips one in
the set is enough. Corrected scores are float64, so that taking a number from a
float32 makes no ties; clips that are equal stay tied.

Source: Bogolin et al., "Cross Modal Retrieval with Querybank Normalisation", CVPR 2022
(arXiv 2112.12777), section 3.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from e2i.errors import RetrievalInputError
from e2i.retrieval.similarity import Similarity

INVERSE_TEMPERATURE = 20.0
"""β of the inverted softmax, for the similarity of one model."""


class HubnessCorrected:
    """The scores of another similarity, text→audio corrected by a bank of captions.

    Attributes:
        num_captions: queries text→audio.
        num_clips: queries audio→text.
    """

    def __init__(
        self, scores: Similarity, bank: Similarity, bank_block: int, *, num_models: int = 1
    ) -> None:
        """Measure how the bank is drawn to the candidates.

        Args:
            scores: to be corrected.
            bank: captions of the bank against the same candidates in the same order.
            bank_block: captions of the bank whose similarities are held at once.
            num_models: M, whose cosines are added up in either similarity.

        Raises:
            RetrievalInputError: the bank holds no caption.
        """
        beta = INVERSE_TEMPERATURE / num_models
        self._scores = scores
        self.num_captions = scores.num_captions
        self.num_clips = scores.num_clips
        total: Tensor | None = None
        hubs: Tensor | None = None
        for block in bank.text_to_audio(bank_block):
            drawn = torch.logsumexp(beta * block.double(), dim=0)
            closest = _closest(block).any(dim=0)
            total = drawn if total is None else torch.logaddexp(total, drawn)
            hubs = closest if hubs is None else hubs | closest
        if total is None or hubs is None:
            raise RetrievalInputError(
                "the bank of captions is empty: got 0, expected at least 1. Give another bank."
            )
        self._lowered_by = total / beta
        self._hubs = hubs

    def text_to_audio(self, queries: int) -> Iterator[Tensor]:
        """Blocks of `queries` captions each, corrected."""
        for block in self._scores.text_to_audio(queries):
            corrected = (_closest(block) & self._hubs).any(dim=1, keepdim=True)
            yield block.double() - torch.where(corrected, self._lowered_by, 0.0)

    def audio_to_text(self, queries: int) -> Iterator[Tensor]:
        """Blocks of `queries` clips each, as they are."""
        return self._scores.audio_to_text(queries)


def _closest(block: Tensor) -> Tensor:
    """Bool, like the block: each row's highest scores."""
    return block == block.amax(dim=1, keepdim=True)
