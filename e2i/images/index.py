"""The index beside the stored pseudo-images: which files were checked, and how they were made.

Conventions: `images.json`, an object with `format`, `settings` (one for all images in it) and
`images`: file name to the digest of the embedding, and the size and version of the file that was
checked. It saves reading the images and decides nothing that they do not say themselves; an index
that cannot be read is an empty one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter, ValidationError

from e2i.errors import StorageNotFoundError
from e2i.images.config import ImagesConfig
from e2i.images.fold import digest_for, image_side
from e2i.images.png import FORMAT, StoredImage
from e2i.images.standardization import Standardization
from e2i.storage import FileInfo, Folder

INDEX_NAME = "images.json"


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """All that pixels depend on beside the embedding, and the encoder that made that.

    Attributes:
        fingerprint: of the encoder.
        dim: D, the length of the embeddings.
        image_size: S, in pixels.
        image_mode: how they were resized.
        image_channel_mode: how they were laid into channels.
        clip_values: whether the embeddings were clamped.
        format: version of the images' format.
        standardization: digest of the statistics that the embeddings were standardized by; empty:
            they were not.
    """

    fingerprint: str
    dim: int
    image_size: int
    image_mode: str
    image_channel_mode: str
    clip_values: bool
    format: int = FORMAT
    standardization: str = ""

    @classmethod
    def wanted(
        cls,
        config: ImagesConfig,
        dim: int,
        fingerprint: str,
        standardization: Standardization | None = None,
    ) -> ImageSettings:
        """What `config` asks for, for embeddings of `dim` values.

        Raises:
            ImageError: it asks to standardize, and there are no statistics.
        """
        return cls(
            fingerprint=fingerprint,
            dim=dim,
            image_size=image_side(dim, config),
            image_mode=config.image_mode,
            image_channel_mode=config.image_channel_mode,
            clip_values=config.clip_values,
            standardization=digest_for(config, standardization),
        )

    @classmethod
    def stored(cls, image: StoredImage) -> ImageSettings:
        """What a stored image says of itself."""
        return cls(
            fingerprint=image.label.fingerprint,
            dim=image.images.dim,
            image_size=image.images.pixels.shape[-1],
            image_mode=image.images.image_mode,
            image_channel_mode=image.images.image_channel_mode,
            clip_values=image.images.clip_values,
            standardization=image.images.standardized_by,
        )

    def difference(self, other: ImageSettings) -> tuple[str, object, object] | None:
        """The first setting that differs: its name, its value here and there; or None."""
        theirs = asdict(other)
        for name, value in asdict(self).items():
            if theirs[name] != value:
                return name, value, theirs[name]
        return None


@dataclass(frozen=True, slots=True)
class IndexedImage:
    """One image that was checked.

    Attributes:
        embedding: digest of its embedding.
        size_bytes: size of the file.
        version: of the file, as the store tells it.
    """

    embedding: str
    size_bytes: int
    version: str

    def is_file(self, file: FileInfo) -> bool:
        """Whether the file still is the one that was checked."""
        return (self.size_bytes, self.version) == (file.size_bytes, file.version)


@dataclass(frozen=True, slots=True)
class ImageIndex:
    """The images that were checked, and the settings that all of them have."""

    settings: ImageSettings | None
    images: Mapping[str, IndexedImage]


@dataclass(frozen=True, slots=True)
class _StoredIndex:
    settings: ImageSettings
    images: dict[str, IndexedImage]


_form = TypeAdapter(_StoredIndex)


def read_index(folder: Folder) -> ImageIndex:
    """The index of a folder; empty where there is none, or none that can be read."""
    try:
        stored = _form.validate_json(folder.read(INDEX_NAME), strict=True)
    except (StorageNotFoundError, ValidationError):
        return ImageIndex(settings=None, images={})
    return ImageIndex(stored.settings, stored.images)


def write_index(folder: Folder, index: ImageIndex) -> None:
    """Replace the index of a folder."""
    if index.settings is None:
        return
    content = {
        "settings": asdict(index.settings),
        "images": {
            name: {
                "embedding": image.embedding,
                "size_bytes": image.size_bytes,
                "version": image.version,
            }
            for name, image in sorted(index.images.items())
        },
    }
    folder.write(INDEX_NAME, json.dumps(content, separators=(",", ":")).encode())
