"""The arms of a sweep: what each audio head is, and what it is given to see.

Decides: arms differ in the audio head alone. The text head of a budget is the same in all of them:
an MLP of the width that the MLP arm has there.

| arm | audio head | sees |
|---|---|---|
| `linear` | one linear layer: it has no width, so it stays as it is | the embedding |
| `mlp` | MLP with one hidden layer | the embedding |
| `mlp-decoded` | the same | the embedding decoded from its 8-bit pseudo-image |
| `cnn-native` | CNN with global average pooling | the pseudo-image, one pixel a cell |
| `cnn-128` | the same | the pseudo-image enlarged to 128 px |
| `cnn-permuted` | the same | the native image, its cells in one random order for all clips |
| `cnn-unpooled` | CNN without global pooling | the pseudo-image, one pixel a cell |

So `mlp-decoded` against `mlp` is what 8 bits cost, `cnn-permuted` against `cnn-native` what the
neighborhood of cells is worth, `cnn-128` what enlarging is. What an arm sees other than the plain
embedding or image is marked in the fingerprint of its caches, and so in its checkpoints, which
therefore refuse plain caches.

Conventions: C clips, D embedding, S image side. A permutation moves whole cells: the three channels
of a cell stay together, padding moves along.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from e2i.cache.embeddings import CachedEmbeddings
from e2i.heads.config import HeadsConfig
from e2i.images.config import ImagesConfig
from e2i.images.fold import decode_images, encode_images
from e2i.images.standardization import Standardization
from e2i.sweep.config import ArmName, SweepConfig
from e2i.training.pseudo_images import LoadStored

ARM_WORDS: dict[ArmName, str] = {
    "linear": "linear",
    "mlp": "MLP",
    "mlp-decoded": "MLP on decoded image",
    "cnn-native": "CNN, native size",
    "cnn-128": "CNN, 128 px",
    "cnn-permuted": "CNN, cells permuted",
    "cnn-unpooled": "CNN, not pooled",
}
"""What people read."""

ARM_EXPLANATIONS: dict[ArmName, str] = {
    "linear": "one linear layer on the embedding; it has no width, so no budget changes it",
    "mlp": "one hidden layer on the embedding; what all others are held against",
    "mlp-decoded": "the MLP on the embedding as decoded from its 8-bit pseudo-image",
    "cnn-native": "convolutions on the pseudo-image of one pixel a cell, then global pooling",
    "cnn-128": "the same on the pseudo-image enlarged to 128 px by nearest",
    "cnn-permuted": "the same at native size, the cells in one random order for all clips",
    "cnn-unpooled": "convolutions at native size without global pooling, so that places count",
}
"""What each is, in half a sentence."""


def is_vision(arm: ArmName) -> bool:
    """Whether the arm's audio head is a CNN."""
    return arm.startswith("cnn")


def arm_heads(arm: ArmName, config: SweepConfig) -> HeadsConfig:
    """What the heads of an arm look like, but for their widths."""
    heads = HeadsConfig(
        head_type="linear" if arm == "linear" else "mlp",
        text_head_type="mlp",
        out_dim=config.out_dim,
        standardize_input=config.standardize_input,
    )
    if not is_vision(arm):
        return heads
    return heads.model_copy(
        update={
            "input_type": "vision",
            "vision_image_size": 128 if arm == "cnn-128" else "native",
            "vision_pooling": "none" if arm == "cnn-unpooled" else "average",
            # Permuted images come as if they were stored; the others are folded on the fly.
            "vision_image_source": "disk" if arm == "cnn-permuted" else "generated",
        }
    )


def seen_by(
    arm: ArmName, cache: CachedEmbeddings, seed: int, standardization: Standardization | None
) -> CachedEmbeddings:
    """A cache as an arm sees it: where that is not the plain one, its audio fingerprint says so.

    Args:
        arm: which.
        cache: as it is stored.
        seed: of the permutation.
        standardization: of the training clips, where the heads standardize; the images that
            `mlp-decoded` decodes are folded from what comes out, as the CNNs' are.
    """
    if arm == "mlp-decoded":
        images = ImagesConfig(image_size="native", standardize=standardization is not None)
        encoded = encode_images(cache.audio, images, cache.clip_ids, standardization)
        decoded = decode_images(encoded, standardization)
        return replace(cache, audio=decoded, audio_fingerprint=f"{cache.audio_fingerprint}-decoded")
    if arm == "cnn-permuted":
        return replace(cache, audio_fingerprint=f"{cache.audio_fingerprint}-permuted-{seed}")
    return cache


def images_for(arm: ArmName, seed: int) -> LoadStored | None:
    """Where the images of an arm come from, if they are not folded on the fly."""
    if arm != "cnn-permuted":
        return None

    def load(
        cache: CachedEmbeddings, config: ImagesConfig, by: Standardization | None
    ) -> NDArray[np.uint8]:
        images = encode_images(cache.audio, config, cache.clip_ids, by)
        return permuted_cells(images.pixels, seed)

    return load


def permuted_cells(pixels: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Images with their cells in one random order, the same for every clip and channel.

    Args:
        pixels: uint8 (C, 3, S, S).
        seed: of the order, which also depends on S.
    """
    side = pixels.shape[-1]
    order = np.random.default_rng([seed, side]).permutation(side * side)
    moved: NDArray[np.uint8] = pixels.reshape(*pixels.shape[:2], -1)[:, :, order]
    return moved.reshape(pixels.shape)
