"""Which clips a checkpoint was trained, selected and not yet tested on.

Decides: a clip is (data set, split, clip id), kept as the first 16 bytes of a SHA-256 over the
three: small, the same length for every name, and free of names that were not meant to travel with
the weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from e2i.clips import ClipKey

DIGEST_BYTES = 16


def clip_digest(key: ClipKey) -> bytes:
    """16 bytes that stand for a clip across data sets and splits."""
    canonical = json.dumps([key.dataset, key.split, key.clip_id], ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).digest()[:DIGEST_BYTES]


@dataclass(frozen=True, slots=True)
class ClipRoles:
    """Clips by what they were used for, as digests; no clip has two roles.

    Attributes:
        train: weights were fitted to these.
        validation: the epoch was chosen by these.
        test: held out of the training cache for the final evaluation; empty where training had a
            validation cache.
    """

    train: frozenset[bytes]
    validation: frozenset[bytes]
    test: frozenset[bytes]

    @classmethod
    def of(
        cls, train: Iterable[ClipKey], validation: Iterable[ClipKey], test: Iterable[ClipKey]
    ) -> ClipRoles:
        """Roles of the clips given."""
        train_digests, validation_digests, test_digests = (
            frozenset(map(clip_digest, keys)) for keys in (train, validation, test)
        )
        return cls(train_digests, validation_digests, test_digests)

    @property
    def seen(self) -> frozenset[bytes]:
        """Clips that the weights or their choice depend on."""
        return self.train | self.validation
