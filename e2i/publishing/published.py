"""`published.json`: which checkpoint and caches of a store are in use, and what was before.

Conventions: one document, replaced by compare-and-swap, so that of two promotions at once one
loses, and readers see the one or the other. It is append-only: each promotion stays, by its number,
and each change is logged. A promotion names the one that it took the place of, which is where a
roll-back leads to; a promotion that was rolled back stays among the earlier ones.

What a promotion needs lies beside, in `published/<key>/`: the checkpoint (a copy, since training
writes its file anew), its scores, and the rank of each query.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationError

from e2i.cache.layout import Document
from e2i.errors import (
    NothingPublishedError,
    PublishError,
    StaleWriteError,
    StorageNotFoundError,
)
from e2i.storage import Folder
from e2i.store_layout import join_url

PUBLISHED_NAME = "published.json"
PUBLISHED_FOLDER = "published"
CHECKPOINT_NAME = "checkpoint.safetensors"
SCORES_NAME = "scores.json"
SCORED_NAME = "scored.parquet"


class PublishedCheckpoint(Document):
    """The heads that are in use.

    Attributes:
        url: of the copy in the store.
        sha256: of its bytes.
        source: where it was taken from.
    """

    url: str
    sha256: str
    source: str


class PublishedCache(Document):
    """A cache that the checkpoint was scored, trained or selected on.

    Attributes:
        role: what it was used for.
        url: where it lies.
        dataset: its data set.
        split: its split.
        manifest_sha256: of its manifest, which has the sha256 of each shard.
        audio_fingerprint: of the audio encoder.
        text_fingerprint: of the text encoder.
    """

    role: Literal["evaluation", "train", "validation"]
    url: str
    dataset: str
    split: str
    manifest_sha256: str
    audio_fingerprint: str
    text_fingerprint: str


class PublishedScore(Document):
    """One score at promotion: value, ends of its 95 % interval, chance."""

    value: float
    low: float | None
    high: float | None
    chance: float | None


class Promotion(Document):
    """A checkpoint that was put in use.

    Attributes:
        number: from 1.
        key: of its folder.
        date: when, UTC.
        e2i_version: that promoted it.
        code_sha256: of that version's source files.
        checkpoint: the heads.
        caches: the evaluation cache, then those of training that were found.
        scores: on the evaluation cache, by key.
        former: number of the promotion that it took the place of; None for the first.
    """

    number: int
    key: str
    date: str
    e2i_version: str
    code_sha256: str
    checkpoint: PublishedCheckpoint
    caches: tuple[PublishedCache, ...]
    scores: dict[str, PublishedScore]
    former: int | None

    @property
    def evaluation(self) -> PublishedCache:
        """The cache that it is evaluated on."""
        return next(cache for cache in self.caches if cache.role == "evaluation")

    @property
    def folder(self) -> str:
        """The folder of its files, below the store."""
        return f"{PUBLISHED_FOLDER}/{self.key}"


class Change(Document):
    """One change of what is in use: when, how, and to which promotion."""

    date: str
    kind: Literal["promoted", "rolled back"]
    number: int


class Published(Document):
    """`published.json`.

    Attributes:
        current: what is in use.
        earlier: all other promotions, by number.
        changes: in the order that they were made.
    """

    schema_version: Literal[1] = 1
    current: Promotion
    earlier: tuple[Promotion, ...] = ()
    changes: tuple[Change, ...] = ()

    def with_current(self, promotion: Promotion, change: Change) -> Published:
        """The document with another promotion in use."""
        others = {one.number: one for one in (*self.earlier, self.current)}
        others.pop(promotion.number, None)
        return Published(
            current=promotion,
            earlier=tuple(others[number] for number in sorted(others)),
            changes=(*self.changes, change),
        )

    @property
    def origin(self) -> Promotion:
        """The first of those that took each other's place, up to the current one, on its split."""
        by_number = {one.number: one for one in self.earlier}
        found, split = (
            self.current,
            (self.current.evaluation.dataset, self.current.evaluation.split),
        )
        step: Promotion | None = self.current
        while step is not None:
            if (step.evaluation.dataset, step.evaluation.split) == split:
                found = step
            step = by_number.get(step.former) if step.former is not None else None
        return found

    @property
    def last_number(self) -> int:
        """The highest number given so far."""
        return max(one.number for one in (self.current, *self.earlier))


def read_published(store: Folder) -> Published:
    """What is published in a store.

    Raises:
        NothingPublishedError: nothing is.
        PublishError: the document cannot be read.
        StorageError: the store refused.
    """
    found = read_published_versioned(store)
    if found is None:
        raise NothingPublishedError(
            f"nothing is published: got no {PUBLISHED_NAME} in {store.url}, expected a promoted "
            "checkpoint. Run `e2i publish --checkpoint URL`, or correct --store-url."
        )
    return found[0]


def read_published_versioned(store: Folder) -> tuple[Published, str] | None:
    """What is published, and the version to give to `replace_published`; None where nothing is.

    Raises:
        PublishError: the document cannot be read.
        StorageError: the store refused.
    """
    try:
        data, version = store.read_versioned(PUBLISHED_NAME)
    except StorageNotFoundError:
        return None
    try:
        return Published.model_validate_json(data), version
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise PublishError(
            f"{join_url(store.url, PUBLISHED_NAME)} cannot be read: got {where}: {first['msg']}, "
            "expected what `e2i publish` writes. Restore the file from a backup."
        ) from error


def replace_published(store: Folder, published: Published, version: str | None) -> None:
    """Write the document if it still is that version (None: there is none), in one step.

    Raises:
        StaleWriteError: somebody else published in between.
        StorageError: the store refused.
    """
    try:
        store.replace(PUBLISHED_NAME, published.as_bytes(), version)
    except StaleWriteError as error:
        raise StaleWriteError(
            f"somebody else published in the meantime: got another "
            f"{join_url(store.url, PUBLISHED_NAME)} than at the start, expected the same. Look at "
            "`e2i publish --show`, and publish again if it still should be."
        ) from error
