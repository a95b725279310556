"""Scores as they are stored: each number with the data and the weights that made it.

Beside the scores of an evaluation lie what they are means of: one Parquet table a direction, one
row a query, so that two checkpoints can be compared query by query.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq

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


def write_query_tables(folder: Folder, name: str, evaluation: Evaluation) -> dict[str, str]:
    """Store ranks and values of each query: `<name>/<direction>.parquet`; the files by direction.

    Columns: those of `QueryTable.columns`, with ids in place of the indices of query and clip
    (`caption_id` of a caption that is searched with, and `clip_id`).

    Raises:
        StorageError: the store refused.
    """
    files: dict[str, str] = {}
    for table in (evaluation.retrieval.text_to_audio, evaluation.retrieval.audio_to_text):
        columns = table.columns()
        query, clip = columns.pop("query"), columns.pop("clip")
        ids = {"clip_id": [evaluation.clip_ids[index] for index in clip]}
        if table.direction == "text_to_audio":
            ids = {"caption_id": [evaluation.caption_ids[index] for index in query], **ids}
        data = io.BytesIO()
        pq.write_table(pa.table({**ids, **columns}), data, compression="zstd")
        files[table.direction] = f"{name}/{table.direction}.parquet"
        folder.write(files[table.direction], data.getvalue())
    return files


def write_score_record(folder: Folder, name: str, record: Mapping[str, object]) -> str:
    """Store a record as JSON; its location.

    Raises:
        StorageError: the store refused.
    """
    folder.write(name, (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())
    return f"{folder.url.rstrip('/')}/{name}"
