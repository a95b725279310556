"""Reading stored pseudo-images back.

Conventions: no image is taken for another: each says itself what it shows and how it was made, and
that is held against what is asked for, image by image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from e2i.errors import ImageError, StorageNotFoundError
from e2i.images.config import ImagesConfig
from e2i.images.fold import NUM_CHANNELS, decode_images
from e2i.images.index import ImageSettings
from e2i.images.names import Side, png_name
from e2i.images.png import StoredImage
from e2i.images.standardization import Standardization, read_standardization
from e2i.images.stored import StoredImages, embedding_digest
from e2i.storage import Folder


def load_images(
    folder: Folder,
    side: Side,
    ids: Sequence[str],
    config: ImagesConfig,
    *,
    fingerprint: str,
    embeddings: NDArray[np.float32] | None = None,
    standardization: Standardization | None = None,
) -> NDArray[np.uint8]:
    """The stored pixels of these clips or captions, in the order of the ids.

    Args:
        folder: the cache.
        side: whose embeddings they are.
        ids: N ids.
        config: how they have to have been folded, and where the images lie.
        fingerprint: of the encoder that has to have made the embeddings.
        embeddings: float32 (N, D), which the images have to show; without them, images of former
            embeddings by the same encoder pass.
        standardization: what they have to have been standardized by, where `config` says so.

    Returns:
        uint8 (N, 3, S, S).

    Raises:
        ImageError: an image is missing, broken, or made otherwise.
        StorageError: the store refused.
    """
    digests = None if embeddings is None else [embedding_digest(row) for row in embeddings]
    if digests is not None and len(digests) != len(ids):
        raise ImageError(
            f"ids and embeddings do not match: got {len(ids)} ids and {len(digests)} embeddings, "
            "expected one for each. Read both from one cache."
        )
    if not ids:
        size = 0 if config.image_size == "native" else config.image_size
        return np.zeros((0, NUM_CHANNELS, size, size), dtype=np.uint8)
    with StoredImages(folder, side, config) as stored:

        def load(row: int) -> NDArray[np.uint8]:
            image = _read(stored, side, ids[row])
            expected = ImageSettings.wanted(config, image.images.dim, fingerprint, standardization)
            _check(image, ids[row], expected, None if digests is None else digests[row])
            pixels: NDArray[np.uint8] = image.images.pixels[0]
            return pixels

        first = load(0)
        pixels = np.empty((len(ids), *first.shape), dtype=np.uint8)
        for row, loaded in stored.each(load, range(len(ids))):
            if loaded.shape != first.shape:
                raise ImageError(
                    f"pseudo-images of one cache have one size: got {loaded.shape[-1]} px for "
                    f"{ids[row]!r}, expected {first.shape[-1]} px. Run e2i cache-images."
                )
            pixels[row] = loaded
    return pixels


def load_embeddings(
    folder: Folder, side: Side, ids: Sequence[str], config: ImagesConfig
) -> NDArray[np.float32]:
    """The embeddings that stored images show, decoded, in the order of the ids.

    Args:
        folder: the cache.
        side: whose embeddings they are.
        ids: N ids.
        config: says where the images lie; how they were made they say themselves.

    Returns:
        float32 (N, D), to half an 8-bit step; statistics are read where images are standardized.

    Raises:
        ImageError: there are no ids, or an image or its statistics are missing or broken, or
            cannot be decoded.
        StorageError: the store refused.
    """
    if not ids:
        raise ImageError(
            "there is nothing to decode: got no ids, expected at least one. Give the ids of clips "
            "or captions of the cache."
        )
    rows: dict[int, NDArray[np.float32]] = {}
    with StoredImages(folder, side, config) as stored:
        read = cache(lambda digest: read_standardization(stored.folder, digest))

        def load(row: int) -> NDArray[np.float32]:
            images = _read(stored, side, ids[row]).images
            by = images.standardized_by
            embedding: NDArray[np.float32] = decode_images(images, read(by) if by else None)[0]
            return embedding

        rows.update(stored.each(load, range(len(ids))))
    return np.stack([rows[row] for row in range(len(ids))])


def _read(stored: StoredImages, side: Side, item_id: str) -> StoredImage:
    name = png_name(side, item_id)
    try:
        return stored.read(name)
    except StorageNotFoundError as error:
        raise ImageError(
            f"the pseudo-image of {side} {item_id!r} is missing: got no file {name} in "
            f"{stored.folder.url}, expected one. Run e2i cache-images."
        ) from error


def _check(image: StoredImage, item_id: str, expected: ImageSettings, digest: str | None) -> None:
    """An error unless a stored image shows what it should."""
    label = image.label
    differing = ImageSettings.stored(image).difference(expected)
    if differing is None and label.item_id != item_id:
        differing = ("id", label.item_id, item_id)
    if differing is None and digest is not None and label.embedding_digest != digest:
        differing = ("embedding", label.embedding_digest, digest)
    if differing is not None:
        setting, got, want = differing
        step = "Run e2i cache-images with these settings."
        if setting == "standardization" and want:
            step = (
                "Train from generated images, or run e2i cache-images --standardize "
                "--standardize-by with the cache or checkpoint whose training clips these are."
            )
        raise ImageError(
            f"the stored pseudo-image {png_name(label.side, item_id)} was made otherwise: got "
            f"{setting} {got!r}, expected {want!r}. {step}"
        )
