"""Scores of projected captions and clips: both directions, with intervals and chance.

Conventions: N captions, C clips, P the joint space. Text→audio: each caption is a query, the
candidates are the C clips, one positive. Audio→text: each clip is a query, the candidates are all
N captions, its own are the positives. Keys are `<direction>_<metric>`, such as
`text_to_audio_R@10`. A k beyond the candidates is left out, and the result says so.

Values, and the chance level beside them, are expectations over the orders of ties (`metrics`);
intervals are drawn over clips (`intervals`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from e2i.errors import RetrievalInputError
from e2i.retrieval.config import EvaluationConfig
from e2i.retrieval.intervals import Interval, QueryValues, bootstrap_intervals
from e2i.retrieval.metrics import average_precision_per_query, rank_per_query, recall_per_query
from e2i.retrieval.ranks import PositiveRanks, rank_positives
from e2i.retrieval.similarity import CosineSimilarity

Direction = Literal["text_to_audio", "audio_to_text"]

RECALL_CUTOFFS = (1, 5, 10)
PRECISION_CUTOFFS = (10,)
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
        direction: query modality first.
        clip: int64 (Q,), the clip that each query belongs to.
        ranks: the counts that all values are made of.
        values: float64 (Q,) by metric, named as in the scores without their direction; for
            `median_rank` the expected rank of the best positive.
    """

    direction: Direction
    clip: NDArray[np.int64]
    ranks: PositiveRanks
    values: dict[str, NDArray[np.float64]]

    def columns(self) -> dict[str, NDArray[np.int64] | NDArray[np.float64]]:
        """The table as equally long columns, to be stored: of the best positive, and all values.

        `above` are the candidates scored higher than the best positive, `tied` the others scored
        the same, `positives_tied` the positives among those.
        """
        return {
            "query": np.arange(len(self.clip), dtype=np.int64),
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
    """

    scores: dict[str, Score]
    left_out: tuple[str, ...]
    text_to_audio: QueryTable
    audio_to_text: QueryTable
    num_clips: int
    num_captions: int


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
    similarity = CosineSimilarity(text, audio)
    clip = _caption_clips(caption_clip, len(text), len(audio))
    queries = config.sim_batch_size
    tables = (
        _table(
            "text_to_audio",
            clip,
            rank_positives(similarity.text_to_audio(queries), torch.from_numpy(clip)[:, None]),
        ),
        _table(
            "audio_to_text",
            np.arange(len(audio), dtype=np.int64),
            rank_positives(similarity.audio_to_text(queries), captions_by_clip(clip, len(audio))),
        ),
    )
    intervals = _intervals(tables, len(audio), config)
    scores: dict[str, Score] = {}
    for table in tables:
        chance = _values(
            PositiveRanks.of_constant_scorer(table.ranks.num_candidates, table.ranks.num_positives)
        )
        for name, values in table.values.items():
            key = f"{table.direction}_{name}"
            interval = intervals.get(key)
            scores[key] = Score(
                value=_aggregate(name, values),
                low=None if interval is None else interval.low,
                high=None if interval is None else interval.high,
                chance=_aggregate(name, chance[name]),
            )
    return RetrievalScores(
        scores=scores,
        left_out=tuple(
            f"{table.direction}_{name}"
            for table in tables
            for name in metric_names()
            if name not in table.values
        ),
        text_to_audio=tables[0],
        audio_to_text=tables[1],
        num_clips=len(audio),
        num_captions=len(text),
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


def _values(ranks: PositiveRanks) -> dict[str, NDArray[np.float64]]:
    """All metrics that the candidates suffice for, per query."""
    fitting = ranks.num_candidates
    values = {f"R@{k}": recall_per_query(ranks, k) for k in RECALL_CUTOFFS if k <= fitting}
    for k in PRECISION_CUTOFFS:
        if k <= fitting:
            values[f"mAP@{k}"] = average_precision_per_query(ranks, k)
    values[MEDIAN_RANK] = rank_per_query(ranks)
    return values


def _table(direction: Direction, clip: NDArray[np.int64], ranks: PositiveRanks) -> QueryTable:
    return QueryTable(direction=direction, clip=clip, ranks=ranks, values=_values(ranks))


def _aggregate(name: str, values: NDArray[np.float64]) -> float:
    return float(np.median(values) if name == MEDIAN_RANK else values.mean())


def _intervals(
    tables: tuple[QueryTable, ...], num_clips: int, config: EvaluationConfig
) -> dict[str, Interval]:
    """By key; empty where none was asked for, or where one clip says nothing of others."""
    if config.bootstrap_resamples == 0 or num_clips < 2:
        return {}
    metrics = {
        f"{table.direction}_{name}": QueryValues(
            values, table.clip, "median" if name == MEDIAN_RANK else "mean"
        )
        for table in tables
        for name, values in table.values.items()
    }
    return bootstrap_intervals(
        metrics, num_clips, config.bootstrap_resamples, config.bootstrap_seed
    )


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
