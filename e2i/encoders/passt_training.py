"""PaSST as it is trained: with gradients, patch-out, and the published names for its weights.

Conventions: as in `passt_model`, whose numbers these are when nothing is drawn at random. A state
dict has the published names and shapes, so that what was trained is stored and read as published
weights are. All randomness comes from a generator that the caller passes; what it draws (patches
left out, edges of the mel bands) is the same for all windows of a call, as in hear21passt.

Source: K. Koutini et al., "Efficient training of audio transformers with Patchout", Interspeech
2022.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from e2i.encoders.passt_architectures import DIM, PATCH, Architecture
from e2i.encoders.passt_model import HEADS, HIGHEST_HZ, NORM_EPS, LogMel, mel_bank

AttentionName = Literal["fused", "explicit"]


@dataclass(frozen=True, slots=True)
class PasstNoise:
    """What training changes at random.

    Attributes:
        patchout_time: columns of patches left out of a window of the architecture's length; of a
            shorter one in proportion.
        patchout_frequency: rows of patches left out.
        mel_jitter_low: the lowest edge of the mel bands is raised by 0 to so many Hz (exclusive).
        mel_jitter_high: the highest is moved within so many Hz about its place.
    """

    patchout_time: int = 0
    patchout_frequency: int = 0
    mel_jitter_low: int = 0
    mel_jitter_high: int = 0


class _Attention(nn.Module):
    def __init__(self, kind: AttentionName) -> None:
        super().__init__()
        self._fused = kind == "fused"
        self.qkv = nn.Linear(DIM, 3 * DIM)
        self.proj = nn.Linear(DIM, DIM)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, 768) likewise."""
        batch, count, _ = tokens.shape
        parts = self.qkv(tokens).view(batch, count, 3, HEADS, DIM // HEADS).transpose(1, 3)
        query, key, value = parts.unbind(2)  # (B, heads, N, 64) each
        if self._fused:
            heard = functional.scaled_dot_product_attention(query, key, value)
        else:
            scores = query @ key.transpose(-2, -1) * (DIM // HEADS) ** -0.5
            heard = scores.softmax(-1).to(value.dtype) @ value
        mixed: Tensor = self.proj(heard.transpose(1, 2).reshape(batch, count, DIM))
        return mixed


class _Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)

    def forward(self, tokens: Tensor) -> Tensor:
        mapped: Tensor = self.fc2(functional.gelu(self.fc1(tokens)))
        return mapped


class _Block(nn.Module):
    def __init__(self, attention: AttentionName) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM, NORM_EPS), nn.LayerNorm(DIM, NORM_EPS)
        self.attn = _Attention(attention)
        self.mlp = _Mlp()

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))  # type: ignore[no-any-return]


class _PatchEmbedding(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, DIM, PATCH, stride)

    def forward(self, spectrograms: Tensor) -> Tensor:
        """(B, 128, frames) to (B, 768, F, C)."""
        patches: Tensor = self.proj(spectrograms[:, None])
        return patches


class TrainablePasst(nn.Module):
    """Waveforms to embeddings, with gradients.

    Args:
        architecture: which one.
        weights: as `passt_model.read_weights` gives them; copied.
        attention: torch's fused one, or the products and the softmax one by one.
        checkpointing: compute the blocks' results again for the gradient, in place of keeping them.
    """

    def __init__(
        self,
        architecture: Architecture,
        weights: Mapping[str, Tensor],
        *,
        attention: AttentionName = "fused",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self._architecture, self._checkpointing = architecture, checkpointing
        rows, columns = architecture.grid
        # Without storage, so that nothing is filled at random; the weights take their place.
        with torch.device("meta"):
            self.cls_token = nn.Parameter(torch.empty(1, 1, DIM))
            self.dist_token = nn.Parameter(torch.empty(1, 1, DIM))
            self.new_pos_embed = nn.Parameter(torch.empty(1, 2, DIM))
            self.freq_new_pos_embed = nn.Parameter(torch.empty(1, DIM, rows, 1))
            self.time_new_pos_embed = nn.Parameter(torch.empty(1, DIM, 1, columns))
            self.patch_embed = _PatchEmbedding(architecture.stride)
            self.blocks = nn.ModuleList(_Block(attention) for _ in range(architecture.depth))
            self.norm = nn.LayerNorm(DIM, NORM_EPS)
        copies = {
            name: torch.empty(value.shape, dtype=torch.float32).copy_(value)
            for name, value in weights.items()
        }
        self.load_state_dict(copies, assign=True)
        self.requires_grad_(requires_grad=True)
        self.mel = LogMel(architecture.mel_hop)

    def forward(
        self,
        waveforms: Tensor,
        noise: PasstNoise | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """(B, T) float32 to (B, 768) float32; T within the architecture's bounds.

        Args:
            waveforms: of one length.
            noise: given in training alone.
            generator: on the CPU, what noise is drawn from.
        """
        with torch.no_grad(), torch.autocast(waveforms.device.type, enabled=False):
            spectrograms = self.mel(waveforms, self._jittered_bank(noise, generator))
        patches = self.patch_embed(spectrograms)
        columns = patches.shape[3]
        patches = patches + self.freq_new_pos_embed + self.time_new_pos_embed[..., :columns]
        if noise is not None and generator is not None:
            patches = self._patched_out(patches, noise, generator)
        leading = torch.cat([self.cls_token, self.dist_token], 1) + self.new_pos_embed
        tokens = torch.cat(
            [leading.expand(len(patches), -1, -1), patches.flatten(2).transpose(1, 2)], 1
        )
        for block in self.blocks:
            if self._checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False, preserve_rng_state=False)
            else:
                tokens = block(tokens)
        embedded: Tensor = self.norm(tokens[:, :2]).float().mean(1)
        return embedded

    def _jittered_bank(
        self, noise: PasstNoise | None, generator: torch.Generator | None
    ) -> Tensor | None:
        """Filters with moved edges; None for the model's own."""
        if (
            noise is None
            or generator is None
            or not (noise.mel_jitter_low or noise.mel_jitter_high)
        ):
            return None
        low, high = 0.0, HIGHEST_HZ
        if noise.mel_jitter_low:
            low += _drawn(noise.mel_jitter_low, generator)
        if noise.mel_jitter_high:
            span = noise.mel_jitter_high
            high += span // 2 - _drawn(span, generator)
        return mel_bank(low, high).to(self.mel.bank.device)

    def _patched_out(
        self, patches: Tensor, noise: PasstNoise, generator: torch.Generator
    ) -> Tensor:
        """(B, 768, F, C) with fewer rows and columns."""
        rows, columns = patches.shape[2:]
        fewer = min(round(noise.patchout_time * columns / self._architecture.grid[1]), columns - 1)
        if fewer > 0:
            patches = patches[..., _kept(columns, columns - fewer, generator, patches.device)]
        fewer = min(noise.patchout_frequency, rows - 1)
        if fewer > 0:
            patches = patches[:, :, _kept(rows, rows - fewer, generator, patches.device)]
        return patches


def _drawn(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (1,), generator=generator))


def _kept(count: int, keep: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Indices of `keep` of `count`, ascending."""
    return torch.randperm(count, generator=generator)[:keep].sort().values.to(device)
