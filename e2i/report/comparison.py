"""Two stored evaluations against each other: same clips, same captions, query by query.

Decides: what is compared is named by a score record, or by a checkpoint, whose record is looked for
by the digest of its bytes. Records of other clips, captions or candidates are refused. Which
encoders and options made the scores may differ: that is what is compared.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from e2i.errors import ConfigError, ReportError, ReportNotFoundError, StorageNotFoundError
from e2i.report.score_records import StoredScores, read_scores, stored_scores
from e2i.retrieval.comparison import FIRST_METRIC, Difference, compare_values
from e2i.retrieval.config import ComparisonConfig
from e2i.retrieval.intervals import QueryValues
from e2i.storage import Folder
from e2i.store_layout import join_url, split_url

_SAME = {
    "dataset": "data set",
    "split": "split",
    "part": "part",
    "captions_sha256": "captions",
    "distractors_sha256": "distractors",
}
_DIRECTIONS = ("text_to_audio", "text_to_audio_multi", "audio_to_text")
_QUERY_OF = {"audio_to_text": "clip_id"}
_RANK = "rank"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of it.

    Attributes:
        first: one evaluation.
        second: the other.
        differences: by key, in the order of the scores.
        num_clips: clips compared.
        num_captions: captions compared.
        notes: what a reader has to know, in sentences.
    """

    first: StoredScores
    second: StoredScores
    differences: Mapping[str, Difference]
    num_clips: int
    num_captions: int
    notes: tuple[str, ...]


def compare_scores(
    first_url: str, second_url: str, reports_url: str, config: ComparisonConfig
) -> Comparison:
    """Compare two evaluations.

    Args:
        first_url: location of a score record or of a checkpoint.
        second_url: likewise.
        reports_url: folder where records of checkpoints are looked for.
        config: of intervals and test.

    Raises:
        ConfigError: they are of different clips, captions or candidates, or one and the same.
        ReportNotFoundError: there is no such record, or a checkpoint has none.
        ReportError: a record or its tables cannot be read.
        StorageError: the store refused.
    """
    first, second = _pair(_found(first_url, reports_url), _found(second_url, reports_url))
    if first.url == second.url:
        raise ConfigError(
            f"there is nothing to compare: got {first.url} twice, expected two evaluations. Give "
            "two records, or two checkpoints."
        )
    _require_same_task(first, second)
    metrics: dict[str, tuple[QueryValues, QueryValues]] = {}
    for direction in _DIRECTIONS:
        if direction in first.content["queries"] and direction in second.content["queries"]:
            metrics |= _paired(first, second, direction)
    differences = compare_values(
        metrics, resamples=config.resamples, flips=config.flips, seed=config.seed
    )
    return Comparison(
        first=first,
        second=second,
        differences=differences,
        num_clips=int(first.content["num_clips"]),
        num_captions=int(first.content["num_captions"]),
        notes=_notes(first, second, differences),
    )


def _found(url: str, reports_url: str) -> list[StoredScores]:
    """The record that a location names, or all records of the checkpoint that it names."""
    parent, name = split_url(url)
    folder = Folder(parent)
    if not name.endswith(".safetensors"):
        return [read_scores(folder, name)]
    try:
        digest = hashlib.sha256(folder.read(name)).hexdigest()
    except StorageNotFoundError as error:
        raise ReportNotFoundError(
            f"there is no checkpoint: got {folder.url.rstrip('/')}/{name}, expected a file written "
            "by train-projection. Correct the location."
        ) from error
    records = [
        record
        for record in stored_scores(Folder(reports_url))
        if [file["sha256"] for file in record.content["checkpoints"]] == [digest]
    ]
    if not records:
        raise ReportNotFoundError(
            f"the checkpoint was not evaluated: got no scores of {folder.url.rstrip('/')}/{name} "
            f"in {Folder(reports_url).url}, expected a record that eval-projection wrote. Evaluate "
            "it, or give --reports-dir."
        )
    return records


def _pair(
    firsts: list[StoredScores], seconds: list[StoredScores]
) -> tuple[StoredScores, StoredScores]:
    """The two records that are of the same task, and if there are such, by the same options.

    Of equal evaluations it is the last by name.

    Raises:
        ConfigError: a checkpoint has several evaluations, and it is not clear which is meant.
    """
    pairs = [(a, b) for a in firsts for b in seconds if _task(a) == _task(b)]
    if not pairs:  # `compare_scores` says how they differ
        return firsts[-1], seconds[-1]
    pairs = [(a, b) for a, b in pairs if _options(a) == _options(b)] or pairs
    kinds = {(_task(a), _options(a), _options(b)) for a, b in pairs}
    if len(kinds) > 1:
        names = sorted({record.name for pair in pairs for record in pair})
        raise ConfigError(
            f"it is not clear which evaluations are meant: got {', '.join(names)}, expected one of "
            "each checkpoint. Give two of these records."
        )
    return pairs[-1]


def _task(scores: StoredScores) -> tuple[str, ...]:
    return tuple(str(scores.content[key]) for key in _SAME)


def _options(scores: StoredScores) -> str:
    """What may differ between evaluations of one checkpoint on one task, and moves scores."""
    relevance = scores.content.get("evaluation", {}).get("relevance", "")
    return json.dumps([scores.content.get("qb_norm_cache", ""), relevance])


def _require_same_task(first: StoredScores, second: StoredScores) -> None:
    for key, name in _SAME.items():
        one, other = first.content[key], second.content[key]
        if one == other:
            continue
        if key.endswith("_sha256"):
            one, other = f"{name} of digest {str(one)[:12]}", f"{str(other)[:12]}"
        raise ConfigError(
            f"the evaluations are of different {name}{'' if name.endswith('s') else 's'}: got "
            f"{one!s} in {first.url} and {other!s} in {second.url}, expected the same. Evaluate "
            "both on one cache, with the same options for candidates."
        )


def _paired(
    first: StoredScores, second: StoredScores, direction: str
) -> dict[str, tuple[QueryValues, QueryValues]]:
    """The metrics of a direction, both in one order."""
    id_column = _QUERY_OF.get(direction, "caption_id")
    one, other = _table(first, direction, id_column), _table(second, direction, id_column)
    if one.column(id_column) != other.column(id_column):
        raise ConfigError(
            f"the evaluations are of different queries: got {one.num_rows} and {other.num_rows} of "
            f"{direction} in {first.url} and {second.url}, expected the same ids. Evaluate both "
            "with one --relevance file."
        )
    _, clip = np.unique(one.column("clip_id").to_numpy(zero_copy_only=False), return_inverse=True)
    metrics: dict[str, tuple[QueryValues, QueryValues]] = {}
    for column in one.column_names:
        if (column != _RANK and "@" not in column) or column not in other.column_names:
            continue
        statistic: Literal["mean", "median"] = "median" if column == _RANK else "mean"
        name = "median_rank" if column == _RANK else column
        metrics[f"{direction}_{name}"] = (
            QueryValues(_values(one, column), clip, statistic),
            QueryValues(_values(other, column), clip, statistic),
        )
    return metrics


def _values(table: pa.Table, column: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] = table.column(column).to_numpy().astype(np.float64)
    return values


def _table(scores: StoredScores, direction: str, id_column: str) -> pa.Table:
    """The queries of a direction, sorted by id."""
    name = scores.content["queries"][direction]
    where = join_url(scores.folder.url, name)
    try:
        table = pq.read_table(io.BytesIO(scores.folder.read(name)))
        return table.sort_by(id_column)
    except StorageNotFoundError as error:
        raise ReportNotFoundError(
            f"the queries of a score record are gone: got no {where}, expected the table beside "
            f"{scores.url}. Evaluate again."
        ) from error
    except (pa.ArrowException, KeyError) as error:
        raise ReportError(
            f"the queries of a score record cannot be read: got {error} in {where}, expected a "
            "table that eval-projection wrote. Evaluate again."
        ) from error


def _notes(
    first: StoredScores, second: StoredScores, differences: Mapping[str, Difference]
) -> tuple[str, ...]:
    notes = []
    seen = [record.url for record in (first, second) if record.seen]
    if seen:
        notes.append(
            f"Seen: {' and '.join(seen)} {'is' if len(seen) == 1 else 'are'} of clips that the "
            "checkpoint was trained or selected on."
        )
    if FIRST_METRIC in differences:
        notes.append(
            f"{FIRST_METRIC} is tested first, on its own; the p of the other metrics is adjusted "
            "for their number (Holm)."
        )
    else:
        notes.append(
            f"{FIRST_METRIC} is not in both, so all metrics are adjusted for their number (Holm)."
        )
    return tuple(notes)
