"""Single captions as a report shows them: the right clip, what was found, and how both sound.

Conventions: recordings share one budget. The right clips get theirs first, then what stands first
of what was found, then the second, so that a budget that runs out costs the least telling ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from e2i.cache.embeddings import CachedEmbeddings
from e2i.report.config import ReportConfig
from e2i.report.examples import ExampleFinder, Neighbors
from e2i.report.recordings import Recording, playable

FOUND_SHOWN = 3
"""Clips shown of what a caption found."""

LoadRecording = Callable[[str], bytes | None]
"""A clip's recording as stored, by clip id; None where it cannot be had."""


@dataclass(frozen=True, slots=True)
class ShownClip:
    """A clip beside a caption.

    Attributes:
        clip_id: which.
        caption: its first caption, to say what is heard.
        score: cosine to the query.
        is_right: whether the query describes it.
        recording: to be played; None where it is too large or cannot be had.
    """

    clip_id: str
    caption: str
    score: float
    is_right: bool
    recording: Recording | None


@dataclass(frozen=True, slots=True)
class QueryExample:
    """One caption and what it found.

    Attributes:
        caption: the query.
        rank: of the right clip; with ties, the expected one.
        right: the clip that the caption describes.
        found: the closest clips, the closest first; `right` itself where it is among them.
    """

    caption: str
    rank: float
    right: ShownClip
    found: tuple[ShownClip, ...]

    @property
    def is_found(self) -> bool:
        """Whether the right clip is among those shown as found."""
        return any(clip.is_right for clip in self.found)


def query_examples(
    finder: ExampleFinder,
    cache: CachedEmbeddings,
    queries: NDArray[np.int64],
    load_recording: LoadRecording | None,
    config: ReportConfig,
) -> tuple[QueryExample, ...]:
    """What a report shows of some captions.

    Args:
        finder: of the evaluation that the captions are of.
        cache: that was evaluated.
        queries: int64 (q,), indices of captions of the evaluation.
        load_recording: asked once for each clip shown while the budget lasts; None leaves
            recordings out.
        config: sizes of recordings.
    """
    neighbors = finder.neighbors(queries, FOUND_SHOWN)
    recordings = _recordings(finder, cache, neighbors, load_recording, config)
    first_caption = {
        clip: cache.shown_caption(row)
        for row, clip in reversed(list(enumerate(cache.caption_clip.tolist())))
    }

    def shown(row: int, clip: int, score: float) -> ShownClip:
        stored = int(finder.clip_rows[clip])
        return ShownClip(
            clip_id=cache.clip_ids[stored],
            caption=first_caption[stored],
            score=score,
            is_right=clip == neighbors[row].right,
            recording=recordings.get((row, clip)),
        )

    return tuple(
        QueryExample(
            caption=cache.shown_caption(int(finder.caption_rows[query])),
            rank=float(finder.ranks[query]),
            right=shown(row, near.right, near.right_score),
            found=tuple(
                shown(row, clip, score) for clip, score in zip(near.clips, near.scores, strict=True)
            ),
        )
        for row, (query, near) in enumerate(zip(queries.tolist(), neighbors, strict=True))
    )


def _recordings(
    finder: ExampleFinder,
    cache: CachedEmbeddings,
    neighbors: Sequence[Neighbors],
    load_recording: LoadRecording | None,
    config: ReportConfig,
) -> dict[tuple[int, int], Recording]:
    """By row and clip: those that fit into the budget, each time that they are shown."""
    if load_recording is None:
        return {}
    shelf = _Shelf(load_recording, config.max_recording_bytes)
    wanted = [(row, near.right) for row, near in enumerate(neighbors)]
    for place in range(FOUND_SHOWN):
        wanted += [
            (row, near.clips[place])
            for row, near in enumerate(neighbors)
            if place < len(near.clips)
        ]
    chosen: dict[tuple[int, int], Recording] = {}
    left = config.max_recordings_bytes
    for row, clip in dict.fromkeys(wanted):
        if left <= 0:
            break
        recording = shelf.get(cache.clip_ids[int(finder.clip_rows[clip])])
        if recording is not None and len(recording.data) <= left:
            chosen[row, clip] = recording
            left -= len(recording.data)
    return chosen


@dataclass
class _Shelf:
    """Recordings of clips, each fetched and encoded once."""

    load: LoadRecording
    max_bytes: int
    kept: dict[str, Recording | None] = field(default_factory=dict)

    def get(self, clip_id: str) -> Recording | None:
        if clip_id not in self.kept:
            data = self.load(clip_id)
            self.kept[clip_id] = None if data is None else playable(data, clip_id, self.max_bytes)
        return self.kept[clip_id]
