"""Scores as they are stored: each number with the data and the weights that made it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

import e2i
from e2i.cache.embeddings import CachedEmbeddings
from e2i.heads.checkpoint import Checkpoint
from e2i.retrieval.config import EvaluationConfig
from e2i.storage import Folder
from e2i.training.evaluate import Evaluation

Metrics = dict[str, dict[str, float | None]]
"""By key: value, low, high (95 % interval) and chance."""


def metrics_of(evaluation: Evaluation) -> Metrics:
    """The scores of an evaluation as plain numbers."""
    return {name: asdict(score) for name, score in evaluation.retrieval.scores.items()}


def score_record(
    evaluation: Evaluation,
    cache: CachedEmbeddings,
    checkpoint: Checkpoint | None,
    checkpoint_url: str,
    config: EvaluationConfig,
) -> dict[str, object]:
    """Scores with their provenance, ready for JSON."""
    return {
        "e2i_version": e2i.__version__,
        "metrics": metrics_of(evaluation),
        "notes": list(evaluation.notes),
        "seen": evaluation.seen,
        "part": evaluation.part,
        "dataset": cache.dataset,
        "split": cache.split,
        "num_clips": evaluation.retrieval.num_clips,
        "num_captions": evaluation.retrieval.num_captions,
        "cache": cache.url,
        "audio_fingerprint": cache.audio_fingerprint,
        "text_fingerprint": cache.text_fingerprint,
        "checkpoint": checkpoint_url,
        "checkpoint_record": checkpoint.record.model_dump(mode="json") if checkpoint else None,
        "evaluation": config.model_dump(mode="json"),
    }


def write_score_record(folder: Folder, name: str, record: Mapping[str, object]) -> str:
    """Store a record as JSON; its location.

    Raises:
        StorageError: the store refused.
    """
    folder.write(name, (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())
    return f"{folder.url.rstrip('/')}/{name}"
