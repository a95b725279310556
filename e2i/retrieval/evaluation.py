"""Scores of projected captions and clips: both directions, with intervals and chance.

Conventions: N captions, C clips, P the joint space. Text→audio: each caption is a query, the
candidates are the C clips, one positive. Audio→text: each clip is a query, the candidates are all
N captions, its own are the positives. Keys are `<direction>_<metric>`, such as
`text_to_audio_R@10`. A k beyond the candidates is left out, and the result says so. Where it is
known which clips answer a caption, `text_to_audio_multi_mAP@10` and `@16` count all of them, over
the captions of which it is known. More candidates, which answer nothing, may stand behind the
clips and captions.

Values, and the chance level beside them, are expectations over the orders of ties (`metrics`);
intervals are drawn over clips (`intervals`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from e2i.errors import RetrievalInputError
from e2i.retrieval.config import EvaluationConfig
from e2i.retrieval.intervals import Interval, QueryValues, bootstrap_intervals
from e2i.retrieval.metrics import average_precision_per_query, rank_per_query, recall_per_query
from e2i.retrieval.ranks import PositiveRanks, rank_positives
from e2i.retrieval.similarity import CosineSimilarity, Similarity

Direction = Literal["text_to_audio", "audio_to_text", "text_to_audio_multi"]

RECALL_CUTOFFS = (1, 5, 10)
PRECISION_CUTOFFS = (10,)
MULTI_PRECISION_CUTOFFS = (10, 16)
MEDIAN_RANK = "median_rank"


@dataclass(frozen=True, slots=True)
class Score:
    """One number of an evaluation.

    Attributes:
        value: the metric on these clips.
        low: lower end of its 95 % interval over clips; None where none was asked for, or where
            there is one clip only.
        high: upper end, likewise.
        chance: what a constant scorer gets on the same queries and candidates.
    """

    value: float
    low: float | None
    high: float | None
    chance: float


@dataclass(frozen=True, slots=True)
class QueryTable:
    """One direction, query by query; queries are in the order of the captions or clips.

    Attributes:
        direction: query modality first; `text_to_audio_multi` where several clips answer a caption.
        query: int64 (Q,), which captions or clips are the queries.
        clip: int64 (Q,), the clip that each query belongs to.
        ranks: the counts that all values are made of.
        values: float64 (Q,) by metric, named as in the scores without their direction; for
            `median_rank` the expected rank of the best positive.
    """

    direction: Direction
    query: NDArray[np.int64]
    clip: NDArray[np.int64]
    ranks: PositiveRanks
    values: dict[str, NDArray[np.float64]]

    def columns(self) -> dict[str, NDArray[np.int64] | NDArray[np.float64]]:
        """The table as equally long columns, to be stored: of the best positive, and all values.

        `above` are the candidates scored higher than the best positive, `tied` the others scored
        the same, `positives_tied` the positives among those.
        """
        return {
            "query": self.query,
            "clip": self.clip,
            "num_positives": self.ranks.num_positives,
            "above": self.ranks.above[:, 0],
            "tied": self.ranks.tied[:, 0] - 1,
            "positives_tied": self.ranks.positives_tied[:, 0] - 1,
            **{("rank" if name == MEDIAN_RANK else name): v for name, v in self.values.items()},
        }


@dataclass(frozen=True, slots=True)
class RetrievalScores:
    """What an evaluation found.

    Attributes:
        scores: by key, text→audio first.
        left_out: keys whose k is beyond the number of candidates.
        text_to_audio: per caption.
        audio_to_text: per clip.
        num_clips: C.
        num_captions: N.
        multi: per caption of which it is known which clips answer it; None where that is not known.
    """

    scores: dict[str, Score]
    left_out: tuple[str, ...]
    text_to_audio: QueryTable
    audio_to_text: QueryTable
    num_clips: int
    num_captions: int
    multi: QueryTable | None = None

    @property
    def tables(self) -> tuple[QueryTable, ...]:
        """All tables, in the order of the scores."""
        multi = () if self.multi is None else (self.multi,)
        return (self.text_to_audio, *multi, self.audio_to_text)


class RelevantClips(NamedTuple):
    """Which clips answer some of the captions.

    Attributes:
        captions: int64 (R,), ascending indices of captions.
        clips: int64 (R, M), the clips that answer each, -1 where it has fewer than M.
    """

    captions: NDArray[np.int64]
    clips: NDArray[np.int64]


def evaluate_projections(
    text: Tensor, audio: Tensor, caption_clip: ArrayLike, config: EvaluationConfig
) -> RetrievalScores:
    """Score captions against clips by the cosine of their projections, both directions.

    Runs on the device of the projections, in float32 whatever precision the caller's torch is set
    to. Memory: the projections, one block of `sim_batch_size` queries, and up to 64 MiB.

    Args:
        text: (N, P), one row a caption; normalized here.
        audio: (C, P), one row a clip, each clip once; normalized here.
        caption_clip: (N,) integers, for each caption the index of its clip.
        config: block size and resamples.

    Raises:
        RetrievalInputError: shapes differ, a projection is not finite, a caption names no clip, or
            a clip has no caption.
    """
    return evaluate_similarity(CosineSimilarity(text, audio), caption_clip, config)


def evaluate_similarity(
    similarity: Similarity,
    caption_clip: ArrayLike,
    config: EvaluationConfig,
    relevant: RelevantClips | None = None,
) -> RetrievalScores:
    """Score captions against clips by any similarity, both directions.

    Args:
        similarity: of N captions and C clips; candidates behind these answer nothing.
        caption_clip: (N,) integers, for each caption the index of its clip.
        config: block size and resamples.
        relevant: which clips answer some of the captions, if that is known.

    Raises:
        RetrievalInputError: a caption names no clip, or a clip has no caption.
    """
    num_clips, size = similarity.num_clips, config.sim_batch_size
    clip = _caption_clips(caption_clip, similarity.num_captions, num_clips)
    own = torch.from_numpy(clip)[:, None]
    tables = [
        _table("text_to_audio", clip, rank_positives(similarity.text_to_audio(size), own)),
        _table(
            "audio_to_text",
            np.arange(num_clips, dtype=np.int64),
            rank_positives(similarity.audio_to_text(size), captions_by_clip(clip, num_clips)),
        ),
    ]
    if relevant is not None and len(relevant.captions):
        tables.insert(1, _multi_table(similarity, clip, size, relevant))
    intervals = _intervals(tables, config)
    return RetrievalScores(
        scores={key: score for table in tables for key, score in _scores(table, intervals)},
        left_out=tuple(
            f"{table.direction}_{name}"
            for table in tables
            for name in _names(table.direction)
            if name not in table.values
        ),
        text_to_audio=tables[0],
        audio_to_text=tables[-1],
        num_clips=num_clips,
        num_captions=similarity.num_captions,
        multi=tables[1] if len(tables) == 3 else None,
    )


def _multi_table(
    similarity: Similarity, clip: NDArray[np.int64], size: int, relevant: RelevantClips
) -> QueryTable:
    """The captions of which it is known which clips answer them, ranked once more."""
    ranks = rank_positives(
        _chosen_rows(similarity.text_to_audio(size), relevant.captions),
        torch.from_numpy(relevant.clips),
    )
    return _table("text_to_audio_multi", clip[relevant.captions], ranks, relevant.captions)


def _chosen_rows(blocks: Iterable[Tensor], rows: NDArray[np.int64]) -> Iterator[Tensor]:
    """Some rows, ascending, of the blocks of a similarity."""
    done = 0
    for block in blocks:
        first, last = np.searchsorted(rows, (done, done + len(block)))
        if last > first:
            yield block[torch.from_numpy(rows[first:last] - done).to(block.device)]
        done += len(block)


def _scores(table: QueryTable, intervals: Mapping[str, Interval]) -> Iterator[tuple[str, Score]]:
    """A table's scores by key."""
    chance = _values(
        table.direction,
        PositiveRanks.of_constant_scorer(table.ranks.num_candidates, table.ranks.num_positives),
    )
    for name, values in table.values.items():
        key = f"{table.direction}_{name}"
        interval = intervals.get(key)
        yield (
            key,
            Score(
                value=_aggregate(name, values),
                low=None if interval is None else interval.low,
                high=None if interval is None else interval.high,
                chance=_aggregate(name, chance[name]),
            ),
        )


def metric_names() -> tuple[str, ...]:
    """The metrics of each direction, in the order in which they are stated."""
    recalls = (f"R@{k}" for k in RECALL_CUTOFFS)
    precisions = (f"mAP@{k}" for k in PRECISION_CUTOFFS)
    return (*recalls, *precisions, MEDIAN_RANK)


def captions_by_clip(caption_clip: NDArray[np.int64], num_clips: int) -> Tensor:
    """The captions of each clip, int64 (C, most captions of a clip), -1 where it has fewer."""
    counts = np.bincount(caption_clip, minlength=num_clips)
    order = np.argsort(caption_clip, kind="stable")
    slot = np.arange(len(order)) - (np.cumsum(counts) - counts)[caption_clip[order]]
    columns = np.full((num_clips, int(counts.max())), -1, dtype=np.int64)
    columns[caption_clip[order], slot] = order
    return torch.from_numpy(columns)


def statistic_of(name: str) -> Literal["mean", "median"]:
    """How a metric is made of its values per query."""
    return "median" if name == MEDIAN_RANK else "mean"


def _names(direction: Direction) -> tuple[str, ...]:
    if direction == "text_to_audio_multi":
        return tuple(f"mAP@{k}" for k in MULTI_PRECISION_CUTOFFS)
    return metric_names()


def _values(direction: Direction, ranks: PositiveRanks) -> dict[str, NDArray[np.float64]]:
    """All metrics that the candidates suffice for, per query."""
    values: dict[str, NDArray[np.float64]] = {}
    for name in _names(direction):
        measure, _, cutoff = name.partition("@")
        if not cutoff:
            values[name] = rank_per_query(ranks)
        elif int(cutoff) <= ranks.num_candidates:
            per_query = recall_per_query if measure == "R" else average_precision_per_query
            values[name] = per_query(ranks, int(cutoff))
    return values


def _table(
    direction: Direction,
    clip: NDArray[np.int64],
    ranks: PositiveRanks,
    query: NDArray[np.int64] | None = None,
) -> QueryTable:
    return QueryTable(
        direction=direction,
        query=np.arange(len(clip), dtype=np.int64) if query is None else query,
        clip=clip,
        ranks=ranks,
        values=_values(direction, ranks),
    )


def _aggregate(name: str, values: NDArray[np.float64]) -> float:
    return float(np.median(values) if statistic_of(name) == "median" else values.mean())


def _intervals(tables: Sequence[QueryTable], config: EvaluationConfig) -> dict[str, Interval]:
    """By key; empty where none was asked for, or where one clip says nothing of others.

    Tables whose queries are of all clips share their resamples; one whose queries are of some is
    resampled over those.
    """
    if config.bootstrap_resamples == 0:
        return {}
    grouped: dict[int, dict[str, QueryValues]] = {}
    for table in tables:
        clips, clip = np.unique(table.clip, return_inverse=True)
        group = grouped.setdefault(len(clips), {})
        for name, values in table.values.items():
            group[f"{table.direction}_{name}"] = QueryValues(values, clip, statistic_of(name))
    return {
        key: interval
        for count, metrics in grouped.items()
        if count > 1
        for key, interval in bootstrap_intervals(
            metrics, count, config.bootstrap_resamples, config.bootstrap_seed
        ).items()
    }


def _caption_clips(caption_clip: ArrayLike, num_captions: int, num_clips: int) -> NDArray[np.int64]:
    clip = np.asarray(caption_clip)
    if clip.shape != (num_captions,) or not np.issubdtype(clip.dtype, np.integer):
        raise RetrievalInputError(
            f"the captions' clips are no index: got {clip.dtype} of shape {clip.shape}, expected "
            f"one integer for each of {num_captions} captions. Take both from one cache."
        )
    outside = np.flatnonzero((clip < 0) | (clip >= num_clips))
    if len(outside):
        raise RetrievalInputError(
            f"caption {outside[0]} belongs to no clip: got clip {clip[outside[0]]}, expected 0 to "
            f"{num_clips - 1}. Take captions and clips from one cache."
        )
    without = np.flatnonzero(np.bincount(clip, minlength=num_clips) == 0)
    if len(without):
        raise RetrievalInputError(
            f"clip {without[0]} has no caption: got 0, expected at least 1. Leave the clip out."
        )
    return clip.astype(np.int64)
