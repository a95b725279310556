"""Scores as they are stored: each number with the data and the weights that made it.

Beside the scores of an evaluation lie what they are means of: one Parquet table a direction, one
row a query, so that two checkpoints can be compared query by query.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

import e2i
from e2i.cache.embeddings import CachedEmbeddings
from e2i.heads.checkpoint import CheckpointRecord
from e2i.report.score_records import RECORD_KIND
from e2i.retrieval.config import EvaluationConfig
from e2i.retrieval.evaluation import Score
from e2i.storage import Folder
from e2i.store_layout import public_url
from e2i.training.evaluate import Evaluation

Metrics = dict[str, dict[str, float | None]]
"""By key: value, low, high (95 % interval) and chance."""


def metrics_of(evaluation: Evaluation) -> Metrics:
    """The scores of an evaluation as plain numbers."""
    return score_values_of(evaluation.retrieval.scores)


def score_values_of(scores: Mapping[str, Score]) -> Metrics:
    """Scores as plain numbers."""
    return {name: asdict(score) for name, score in scores.items()}


@dataclass(frozen=True, slots=True)
class ScoredFile:
    """A checkpoint as it lies somewhere.

    Attributes:
        url: its location, without credentials.
        sha256: of its bytes, so that it is known again wherever it lies.
    """

    url: str
    sha256: str


@dataclass(frozen=True, slots=True)
class ScoreOrigin:
    """What made the scores, beside the cache.

    Attributes:
        checkpoints: those that were scored, the ensemble's in its order; none for embeddings as
            they are.
        record: of the first checkpoint, as it says itself.
        config: how they were evaluated.
        bank: location of the cache that corrected for hubs; empty where none did.
        distractors: location of the cache of further candidates; empty where there were none.
        run: the flow run, its code and its logs, where one made the scores.
    """

    checkpoints: tuple[ScoredFile, ...]
    record: CheckpointRecord | None
    config: EvaluationConfig
    bank: str = ""
    distractors: str = ""
    run: Mapping[str, object] = field(default_factory=dict)


def score_record(
    evaluation: Evaluation, cache: CachedEmbeddings, origin: ScoreOrigin
) -> dict[str, object]:
    """Scores with their provenance, ready for JSON."""
    relevance = origin.config.relevance
    config = origin.config.model_copy(
        update={"relevance": public_url(relevance) if relevance else ""}
    )
    return {
        "kind": RECORD_KIND,
        "e2i_version": e2i.__version__,
        "metrics": metrics_of(evaluation),
        "notes": list(evaluation.notes),
        "seen": evaluation.seen,
        "part": evaluation.part,
        "dataset": cache.dataset,
        "split": cache.split,
        "num_clips": evaluation.retrieval.num_clips,
        "num_captions": evaluation.retrieval.num_captions,
        "captions_sha256": captions_sha256(evaluation),
        "distractors_sha256": _sha256(evaluation.distractor_ids),
        "cache": cache.url,
        "distractors": origin.distractors,
        "qb_norm_cache": origin.bank,
        "audio_fingerprint": cache.audio_fingerprint,
        "text_fingerprint": cache.text_fingerprint,
        "checkpoint": origin.checkpoints[0].url if origin.checkpoints else "none",
        "checkpoints": [asdict(file) for file in origin.checkpoints],
        "checkpoint_record": origin.record.model_dump(mode="json") if origin.record else None,
        "evaluation": config.model_dump(mode="json"),
        "run": dict(origin.run),
    }


def captions_sha256(evaluation: Evaluation) -> str:
    """A digest of the captions scored, with their ids and words, in whatever order they come."""
    return _sha256(sorted(zip(evaluation.caption_ids, evaluation.captions, strict=True)))


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=True).encode()).hexdigest()


def write_query_tables(folder: Folder, name: str, evaluation: Evaluation) -> dict[str, str]:
    """Store ranks and values of each query: `<name>/<direction>.parquet`; the files by direction.

    Columns: those of `QueryTable.columns`, with ids in place of the indices of query and clip
    (`caption_id` of a caption that is searched with, and `clip_id`). The file's own metadata says
    whether the clips were seen (`e2i.seen`: true or false).

    Raises:
        StorageError: the store refused.
    """
    files: dict[str, str] = {}
    for table in evaluation.retrieval.tables:
        columns = table.columns()
        query, clip = columns.pop("query"), columns.pop("clip")
        ids = {"clip_id": [evaluation.clip_ids[index] for index in clip]}
        if table.direction != "audio_to_text":
            ids = {"caption_id": [evaluation.caption_ids[index] for index in query], **ids}
        data = io.BytesIO()
        seen = {"e2i.seen": json.dumps(evaluation.seen)}
        rows = pa.table({**ids, **columns}).replace_schema_metadata(seen)
        pq.write_table(rows, data, compression="zstd")
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
