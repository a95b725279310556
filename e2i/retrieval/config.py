"""How retrieval is evaluated: what may be chosen, none of which moves a score's meaning."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from e2i.configuration import Configuration


class EvaluationConfig(Configuration):
    """Options of an evaluation: memory, and the resamples behind the 95 % intervals."""

    sim_batch_size: int = Field(
        default=512,
        ge=1,
        description="Queries whose similarity to all candidates is held at once. Bounds memory.",
    )
    bootstrap_resamples: int = Field(
        default=10_000,
        ge=0,
        le=1_000_000,
        description="Resamples of the clips behind the 95 % intervals; 0 leaves the intervals out.",
    )
    bootstrap_seed: int = Field(
        default=0,
        ge=0,
        description="Seed of the resamples: the same scores and seed give the same intervals.",
    )
    relevance: str = Field(
        default="",
        description="CSV file or URL that says which clips answer a caption, in the form of "
        "DCASE's metadata_eval.csv (columns query, audio_filenames): adds "
        "text_to_audio_multi_mAP@10 and @16.",
    )


class RankingConfig(Configuration):
    """What is ranked, and by what, beyond one checkpoint on the clips of one cache."""

    ensemble: tuple[str, ...] = Field(
        default=(),
        description="Two or more checkpoints whose similarities are added up, in place of "
        "--checkpoint.",
    )
    qb_norm: bool = Field(
        default=False,
        description="Correct text to audio for clips that every caption finds, with training "
        "captions as the bank (arXiv 2112.12777).",
    )
    qb_norm_cache: str = Field(
        default="",
        description="Cache whose captions are the bank of --qb-norm; default: the cache that was "
        "trained on, beside --cache-dir.",
    )
    distractors: str = Field(
        default="",
        description="Cache whose clips and captions are candidates too, and never right.",
    )

    @model_validator(mode="after")
    def _need_what_they_change(self) -> Self:
        if len(self.ensemble) == 1 or len(set(self.ensemble)) != len(self.ensemble):
            message = (
                f"an ensemble needs several checkpoints: got {len(self.ensemble)}, of which "
                f"{len(set(self.ensemble))} differ, expected at least 2, each once. Give one "
                "checkpoint as --checkpoint."
            )
            raise ValueError(message)
        if self.qb_norm_cache and not self.qb_norm:
            message = (
                f"a bank without its correction: got qb_norm_cache {self.qb_norm_cache!r} without "
                "qb_norm, expected both. Give --qb-norm too."
            )
            raise ValueError(message)
        return self


class ScoreFilesConfig(Configuration):
    """Where an evaluation writes what it found."""

    reports_dir: str = Field(
        default="reports",
        min_length=1,
        description="Folder or URL of the scores: <run name>.json, and the ranks of each query as "
        "<run name>/*.parquet, for `e2i compare`.",
    )
    predictions: str = Field(
        default="",
        description="CSV file or URL for the similarities in the form of a DCASE submission: one "
        "row a caption, one column a clip.",
    )
    embeddings_out: str = Field(
        default="",
        description="Parquet file or URL for the projections: one row a clip, one row a caption; "
        "the product of two rows is their similarity.",
    )


class ComparisonConfig(Configuration):
    """How two evaluations are compared."""

    resamples: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="Resamples of the clips behind the 95 % intervals of the differences.",
    )
    flips: int = Field(
        default=10_000,
        ge=99,
        le=1_000_000,
        description="Random swaps B behind each p = (1 + b) / (1 + B).",
    )
    seed: int = Field(default=0, ge=0, description="Of the resamples and swaps.")
