"""How embeddings become pseudo-images: the options, without torch.

Conventions: sizes in pixels; an image is square. `native` is the side that the fold itself gives,
the smallest square that holds the embedding: enlarging it by `nearest` adds pixels, not
information.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from e2i.configuration import Configuration

ImageMode = Literal["nearest", "nearest-exact", "bilinear", "bicubic", "area"]
"""Ways to resize: those that `torch.nn.functional.interpolate` has for images."""

ImageChannelMode = Literal["split", "replicate"]
"""Ways to lay an embedding into the three channels."""

ImageSize = Annotated[int, Field(ge=1, le=4096)] | Literal["native"]
"""Side in pixels, or the side that the fold gives."""

_FOLDER_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$"
_FOLDERS_OF_SHARDS = ("audio", "text")


class ImagesConfig(Configuration):
    """How embeddings become pseudo-images, and where these lie in the cache."""

    image_size: ImageSize = Field(
        default=128,
        description="Side of the pseudo-images in pixels (1 to 4096), or 'native': the smallest "
        "square that holds the embedding.",
    )
    image_mode: ImageMode = Field(
        default="nearest",
        description="How the folded image is resized to image_size. Only 'nearest' can be decoded.",
    )
    image_channel_mode: ImageChannelMode = Field(
        default="split",
        description="'split' lays thirds of the embedding into red, green and blue; 'replicate' "
        "lays the whole embedding into each of them.",
    )
    images_dir: str = Field(
        default="pseudo_images",
        max_length=200,
        json_schema_extra={"pattern": _FOLDER_PATTERN},
        description="Folder of the PNGs, relative to the cache: letters, digits, '_', '.', '-', "
        "with '/' between folders.",
    )
    clip_values: bool = Field(
        default=False,
        description="Clamp embeddings to [-1, 1] before they are scaled; such images cannot be "
        "decoded.",
    )
    standardize: bool = Field(
        default=False,
        description="Give each dimension mean 0 and deviation 1 over the training clips (captions) "
        "before anything else, so that one outlying dimension does not take all gray levels.",
    )
    standardize_by: str = Field(
        default="",
        description="Cache or checkpoint whose training clips the statistics are of; default: the "
        "cache 'development' beside a cache of another split, else the cache itself. Training "
        "clips are those that train-projection would not hold out: all of them where a cache "
        "'validation' lies beside.",
    )

    @field_validator("images_dir")
    @classmethod
    def _is_plain_folder(cls, value: str) -> str:
        plain = re.fullmatch(_FOLDER_PATTERN, value) is not None
        if not plain or value.split("/", maxsplit=1)[0] in _FOLDERS_OF_SHARDS:
            message = (
                f"the folder of the pseudo-images is not a plain name: got {value!r}, expected "
                "letters, digits, '_', '.', '-' and '/' between folders, and neither 'audio' nor "
                "'text', which hold the shards. Leave it at 'pseudo_images'."
            )
            raise ValueError(message)
        return value

    @model_validator(mode="after")
    def _statistics_have_a_use(self) -> Self:
        if self.standardize_by and not self.standardize:
            message = (
                f"statistics without their use: got standardize_by {self.standardize_by!r} and "
                "not standardize, expected both. Give --standardize too."
            )
            raise ValueError(message)
        return self
