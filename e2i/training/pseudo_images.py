"""Where the CNN's pseudo-images come from: folded on the fly, or read from the cache.

Decides: stored images are taken only if each says that it shows the embedding that the cache holds,
folded with the settings asked for. So `generated` and `disk` are the same pixels, and `auto` may
take either. Images that fit are kept ready on the device as uint8, folded once; where they would
take more than `MAX_IMAGES_BYTES`, the head folds each batch anew.

Shape letters: C clips, D embedding, S image side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e2i.cache.embeddings import CachedEmbeddings
from e2i.errors import ConfigError, ImageError
from e2i.heads.cnn import fold_embeddings
from e2i.heads.config import HeadsConfig
from e2i.images.config import ImagesConfig
from e2i.images.fold import NUM_CHANNELS, image_side
from e2i.images.load import load_images
from e2i.images.standardization import Standardization
from e2i.storage import Folder

MAX_IMAGES_BYTES = 2 * 2**30
"""Of the pixels of one part (training, validation) that are kept ready: 43,690 clips at 128 px."""

LoadStored = Callable[[CachedEmbeddings, ImagesConfig, Standardization | None], NDArray[np.uint8]]
"""The stored pseudo-images of a cache's clips, uint8 (C, 3, S, S), in its order, standardized by
these statistics where the configuration says so; raises ImageError where one is missing, broken or
made otherwise."""


def stored_images_of(*folders: Folder) -> LoadStored:
    """Reads the stored pseudo-images of the caches in these folders."""
    by_url = {folder.url: folder for folder in folders}

    def load(
        cache: CachedEmbeddings, config: ImagesConfig, standardization: Standardization | None
    ) -> NDArray[np.uint8]:
        return load_images(
            by_url[cache.url],
            "audio",
            cache.clip_ids,
            config,
            fingerprint=cache.audio_fingerprint,
            embeddings=cache.audio,
            standardization=standardization,
        )

    return load


def stored_images(
    caches: Sequence[CachedEmbeddings],
    heads: HeadsConfig,
    load_stored: LoadStored | None,
    standardization: Standardization | None = None,
) -> NDArray[np.uint8] | None:
    """The stored pseudo-images of all clips of the caches, one after the other.

    Args:
        caches: by one encoder, at least one.
        heads: says whether images are wanted, which, and whether from the disk.
        load_stored: reads those of one cache; None where there are none to be read.
        standardization: of the audio head, where it standardizes.

    Returns:
        uint8 (C, 3, S, S); None where the images are to be generated, or the head takes none.

    Raises:
        ImageError: `disk`, and an image is missing, broken or made otherwise.
        ConfigError: `disk`, and there is nothing to read from, or too much to hold.
        StorageError: the store refused.
    """
    if heads.input_type != "vision" or heads.vision_image_source == "generated":
        return None
    from_disk = heads.vision_image_source == "disk"
    num_clips, dim = sum(len(cache.clip_ids) for cache in caches), caches[0].audio.shape[1]
    num_bytes = images_bytes(num_clips, dim, heads)
    if load_stored is None or num_bytes > MAX_IMAGES_BYTES:
        if not from_disk:
            return None
        got = f"{num_bytes / 2**30:.1f} GiB for {num_clips} clips"
        message = (
            "pseudo-images cannot be read from the disk here: got "
            f"{'no folder to read from' if load_stored is None else got}, expected a cache's "
            f"folder and at most {MAX_IMAGES_BYTES / 2**30:.0f} GiB. "
            "Use --vision-image-source generated, which gives the same pixels."
        )
        raise ConfigError(message)
    try:
        return np.concatenate(
            [load_stored(cache, heads.images(), standardization) for cache in caches]
        )
    except ImageError:
        if from_disk:
            raise
        return None


def images_bytes(num_clips: int, dim: int, heads: HeadsConfig) -> int:
    """Size of the pixels of so many clips."""
    return num_clips * NUM_CHANNELS * image_side(dim, heads.images()) ** 2


def audio_input(
    audio: NDArray[np.float32],
    images: NDArray[np.uint8] | None,
    heads: HeadsConfig,
    device: torch.device,
    standardization: Standardization | None = None,
) -> Tensor:
    """What the audio head is given for these clips, on a device.

    Args:
        audio: embeddings (C, D).
        images: their stored pseudo-images (C, 3, S, S), if they were read.
        heads: what the head looks like.
        device: where to.
        standardization: what images are standardized by, where the head says so.

    Returns:
        uint8 (C, 3, S, S) for a CNN; float32 (C, D) for an MLP, and for a CNN whose images are too
        large to keep, which folds them itself.
    """
    if images is not None:
        return torch.from_numpy(images).to(device, memory_format=torch.channels_last)
    embeddings = torch.from_numpy(audio).to(device)
    num_clips, dim = audio.shape
    if heads.input_type != "vision" or images_bytes(num_clips, dim, heads) > MAX_IMAGES_BYTES:
        return embeddings
    statistics = None
    if standardization is not None:
        values = (standardization.mean, standardization.deviation)
        mean, deviation = (torch.from_numpy(one.copy()).to(device) for one in values)
        statistics = (mean, deviation)
    pixels = fold_embeddings(embeddings, heads, statistics)
    return pixels.contiguous(memory_format=torch.channels_last)
