"""Holding clips out of a cache: by clip, never by caption.

Decides: a clip's part follows from a hash of (seed, data set, split, clip id), not from its place
in the file, so that clips added later leave the others where they are. Only where a part would be
left with too few clips do the nearest ones step in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2i.clips import ClipKey
from e2i.errors import ConfigError

MIN_TRAIN_CLIPS = 2
"""One clip alone has nothing to be told apart from."""

MIN_VALIDATION_CLIPS = 2
"""One clip alone is always ranked first, so that every epoch would be as good as the first."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Three parts of the clips, as ascending indices; together each clip exactly once.

    Attributes:
        train: int64, at least two.
        validation: int64, at least two.
        test: int64, at least one, or none where the test share is 0.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def clip_position(key: ClipKey, seed: int) -> float:
    """A clip's fixed place in [0, 1), uniform over clips, for one seed."""
    canonical = json.dumps([seed, key.dataset, key.split, key.clip_id], ensure_ascii=True)
    digest = hashlib.sha256(canonical.encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def hold_out(
    keys: Sequence[ClipKey], *, val_fraction: float, test_fraction: float, seed: int
) -> HeldOut:
    """Split clips into training, validation and test.

    Args:
        keys: the clips, unique.
        val_fraction: share held out for choosing the epoch, in (0, 1).
        test_fraction: share held out for the final evaluation, in [0, 1); 0 for none.
        seed: another seed holds other clips out.

    Raises:
        ConfigError: too few clips for the parts.
    """
    wants_test = test_fraction > 0
    fewest = MIN_TRAIN_CLIPS + MIN_VALIDATION_CLIPS + int(wants_test)
    if len(keys) < fewest:
        message = (
            f"too few clips to hold some out of them: got {len(keys)}, expected at least {fewest}. "
            "Give a validation cache, or more clips."
        )
        raise ConfigError(message)
    positions = np.array([clip_position(key, seed) for key in keys])
    order = np.argsort(positions, kind="stable")
    wanted = np.searchsorted(positions[order], [val_fraction, val_fraction + test_fraction])
    most = len(keys) - MIN_TRAIN_CLIPS
    end_validation = int(np.clip(wanted[0], MIN_VALIDATION_CLIPS, most - int(wants_test)))
    end_test = end_validation
    if wants_test:
        end_test = int(np.clip(wanted[1], end_validation + 1, most))
    return HeldOut(
        train=np.sort(order[end_test:]),
        validation=np.sort(order[:end_validation]),
        test=np.sort(order[end_validation:end_test]),
    )
