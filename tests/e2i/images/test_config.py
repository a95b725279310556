from __future__ import annotations

import pytest
from pydantic import ValidationError

from e2i.images.config import ImagesConfig


def test_the_defaults_are_the_originals():
    assert ImagesConfig().model_dump() == {
        "image_size": 128,
        "image_mode": "nearest",
        "image_channel_mode": "split",
        "images_dir": "pseudo_images",
        "clip_values": False,
        "standardize": False,
        "standardize_by": "",
    }


@pytest.mark.parametrize("size", [1, 16, 4096, "native"])
def test_sizes_that_are_taken(size):
    assert ImagesConfig(image_size=size).image_size == size


@pytest.mark.parametrize("size", [0, -1, 4097, 12.5, "big", None])
def test_sizes_that_are_refused(size):
    with pytest.raises(ValidationError, match="image_size"):
        ImagesConfig(image_size=size)


@pytest.mark.parametrize("folder", ["pseudo_images", "images/v2", "a.b-c", "audios", "_x/audio"])
def test_folders_that_are_taken(folder):
    assert ImagesConfig(images_dir=folder).images_dir == folder


NO_PLAIN_NAMES = ["", ".", "..", "../x", "a/../b", "/tmp/x", "s3://b/x", "a b", "a//b", "a/", ".x"]
FOLDERS_OF_SHARDS = ["audio", "text", "audio/x", "text/images"]


@pytest.mark.parametrize("folder", [*NO_PLAIN_NAMES, *FOLDERS_OF_SHARDS, "a\n"])
def test_folders_that_are_refused(folder):
    with pytest.raises(ValidationError) as caught:
        ImagesConfig(images_dir=folder)
    assert (
        f"the folder of the pseudo-images is not a plain name: got {folder!r}, expected letters, "
        "digits, '_', '.', '-' and '/' between folders, and neither 'audio' nor 'text', which hold "
        "the shards. Leave it at 'pseudo_images'."
    ) in str(caught.value)


def test_statistics_need_their_use():
    with pytest.raises(ValidationError) as caught:
        ImagesConfig(standardize_by="embeddings/development")
    assert (
        "statistics without their use: got standardize_by 'embeddings/development' and not "
        "standardize, expected both. Give --standardize too."
    ) in str(caught.value)


def test_the_schema_of_the_form_keeps_choices_bounds_and_descriptions():
    properties = ImagesConfig.model_json_schema()["properties"]

    assert properties["image_mode"]["enum"] == [
        "nearest",
        "nearest-exact",
        "bilinear",
        "bicubic",
        "area",
    ]
    assert properties["image_channel_mode"]["enum"] == ["split", "replicate"]
    assert {"type": "integer", "minimum": 1, "maximum": 4096} in properties["image_size"]["anyOf"]
    assert all("description" in field for field in properties.values())
