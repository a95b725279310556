"""PaSST: waveforms to one embedding each, from the published weights.

Conventions: B windows of one length T at 32 kHz become N = 2 + F · C tokens (class, distillation,
then F rows of C patches) of width 768. For inference only: no patch is left out, nothing is drawn
at random, nothing is printed.

What is decided here, beside what the published model computes:

- The mel spectrogram is float32 whatever the precision; its filter bank is made once, on the
  device.
- Attention is torch's fused one, save for bfloat16 on a CPU, and the last block computes only the
  two tokens that are read, and keys and values of none.
- Patches are products of unfolded patches and a matrix, so that one kind of product makes up the
  whole model, and `e2i.encoders.products` can make it quick and keep it exact.
- The residual stream stays float32 in the shorter precisions too: it costs next to nothing, and
  what gets lost is a few times less.

Source: K. Koutini et al., "Efficient training of audio transformers with Patchout", Interspeech
2022. The numbers are those of hear21passt 0.0.26 in eval mode; a test compares them.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from e2i.encoders.passt_architectures import (
    ARCHITECTURES,
    DIM,
    MELS,
    PATCH,
    SAMPLE_RATE,
    Architecture,
)
from e2i.encoders.products import linear_gelu, pack_linears, strict_float32
from e2i.errors import EncoderUnavailableError

HEADS = 12
_WIDTH = DIM // HEADS
NORM_EPS = 1e-6
_FFT, _FRAME = 1024, 800
_PREEMPHASIS = 0.97
HIGHEST_HZ = 15_000.0
_LOG_OFFSET = 1e-5
_IGNORED = ("head.", "head_dist.")
_WRAPPERS = ("state_dict", "model")


def mel_bank(low_hz: float, high_hz: float) -> Tensor:
    """Filters of 128 mel bands between two frequencies, (128, 513)."""
    from torchaudio.compliance.kaldi import get_mel_banks  # noqa: PLC0415 - takes a while

    bank, _ = get_mel_banks(MELS, _FFT, SAMPLE_RATE, low_hz, high_hz, 100.0, -500.0, 1.0)
    return functional.pad(bank, (0, 1))


class LogMel(nn.Module):
    """The spectrogram that PaSST was trained on: 128 bands up to 15 kHz, log, about mean 0."""

    window: Tensor
    bank: Tensor

    def __init__(self, hop: int) -> None:
        super().__init__()
        self._hop = hop
        self.register_buffer("window", torch.hann_window(_FRAME, periodic=False), persistent=False)
        self.register_buffer("bank", mel_bank(0.0, HIGHEST_HZ), persistent=False)

    def forward(self, waveforms: Tensor, bank: Tensor | None = None) -> Tensor:
        """(B, T) to (B, 128, frames); by another bank of filters than its own, if one is given."""
        bank = self.bank if bank is None else bank
        emphasized = waveforms[:, 1:] - _PREEMPHASIS * waveforms[:, :-1]
        spectrum = torch.stft(
            emphasized, _FFT, self._hop, _FRAME, self.window, center=True, return_complex=True
        )
        power = spectrum.real.square() + spectrum.imag.square()
        return ((bank @ power + _LOG_OFFSET).log() + 4.5) / 5


class Block(nn.Module):
    """One transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM, NORM_EPS), nn.LayerNorm(DIM, NORM_EPS)
        self.qkv = nn.Linear(DIM, 3 * DIM)
        self.proj = nn.Linear(DIM, DIM)
        self.fc1, self.fc2 = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)

    def forward(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, N, 768) to the same, or to (B, 2, 768) by the last one; `tokens` is overwritten."""
        heard = self.heard(_normed(self.norm1, tokens, dtype))
        tokens = tokens[:, : heard.shape[1]]
        tokens += self.proj(heard)
        tokens += self.fc2(linear_gelu(self.fc1, _normed(self.norm2, tokens, dtype)))
        return tokens

    def heard(self, normed: Tensor) -> Tensor:
        """What the tokens (B, N, 768) take from each other, before it is projected."""
        batch, count, _ = normed.shape
        parts = self.qkv(normed).view(batch, count, 3, HEADS, _WIDTH).transpose(1, 3)
        return _attention(*parts.unbind(2)).transpose(1, 2).reshape(batch, count, DIM)


class LastBlock(Block):
    """The last block, which computes only the two tokens that are read.

    Two queries of 12 heads are less than 64 rows, so their products with the tokens themselves cost
    less than keys and values of all tokens: q · (K x + k) is (Kᵀ q) · x and something that is the
    same for all x, which softmax does not see; and as its weights w add up to 1, Σ w (V x + v) is
    V Σ w x + v.
    """

    key: Tensor
    value: Tensor
    value_bias: Tensor

    def __init__(self) -> None:
        super().__init__()
        del self.qkv
        self.query = nn.Linear(DIM, DIM)
        for name, shape in (("key", (DIM, DIM)), ("value", (DIM, DIM)), ("value_bias", (DIM,))):
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))

    def heard(self, normed: Tensor) -> Tensor:
        """(B, N, 768) to (B, 2, 768)."""
        batch = len(normed)
        query = self.query(normed[:, :2]).view(batch, 2, HEADS, _WIDTH)
        key, value = (part.view(HEADS, _WIDTH, DIM) for part in (self.key, self.value))
        asked = torch.einsum("bthw,hwd->bthd", query, key).reshape(batch, 2 * HEADS, DIM)
        weights = torch.softmax(asked @ normed.transpose(1, 2) * _WIDTH**-0.5, -1)
        mixed = (weights @ normed).view(batch, 2, HEADS, DIM)
        return torch.einsum("bthd,hwd->bthw", mixed, value).reshape(batch, 2, DIM) + self.value_bias


class Passt(nn.Module):
    """Waveforms to embeddings.

    Args:
        architecture: which one.
        weights: as `read_weights` gives them.
        device: where it runs.
        dtype: type of the transformer's weights and products.
    """

    row_code: Tensor
    column_code: Tensor
    leading: Tensor

    def __init__(
        self,
        architecture: Architecture,
        weights: Mapping[str, Tensor],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self._architecture, self._dtype = architecture, dtype
        self.mel = LogMel(architecture.mel_hop)
        # Without storage, so that nothing is filled at random; the weights take their place.
        with torch.device("meta"):
            self.patch = nn.Linear(PATCH * PATCH, DIM)
            depth = architecture.depth
            self.blocks = nn.ModuleList([*(Block() for _ in range(depth - 1)), LastBlock()])
            self.norm = nn.LayerNorm(DIM, NORM_EPS)
        self.load_state_dict(_renamed(weights, depth), strict=False, assign=True)
        row, column = weights["freq_new_pos_embed"], weights["time_new_pos_embed"]
        self.register_buffer("row_code", row[0, :, :, 0].T[:, None].float().contiguous())
        self.register_buffer("column_code", column[0, :, 0].T[None].float().contiguous())
        leading = torch.cat([weights["cls_token"], weights["dist_token"]], 1)
        self.register_buffer("leading", (leading + weights["new_pos_embed"]).float())
        self.requires_grad_(requires_grad=False).eval().to(device)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                layer.to(dtype)
        for part in self.blocks[-1].parameters(recurse=False):
            part.data = part.data.to(dtype)
        pack_linears(self)

    @torch.inference_mode()
    def forward(self, waveforms: Tensor) -> Tensor:
        """(B, T) float32 to (B, 768) float32; T within the architecture's bounds."""
        with strict_float32():
            return self.embed(self.mel(waveforms))

    def embed(self, spectrograms: Tensor) -> Tensor:
        """(B, 128, frames) to (B, 768)."""
        stride = self._architecture.stride
        patches = functional.unfold(spectrograms[:, None], PATCH, stride=stride).transpose(1, 2)
        columns = (spectrograms.shape[2] - PATCH) // stride + 1
        code = (self.row_code + self.column_code[:, :columns]).view(-1, DIM)  # (F · C, 768)
        batch, count = patches.shape[0], patches.shape[1]
        tokens = patches.new_empty(batch, 2 + count, DIM)
        tokens[:, :2] = self.leading
        torch.add(self.patch(patches.to(self._dtype)), code, out=tokens[:, 2:])
        for block in self.blocks:
            tokens = block(tokens, self._dtype)
        embedded: Tensor = self.norm(tokens[:, :2]).mean(1)
        return embedded


def _normed(norm: nn.LayerNorm, tokens: Tensor, dtype: torch.dtype) -> Tensor:
    normed: Tensor = norm(tokens)
    return normed.to(dtype)


def _attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention, (B, heads, N, 64) each; torch's own but for bfloat16 on a CPU.

    There torch's takes as long as in float32; head by head, as products of matrices, a third less.
    """
    if query.dtype != torch.bfloat16 or query.device.type != "cpu":
        return functional.scaled_dot_product_attention(query, key, value)
    batch, heads, count, width = query.shape
    heard = query.new_empty(batch, count, heads, width).transpose(1, 2)
    scores = query.new_empty(count, key.shape[2])
    for clip in range(batch):
        for head in range(heads):
            torch.mm(query[clip, head], key[clip, head].T, out=scores)
            scores *= width**-0.5
            torch.softmax(scores, -1, out=scores)
            heard[clip, head] = scores @ value[clip, head]
    return heard


def _renamed(weights: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """The published names to those of the modules here."""
    renamed = {}
    for name, value in weights.items():
        name = name.replace(".attn.", ".").replace(".mlp.", ".")  # noqa: PLW2901
        last = f"blocks.{depth - 1}.qkv."
        if name.startswith("patch_embed.proj."):
            value = value.reshape(DIM, -1) if value.ndim == 4 else value  # noqa: PLW2901
            renamed[name.replace("patch_embed.proj", "patch")] = value.float()
        elif name.startswith(last):
            query, key, values = (part.float().contiguous() for part in value.chunk(3))
            renamed[name.replace(".qkv.", ".query.")] = query
            if name.endswith("weight"):
                renamed |= {f"blocks.{depth - 1}.key": key, f"blocks.{depth - 1}.value": values}
            else:
                renamed[f"blocks.{depth - 1}.value_bias"] = values
        elif name.startswith(("blocks.", "norm.")):
            renamed[name] = value.float()
    return renamed


def expected_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights that an embedding needs, as published."""
    rows, columns = architecture.grid
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, DIM),
        "dist_token": (1, 1, DIM),
        "new_pos_embed": (1, 2, DIM),
        "freq_new_pos_embed": (1, DIM, rows, 1),
        "time_new_pos_embed": (1, DIM, 1, columns),
        "patch_embed.proj.weight": (DIM, 1, PATCH, PATCH),
        "patch_embed.proj.bias": (DIM,),
        "norm.weight": (DIM,),
        "norm.bias": (DIM,),
    }
    layers = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    for block in range(architecture.depth):
        for norm in ("norm1", "norm2"):
            shapes |= {f"blocks.{block}.{norm}.{part}": (DIM,) for part in ("weight", "bias")}
        for layer, (outputs, inputs) in layers.items():
            shapes[f"blocks.{block}.{layer}.weight"] = (outputs * DIM, inputs * DIM)
            shapes[f"blocks.{block}.{layer}.bias"] = (outputs * DIM,)
    return shapes


def read_weights(path: Path, architecture: Architecture, name: str) -> dict[str, Tensor]:
    """The weights of an architecture in the published format, mapped from the disk, not copied.

    Args:
        path: a state dict saved by `torch.save`, or a safetensors file.
        architecture: which they have to fit.
        name: what to call the file in messages.

    Raises:
        EncoderUnavailableError: it is no such file, is cut short, or fits another architecture.
    """
    state = _load(path, name)
    for wrapper in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise _unfit(name, f"a {type(state).__name__} that is no state dict", architecture)
    weights = {key: value for key, value in state.items() if not key.startswith(_IGNORED)}
    if architecture.of_images:
        weights = _adapted(weights, architecture)
    faults = _faults(weights, expected_shapes(architecture))
    if faults:
        more = f" and {len(faults) - 1:,} more" if len(faults) > 1 else ""
        fitting = [
            other.name
            for other in ARCHITECTURES.values()
            if not other.of_images and not _faults(weights, expected_shapes(other))
        ]
        step = f"Use --audio-arch {fitting[0]}." if fitting else ""
        raise _unfit(name, faults[0] + more, architecture, step)
    return weights


def _adapted(weights: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """Weights of a DeiT of images as hear21passt adapts them; others as they are.

    The three colors' filters are added up, and its square of position codes is stretched to the
    grid of patches and averaged over either axis.
    """
    adapted = dict(weights)
    codes, filters = adapted.get("pos_embed"), adapted.get("patch_embed.proj.weight")
    if codes is None or codes.ndim != 3 or filters is None or filters.ndim != 4:
        return adapted
    side = math.isqrt(max(0, codes.shape[1] - 2))
    if codes.shape != (1, 2 + side * side, DIM) or not side:
        return adapted
    del adapted["pos_embed"]
    square = codes[:, 2:].float().reshape(1, side, side, DIM).permute(0, 3, 1, 2)
    grid = functional.interpolate(square, size=architecture.grid, mode="bicubic")
    adapted["patch_embed.proj.weight"] = filters.float().sum(1, keepdim=True)
    adapted["new_pos_embed"] = codes[:, :2].float()
    adapted["freq_new_pos_embed"] = grid.mean(3, keepdim=True)
    adapted["time_new_pos_embed"] = grid.mean(2, keepdim=True)
    return adapted


def _load(path: Path, name: str) -> object:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file  # noqa: PLC0415

            return load_file(path)
        return torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:
        # What torch, pickle and safetensors raise for a file that is none of theirs is anything.
        if isinstance(error, MemoryError):
            raise
        unsafe = isinstance(error, pickle.UnpicklingError)
        raise EncoderUnavailableError(
            f"the weights cannot be read: got {name}, which is cut short, of another kind, or "
            f"holds more than {'tensors' if unsafe else 'weights'}, expected a state dict as saved "
            "by torch.save, or safetensors. Fetch the file again, or correct --audio-weights."
        ) from error


def _faults(weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """How weights differ from those expected, in words."""
    faults = [f"no {key}" for key in shapes if key not in weights]
    faults += [
        f"{key} of shape {tuple(weights[key].shape)} for {shape}"
        for key, shape in shapes.items()
        if key in weights and tuple(weights[key].shape) != shape
    ]
    return faults + [f"{key}, which is not known" for key in weights if key not in shapes]


def _unfit(
    name: str, got: str, architecture: Architecture, step: str = ""
) -> EncoderUnavailableError:
    return EncoderUnavailableError(
        f"the weights do not fit the architecture: got {got} in {name}, expected the weights of "
        f"{architecture.name}. {step or 'Correct --audio-weights or --audio-arch.'}"
    )
