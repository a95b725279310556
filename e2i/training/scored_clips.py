"""Which clips of a cache may be scored: those that no checkpoint has seen.

Decides: a clip is (data set, split, clip id). Where clips were held out of the cache for testing,
evaluating on that cache means those; where training or selection saw clips of it otherwise, it is
refused. Scores on seen clips are had by asking for them, and are marked as such. Of several
checkpoints each has to allow the same clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2i.cache.embeddings import CachedEmbeddings
from e2i.errors import ConfigError, SeenClipsError
from e2i.heads.checkpoint import Checkpoint
from e2i.heads.clip_roles import clip_digest
from e2i.training.pairs import cache_name, clip_keys


@dataclass(frozen=True, slots=True)
class ScoredClips:
    """Clips of a cache that are scored.

    Attributes:
        clips: int64, ascending indices in the cache.
        part: `all` clips of the cache, or its `test` part.
        seen: whether any of them was trained or selected on.
    """

    clips: NDArray[np.int64]
    part: str
    seen: bool


def clips_to_score(
    checkpoints: Sequence[Checkpoint], cache: CachedEmbeddings, *, allow_seen: bool
) -> ScoredClips:
    """The clips of a cache that all of the checkpoints may be scored on.

    Raises:
        SeenClipsError: a checkpoint was trained or selected on clips of this cache, or they hold
            different parts of it out.
    """
    everything = np.arange(len(cache.clip_ids))
    if not checkpoints:
        return ScoredClips(everything, "all", seen=False)
    digests = [clip_digest(key) for key in clip_keys(cache)]
    found = [_of_one(checkpoint, cache, digests, allow_seen) for checkpoint in checkpoints]
    if allow_seen:
        return ScoredClips(everything, "all", seen=any(one.seen for one in found))
    for one in found[1:]:
        if not np.array_equal(one.clips, found[0].clips):
            message = (
                f"the checkpoints of the ensemble hold different clips of {cache_name(cache)} out: "
                f"got {len(found[0].clips)} and {len(one.clips)} clips that either has not seen, "
                f"{len(np.intersect1d(found[0].clips, one.clips))} of them in common, expected the "
                "same ones. Train them with one validation cache, or with one --seed, "
                "--val-fraction and --test-fraction; or pass --allow-seen to get scores marked as "
                "seen."
            )
            raise SeenClipsError(message)
    return found[0]


def require_strangers(
    distractors: CachedEmbeddings,
    cache: CachedEmbeddings,
    checkpoints: Sequence[Checkpoint],
    *,
    allow_seen: bool,
) -> bool:
    """Refuse distractors that are clips of the evaluation, or that a checkpoint has seen.

    Returns:
        Whether a checkpoint has seen any of them.

    Raises:
        ConfigError: clips of the cache are among them.
        SeenClipsError: a checkpoint was trained or selected on some of them.
    """
    keys = clip_keys(distractors)
    own = set(clip_keys(cache))
    shared = [key for key in keys if key in own]
    if shared:
        message = (
            f"distractors are clips of the evaluation: got {len(shared)} in both "
            f"{cache_name(distractors)} and {cache_name(cache)}, the first {shared[0].clip_id!r}, "
            "expected none. Give another cache as --distractors."
        )
        raise ConfigError(message)
    seen = [
        key.clip_id
        for key in keys
        if any(clip_digest(key) in checkpoint.clips.seen for checkpoint in checkpoints)
    ]
    if seen and not allow_seen:
        message = (
            f"the checkpoint has seen distractors: got {len(seen)} clips of "
            f"{cache_name(distractors)} that it was trained or selected on, the first {seen[0]!r}, "
            "expected none. Give another cache as --distractors, or pass --allow-seen to get "
            "scores marked as seen."
        )
        raise SeenClipsError(message)
    return bool(seen)


def _of_one(
    checkpoint: Checkpoint, cache: CachedEmbeddings, digests: Sequence[bytes], allow_seen: bool
) -> ScoredClips:
    everything = np.arange(len(digests))
    roles = checkpoint.clips
    seen = [index for index, digest in enumerate(digests) if digest in roles.seen]
    if allow_seen or not seen:
        return ScoredClips(everything, "all", bool(seen))
    test = [index for index, digest in enumerate(digests) if digest in roles.test]
    if test:
        return ScoredClips(np.array(test), "test", seen=False)
    in_training = sum(digests[index] in roles.train for index in seen)
    message = (
        f"the checkpoint has seen clips of {cache_name(cache)}: got {in_training} that it was "
        f"trained on and {len(seen) - in_training} that its epoch was chosen by, of "
        f"{len(digests)} clips, the first {cache.clip_ids[seen[0]]!r}, expected none. Evaluate on "
        "another cache, or pass --allow-seen to get scores marked as seen."
    )
    raise SeenClipsError(message)
