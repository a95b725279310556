"""Both heads and the logit scale, made from a configuration.

Decides: weights are drawn on the CPU, so the same seed gives the same heads on every device; the
two sides have streams of their own, so the size of one does not change the other.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from e2i.heads.backbone import BackboneHead, BackboneWeights
from e2i.heads.cnn import CNNHead
from e2i.heads.config import HeadsConfig, InputType
from e2i.heads.mlp import LinearHead, MLPHead
from e2i.heads.pooling import AttentionPooling, Windows, mean_pooled

Head = LinearHead | MLPHead | CNNHead | BackboneHead

MAX_LOGIT_SCALE = math.log(100.0)
"""A learned logit scale is clamped to [0, log 100]. Source: Radford et al. 2021, section 2.5."""


def seeded_generator(
    seed: int, purpose: str, device: torch.device | None = None
) -> torch.Generator:
    """A generator of its own for each purpose, so that one cannot shift the draws of another."""
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    generator = torch.Generator(device or torch.device("cpu"))
    generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return generator


class ProjectionHeads(nn.Module):
    """An audio head, a text head and the logit scale between them."""

    logit_scale: Tensor

    def __init__(
        self,
        audio: Head,
        text: Head,
        temperature: float,
        *,
        learn: bool,
        pooling: AttentionPooling | None = None,
    ) -> None:
        """Join two heads; `logit_scale` is log(1/temperature), a parameter where it is learned.

        Without `pooling` a clip's embedding is the mean of its windows.
        """
        super().__init__()
        self.audio = audio
        self.text = text
        self.pooling = pooling
        scale = torch.tensor(math.log(1.0 / temperature), dtype=torch.float32)
        if learn:
            self.logit_scale = nn.Parameter(scale)
        else:
            self.register_buffer("logit_scale", scale)

    def pool(self, windows: Windows) -> Tensor:
        """The embeddings (B, D) of clips, of their windows."""
        return mean_pooled(windows) if self.pooling is None else self.pooling(windows)

    def project_audio(self, audio: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """To L2-normalized (B, P); dropout and statistics of the batch only with a generator.

        Args:
            audio: embeddings (B, D_audio), or for a vision head also their pseudo-images, uint8
                (B, 3, S, S).
            generator: given in training alone.
        """
        return functional.normalize(self.audio(audio, generator).float(), dim=-1)

    def project_text(self, text: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B, D_text) to L2-normalized (B, P); dropout only where a generator is given."""
        return functional.normalize(self.text(text, generator).float(), dim=-1)

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Hold a learned logit scale in [0, log 100]."""
        self.logit_scale.clamp_(0.0, MAX_LOGIT_SCALE)


def unset_heads(
    config: HeadsConfig,
    audio_dim: int,
    text_dim: int,
    device: torch.device,
    *,
    temperature: float = 0.07,
    learn_temperature: bool = False,
) -> ProjectionHeads:
    """Heads of the right shapes without values, as `build_heads` makes them, on a device."""
    of_text = config.head_type if config.text_head_type == "same" else config.text_head_type
    audio = _unset_head(config, config.input_type, config.head_type, audio_dim, device)
    text = _unset_head(config, config.text_input_type, of_text, text_dim, device)
    pooling = AttentionPooling(audio_dim, device) if config.audio_pooling == "attention" else None
    return ProjectionHeads(audio, text, temperature, learn=learn_temperature, pooling=pooling)


def _unset_head(
    config: HeadsConfig,
    input_type: InputType,
    head_type: str,
    in_dim: int,
    device: torch.device,
) -> Head:
    if input_type == "vision":
        vision = BackboneHead if config.vision_backbone else CNNHead
        return vision(config, in_dim, device)
    plain = LinearHead if head_type == "linear" else MLPHead
    return plain(config, in_dim, device)


def build_heads(
    config: HeadsConfig,
    audio_dim: int,
    text_dim: int,
    *,
    seed: int,
    temperature: float = 0.07,
    learn_temperature: bool = False,
    backbone: BackboneWeights | None = None,
) -> ProjectionHeads:
    """Untrained heads, on the CPU, the same for the same seed.

    Args:
        config: what a head looks like.
        audio_dim: D of the audio embeddings.
        text_dim: D of the text embeddings; may differ.
        seed: of the weights. The global random state is neither read nor changed.
        temperature: of the softmax, before training.
        learn_temperature: whether `logit_scale` is a parameter.
        backbone: weights to start from; random ones without.

    Raises:
        ConfigError: the backbone does not exist, or takes no images of this size.
        CheckpointError: the weights are not those of the backbone.
    """
    heads = unset_heads(
        config,
        audio_dim,
        text_dim,
        torch.device("cpu"),
        temperature=temperature,
        learn_temperature=learn_temperature,
    )
    heads.audio.reset(seeded_generator(seed, "audio head"))
    heads.text.reset(seeded_generator(seed, "text head"))
    if heads.pooling is not None:
        heads.pooling.reset()
    for head in (heads.audio, heads.text):
        if backbone is not None and isinstance(head, BackboneHead):
            head.load_backbone(backbone.tensors, backbone.source)
    return heads
