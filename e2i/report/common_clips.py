"""Two evaluations against each other on the clips that both have.

Decides: a caption is common if its id and its words are, a clip if its id is and one of its
captions; a recording that changed under its id stays common, and is counted. Both are ranked again
on what is common, so that neither has more candidates than the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from e2i.errors import ConfigError
from e2i.report.scored_set import ScoredSet
from e2i.retrieval.comparison import Difference, compare_values
from e2i.retrieval.config import ComparisonConfig, EvaluationConfig
from e2i.retrieval.evaluation import evaluate_projections, statistic_of
from e2i.retrieval.intervals import QueryValues


@dataclass(frozen=True, slots=True)
class SetChanges:
    """How one scored set differs from an earlier one, in clips and captions.

    Attributes:
        new_clips: clips that were not scored before.
        gone_clips: clips that were, and are not any more.
        changed_recordings: clips of both whose recording has other bytes.
        changed_captions: captions of the clips of both that are new, gone, or in other words.
    """

    new_clips: int
    gone_clips: int
    changed_recordings: int
    changed_captions: int

    @property
    def any(self) -> bool:
        """Whether anything changed."""
        counts = (self.new_clips, self.gone_clips, self.changed_recordings, self.changed_captions)
        return any(counts)


@dataclass(frozen=True, slots=True)
class CommonComparison:
    """What a comparison on common clips found.

    Attributes:
        differences: by key, in the order of the scores: today's less the earlier; none where
            nothing is in common.
        num_clips: common clips.
        num_captions: common captions.
        changes: of the set.
    """

    differences: Mapping[str, Difference]
    num_clips: int
    num_captions: int
    changes: SetChanges


def compare_on_common_clips(
    today: ScoredSet, before: ScoredSet, evaluation: EvaluationConfig, comparison: ComparisonConfig
) -> CommonComparison:
    """Rank both on the clips that they have in common, and test the differences.

    Args:
        today: one evaluation, the first of each difference.
        before: an earlier one of the same split.
        evaluation: block size of the ranking.
        comparison: of intervals and test.

    Raises:
        ConfigError: they are of different splits.
    """
    if (today.dataset, today.split) != (before.dataset, before.split):
        raise ConfigError(
            f"the evaluations are of different splits: got {today.dataset}/{today.split} and "
            f"{before.dataset}/{before.split}, expected the same. Evaluate on one cache."
        )
    common = _common_captions(today, before)
    changes = changes_between(today, before)
    if not common:
        return CommonComparison({}, 0, 0, changes)
    quick = evaluation.model_copy(update={"bootstrap_resamples": 0, "relevance": ""})
    one, other = (_values(_restricted(scored, common), quick) for scored in (today, before))
    differences = compare_values(
        {key: (one[key], other[key]) for key in one if key in other},
        resamples=comparison.resamples,
        flips=comparison.flips,
        seed=comparison.seed,
    )
    return CommonComparison(
        differences=differences,
        num_clips=len({clip_id for _, clip_id in common}),
        num_captions=len(common),
        changes=changes,
    )


def changes_between(today: ScoredSet, before: ScoredSet) -> SetChanges:
    """What changed in a scored set since an earlier one."""
    now, then = (dict(zip(s.clip_ids, s.recordings, strict=True)) for s in (today, before))
    both = now.keys() & then.keys()
    said_now, said_then = (
        {pair for pair in _said(scored).items() if pair[1][0] in both} for scored in (today, before)
    )
    changed_captions = {caption_id for caption_id, _ in said_now ^ said_then}
    return SetChanges(
        new_clips=len(now.keys() - then.keys()),
        gone_clips=len(then.keys() - now.keys()),
        changed_recordings=sum(
            now[clip_id] != then[clip_id] for clip_id in both if now[clip_id] and then[clip_id]
        ),
        changed_captions=len(changed_captions),
    )


def _said(scored: ScoredSet) -> dict[str, tuple[str, str]]:
    """By caption id: its clip and its words."""
    return {
        caption_id: (scored.clip_ids[clip], words)
        for caption_id, clip, words in zip(
            scored.caption_ids, scored.caption_clip, scored.captions, strict=True
        )
    }


def _common_captions(today: ScoredSet, before: ScoredSet) -> list[tuple[str, str]]:
    """Caption and clip ids of what is common, sorted: both are then ranked in one order."""
    said = _said(before)
    return sorted(
        (caption_id, clip_id)
        for caption_id, (clip_id, words) in _said(today).items()
        if said.get(caption_id) == (clip_id, words)
    )


def _restricted(scored: ScoredSet, common: list[tuple[str, str]]) -> ScoredSet:
    """The set with the common clips and captions alone, in the order of their ids."""
    clip_ids = sorted({clip_id for _, clip_id in common})
    clips = _places(scored.clip_ids, clip_ids)
    captions = _places(scored.caption_ids, [caption_id for caption_id, _ in common])
    place = {clip_id: index for index, clip_id in enumerate(clip_ids)}
    return replace(
        scored,
        clip_ids=tuple(clip_ids),
        recordings=tuple(scored.recordings[index] for index in clips),
        caption_ids=tuple(caption_id for caption_id, _ in common),
        captions=tuple(scored.captions[index] for index in captions),
        caption_clip=np.array([place[clip_id] for _, clip_id in common], np.int64),
        audio=scored.audio[clips],
        text=scored.text[captions],
    )


def _places(ids: tuple[str, ...], wanted: list[str]) -> NDArray[np.int64]:
    place = {name: index for index, name in enumerate(ids)}
    return np.array([place[name] for name in wanted], np.int64)


def _values(scored: ScoredSet, evaluation: EvaluationConfig) -> dict[str, QueryValues]:
    """The values of each query, by key."""
    found = evaluate_projections(
        torch.from_numpy(scored.text),
        torch.from_numpy(scored.audio),
        scored.caption_clip,
        evaluation,
    )
    return {
        f"{table.direction}_{name}": QueryValues(values, table.clip, statistic_of(name))
        for table in found.tables
        for name, values in table.values.items()
    }
