"""What a projection head looks like, without torch.

Conventions: options of the CNN carry `vision_` in their names, as on the command line.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from e2i.configuration import Configuration
from e2i.images.config import ImageChannelMode, ImageMode, ImagesConfig, ImageSize

InputType = Literal["embedding", "vision"]
"""What a head sees: the embedding, or the pseudo-image folded from it."""

VisionImageSource = Literal["auto", "generated", "disk"]
"""Where pseudo-images come from; it changes no pixel."""

_AUDIO_FOLDER = "/audio"


class HeadsConfig(Configuration):
    """An audio head and a text head: linear or MLP on embeddings, vision on pseudo-images."""

    input_type: InputType = Field(
        "embedding",
        description="What the audio head sees: 'embedding', or 'vision': the pseudo-images of the "
        "embeddings.",
    )
    text_input_type: InputType = Field(
        "embedding",
        description="What the text head sees, likewise; pseudo-images of captions are always "
        "generated.",
    )
    audio_pooling: Literal["mean", "attention"] = Field(
        "mean",
        description="How a clip's windows become its embedding: 'mean' takes what the cache holds; "
        "'attention' learns how much each window counts, in a cache made with --store-windows.",
    )
    head_type: Literal["mlp", "linear"] = Field(
        "mlp",
        description="What projects embeddings: an MLP with one hidden layer, or a single linear "
        "layer.",
    )
    text_head_type: Literal["same", "mlp", "linear"] = Field(
        "same",
        description="What projects the embeddings of captions, where that is to be another than "
        "--head-type.",
    )
    hidden_dim: int = Field(
        512, ge=1, le=65_536, description="Width of the hidden layer of the MLPs."
    )
    out_dim: int = Field(
        256, ge=1, le=65_536, description="Length of a projection, in the space both sides share."
    )
    activation: Literal["relu", "gelu"] = Field(
        "relu", description="Nonlinearity between the two layers of an MLP."
    )
    dropout: float = Field(
        0.1, ge=0.0, lt=1.0, description="Share of hidden units dropped in training."
    )
    standardize_input: bool = Field(
        False,
        description="Give each dimension of the embeddings mean 0 and deviation 1, by the "
        "statistics of the training clips and captions, which the checkpoint keeps; pseudo-images "
        "are folded from what comes out, as by cache-images --standardize.",
    )
    vision_base_channels: int = Field(
        32,
        ge=1,
        le=1024,
        description="Channels of the CNN's first stage; each of the four that follow doubles them.",
    )
    vision_hidden_dim: int = Field(
        512, ge=1, le=65_536, description="Width of the hidden layer behind the CNN."
    )
    vision_pooling: Literal["average", "none"] = Field(
        "average",
        description="What becomes of the CNN's last maps: their averages, or all their cells, so "
        "that it matters where something stands; maps are then not reduced below 4 x 4.",
    )
    vision_backbone: str = Field(
        "",
        max_length=100,
        pattern=r"^([a-z0-9_]+(\.[A-Za-z0-9_]+)?)?$",
        description="Name of a timm model to take in place of the CNN, such as resnet18; its "
        "weights are random unless --vision-backbone-weights names some. Nothing is downloaded.",
    )
    vision_backbone_weights: str = Field(
        "",
        description="File or URL of weights for the backbone: safetensors, or a PyTorch file of "
        "tensors alone.",
    )
    vision_image_source: VisionImageSource = Field(
        "auto",
        description="'generated': fold the pseudo-images from the embeddings; 'disk': read the "
        "stored ones, all of which have to be there, made with these settings; 'auto': stored "
        "ones where they are, else generated. The pixels are the same.",
    )
    vision_image_dir: str = Field(
        f"pseudo_images{_AUDIO_FOLDER}",
        max_length=206,
        description="Folder of the stored pseudo-images, relative to the cache: the --images-dir "
        f"of cache-images and '{_AUDIO_FOLDER}'.",
    )
    vision_image_size: ImageSize = Field(
        128,
        description="Side of the pseudo-images in pixels (1 to 4096), or 'native': the smallest "
        "square that holds the embedding.",
    )
    vision_image_mode: ImageMode = Field(
        "nearest", description="How the folded image is resized to vision_image_size."
    )
    vision_image_channel_mode: ImageChannelMode = Field(
        "split",
        description="'split' lays thirds of the embedding into red, green and blue; 'replicate' "
        "lays the whole embedding into each of them.",
    )
    vision_clip_images: bool = Field(
        False, description="Clamp embeddings to [-1, 1] before they are scaled to pixels."
    )

    @model_validator(mode="after")
    def _weights_have_their_backbone(self) -> Self:
        if self.vision_backbone_weights and not self.vision_backbone:
            message = (
                "weights without their backbone: got vision_backbone_weights "
                f"{self.vision_backbone_weights!r} and no vision_backbone, expected both. Name the "
                "timm model that they are of."
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _attention_is_over_embeddings(self) -> Self:
        if self.audio_pooling == "attention" and self.input_type == "vision":
            message = (
                "attention over windows is learned through the embedding: got audio_pooling "
                "'attention' and input_type 'vision', whose pixels have no gradient, expected "
                "input_type 'embedding'. Leave --audio-pooling at mean."
            )
            raise ValueError(message)
        return self

    @field_validator("vision_image_dir")
    @classmethod
    def _holds_images_of_clips(cls, value: str) -> str:
        if not value.endswith(_AUDIO_FOLDER):
            message = (
                f"the CNN sees the pseudo-images of clips: got {value!r}, expected a folder that "
                f"ends with '{_AUDIO_FOLDER}'. Give the --images-dir of cache-images and that."
            )
            raise ValueError(message)
        try:
            ImagesConfig(images_dir=value.removesuffix(_AUDIO_FOLDER))
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ValueError(reason) from error
        return value

    def images(self) -> ImagesConfig:
        """How pseudo-images are folded, and where stored ones lie, in the terms of `e2i.images`."""
        return ImagesConfig(
            image_size=self.vision_image_size,
            image_mode=self.vision_image_mode,
            image_channel_mode=self.vision_image_channel_mode,
            images_dir=self.vision_image_dir.removesuffix(_AUDIO_FOLDER),
            clip_values=self.vision_clip_images,
            standardize=self.standardize_input,
        )
