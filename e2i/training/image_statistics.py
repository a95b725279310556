"""Which statistics standardize the stored pseudo-images of a cache: those of the training clips.

Decides: the training clips are those that `train-projection` would train on with its own defaults,
told by the same rules: all clips of a cache with a cache `validation` beside it, else those that it
does not hold out. A checkpoint says itself by which statistics it was trained. So stored images and
those that training generates are the same pixels wherever they are taken for each other.
"""

from __future__ import annotations

import numpy as np

from e2i.cache.embeddings import CachedEmbeddings
from e2i.cache.reader import open_cache
from e2i.errors import CacheNotFoundError, CheckpointError, ConfigError
from e2i.heads.checkpoint import load_checkpoint
from e2i.images.config import ImagesConfig
from e2i.images.names import Side
from e2i.images.standardization import Standardization
from e2i.storage import Folder
from e2i.store_layout import join_url, public_url, split_url
from e2i.training.config import TrainingConfig
from e2i.training.holdout import hold_out
from e2i.training.pairs import clip_keys

TRAINING_SPLIT, SELECTION_SPLIT = "development", "validation"
_NEVER_TRAINED_ON = frozenset({SELECTION_SPLIT, "evaluation"})
_CHECKPOINT_SUFFIX = ".safetensors"


def image_standardization(
    cache_url: str, cache: CachedEmbeddings, side: Side, images: ImagesConfig
) -> Standardization | None:
    """The statistics that the pseudo-images of one side of a cache are to be made with.

    Args:
        cache_url: where the cache lies.
        cache: what it holds.
        side: whose pseudo-images they are.
        images: whether to standardize, and by what.

    Returns:
        None where the images are not standardized.

    Raises:
        ConfigError: the cache is of a split that nothing is trained on, and no training cache is
            beside it; or it is too small to hold clips out of it.
        CacheNotFoundError, CheckpointNotFoundError: what is given to standardize by is not there.
        CheckpointError: the checkpoint was trained without standardizing.
        StorageError: the store refused.
    """
    if not images.standardize:
        return None
    by = images.standardize_by
    if by.endswith(_CHECKPOINT_SUFFIX):
        return _of_checkpoint(by, side)
    if by:
        return _of_training_clips(by, open_cache(Folder(by)).load(), side)
    if cache.split != TRAINING_SPLIT:
        beside = join_url(split_url(cache_url)[0], TRAINING_SPLIT)
        try:
            return _of_training_clips(beside, open_cache(Folder(beside)).load(), side)
        except CacheNotFoundError as error:
            if cache.split in _NEVER_TRAINED_ON:
                message = (
                    "there are no training clips to standardize by: got no cache at "
                    f"{public_url(beside)} beside that of {cache.split!r}, expected the one that "
                    "is trained on. Give --standardize-by."
                )
                raise ConfigError(message) from error
    return _of_training_clips(cache_url, cache, side)


def _of_checkpoint(url: str, side: Side) -> Standardization:
    parent, name = split_url(url)
    heads = load_checkpoint(Folder(parent), name).heads()
    found = (heads.audio if side == "audio" else heads.text).standardization
    if found is None:
        message = (
            f"the checkpoint was trained without standardizing: got {public_url(url)}, expected "
            "one of train-projection --standardize-input. Give another --standardize-by."
        )
        raise CheckpointError(message)
    return found


def _of_training_clips(cache_url: str, cache: CachedEmbeddings, side: Side) -> Standardization:
    trained = np.arange(len(cache.clip_ids))
    if not _has_selection_cache(cache_url, cache):
        fields = TrainingConfig.model_fields
        trained = hold_out(
            clip_keys(cache),
            val_fraction=fields["val_fraction"].default,
            test_fraction=fields["test_fraction"].default,
            seed=fields["seed"].default,
        ).train
    if side == "audio":
        return Standardization.of(cache.audio[trained])
    return Standardization.of(cache.text[np.isin(cache.caption_clip, trained)])


def _has_selection_cache(cache_url: str, cache: CachedEmbeddings) -> bool:
    """Whether train-projection would choose the epoch on another cache than this one."""
    if cache.split == SELECTION_SPLIT:
        return False
    try:
        open_cache(Folder(join_url(split_url(cache_url)[0], SELECTION_SPLIT)))
    except CacheNotFoundError:
        return False
    return True
