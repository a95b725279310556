"""Scores of encoders and heads on clips that they were not trained on.

Decides: the scores are those of heads on a cache that the encoders would embed now: the same code.
What a frozen encoder makes of a part is computed once.
"""

from __future__ import annotations

from torch import Tensor

from e2i.heads.build import ProjectionHeads
from e2i.retrieval.config import EvaluationConfig
from e2i.retrieval.evaluation import RetrievalScores, evaluate_projections
from e2i.training.finetune.config import FinetuneConfig
from e2i.training.finetune.embed import Embedder
from e2i.training.finetune.encoders import CaptionReader, EncoderPair
from e2i.training.finetune.examples import CaptionTokens, Examples
from e2i.training.pairs import Pairs, PairTensors
from e2i.training.project import project
from e2i.training.selection import Validation

_PROJECT_ROWS = 1024


class Scorer:
    """Scores one part, as often as asked.

    Attributes:
        notes: what validation did other than asked, in sentences.

    Args:
        embedder: embeds it.
        encoders: which sides are frozen.
        examples: of the part.
        reader: of its captions.
        config: of the training.
    """

    def __init__(
        self,
        embedder: Embedder,
        encoders: EncoderPair,
        examples: Examples,
        reader: CaptionReader,
        config: FinetuneConfig,
    ) -> None:
        self._embedder, self._encoders, self._config = embedder, encoders, config
        self._examples = examples
        self._tokens = CaptionTokens(reader, examples.captions)
        self.notes: tuple[str, ...] = ()
        self._audio: Tensor | None = None
        self._text: Tensor | None = None

    def _tables(self) -> tuple[Tensor, Tensor]:
        """Embeddings of clips (C, D) and captions (N, D), on the device."""
        audio, text = self._audio, self._text
        if audio is None:
            audio = self._embedder.audio(self._examples)
        if text is None:
            text = self._embedder.text(self._tokens)
        self._audio = audio if self._encoders.audio_frozen else None
        self._text = text if self._encoders.text_frozen else None
        return audio, text

    def validation(self, heads: ProjectionHeads) -> dict[str, float]:
        """All retrieval metrics and `val_loss`, by name.

        Raises:
            ConfigError: the selection metric says nothing on so few clips.
        """
        validation = Validation(self._tensors(), self._config.selection())
        self.notes = validation.notes
        return validation.scores(heads)

    def test(self, heads: ProjectionHeads, evaluation: EvaluationConfig) -> RetrievalScores:
        """Scores with intervals and chance."""
        pairs = self._tensors()
        audio, text = project(heads, pairs.audio, pairs.text, _PROJECT_ROWS)
        return evaluate_projections(text, audio, self._examples.pair_clip, evaluation)

    def _tensors(self) -> PairTensors:
        """The part as heads are scored on it."""
        audio, text = self._tables()
        pairs = Pairs(
            keys=self._examples.keys,
            audio=audio.cpu().numpy(),
            text=text.cpu().numpy(),
            pair_clip=self._examples.pair_clip,
        )
        return pairs.to(self._embedder.device, self._config.heads())


def frozen_tables(
    embedder: Embedder, encoders: EncoderPair, examples: Examples, tokens: CaptionTokens
) -> tuple[Tensor | None, Tensor | None]:
    """Embeddings of the training clips and captions, of the sides that are frozen."""
    audio = embedder.audio(examples) if encoders.audio_frozen else None
    text = embedder.text(tokens) if encoders.text_frozen else None
    return audio, text
