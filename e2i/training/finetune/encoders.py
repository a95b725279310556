"""Both encoders as one trainable module: windows of clips and tokens of captions to embeddings.

Decides: an encoder that is frozen is in evaluation mode and takes part in no gradient; parameters
that no embedding depends on (a pooler) are left out of training. Pooling over windows and tokens is
in float32, as when a cache is embedded.

Shape letters: B pairs, W windows, T samples, L tokens, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from e2i.encoders.hf_settings import TEXT_MODEL_OPTION, hf_settings, model_width
from e2i.encoders.hf_text import Tokens, caption_form, tokenized
from e2i.encoders.hub_files import fetch_weights
from e2i.encoders.load import passt_options, passt_weights
from e2i.encoders.model_files import WEIGHTS, ModelFiles, model_files
from e2i.encoders.passt_model import read_weights
from e2i.encoders.passt_training import AttentionName, PasstNoise, TrainablePasst
from e2i.encoders.transformers_loading import load_model, load_tokenizer
from e2i.errors import ConfigError
from e2i.training.finetune.config import FinetuneConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DROPOUTS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "hidden_dropout"),
    *("attention_dropout", "dropout", "embd_pdrop", "attn_pdrop", "resid_pdrop"),
)
_SAMPLE_SCALE = 1 / 32_768
_WINDOWS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class WindowGroup:
    """Windows of one length, of several clips.

    Attributes:
        samples: (W, T) int16 or float32.
        rows: int64 (W,), the clip that each is of, as its row in the batch.
        weights: float64 (W,), how each counts in its clip's mean.
    """

    samples: Tensor
    rows: Tensor
    weights: Tensor

    def to(self, device: torch.device) -> WindowGroup:
        """The same on a device."""
        weights = self.weights.float() if device.type == "mps" else self.weights
        return WindowGroup(self.samples.to(device), self.rows.to(device), weights.to(device))


class EncoderPair(nn.Module):
    """A trainable PaSST and a transformers text model.

    Args:
        audio: the audio encoder.
        text: the text model.
        pooling: what stands for a caption: `mean` or `first`.
        freeze: `none`, `audio`, `text` or `both`.
        normalize: give each embedding length 1.
        text_dim: D of the text embeddings.
    """

    def __init__(
        self,
        audio: TrainablePasst,
        text: nn.Module,
        *,
        pooling: str,
        freeze: str,
        normalize: bool,
        text_dim: int,
    ) -> None:
        super().__init__()
        self.audio, self.text = audio, text
        self._pooling, self._normalize, self.text_dim = pooling, normalize, text_dim
        self.audio_frozen, self.text_frozen = (
            freeze in {"audio", "both"},
            freeze in {"text", "both"},
        )
        self.audio.requires_grad_(requires_grad=not self.audio_frozen)
        self.text.requires_grad_(requires_grad=not self.text_frozen)

    def train(self, mode: bool = True) -> EncoderPair:
        """Training mode, of the sides that are trained."""
        super().train(mode)
        for side, frozen in ((self.audio, self.audio_frozen), (self.text, self.text_frozen)):
            side.train(mode and not frozen)
        return self

    def forward(
        self,
        groups: Sequence[WindowGroup],
        num_clips: int,
        tokens: dict[str, Tensor] | None,
        noise: PasstNoise | None = None,
        draw: Callable[[], torch.Generator] | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Embeddings of both sides, float32; None of a side that nothing is given of.

        Args:
            groups: windows of B clips.
            num_clips: B; 0 for none.
            tokens: of captions, each (N, L), with `attention_mask`.
            noise: what training changes at random.
            draw: gives a fresh generator on the CPU for it, for each group of windows.

        Returns:
            (B, D_audio) and (N, D_text).
        """
        audio = self._heard(groups, num_clips, noise, draw) if num_clips else None
        text = self._read(tokens) if tokens is not None else None
        return audio, text

    def _heard(
        self,
        groups: Sequence[WindowGroup],
        num_clips: int,
        noise: PasstNoise | None,
        draw: Callable[[], torch.Generator] | None,
    ) -> Tensor:
        parts: list[Tensor] = []
        weights: list[Tensor] = []
        for group in groups:
            samples = group.samples
            # Without a graph nothing has to be kept, so a clip of any length takes little memory.
            size = len(samples) if torch.is_grad_enabled() else _WINDOWS_AT_ONCE
            for some in torch.split(samples, size):
                waveforms = some if some.is_floating_point() else some.float() * _SAMPLE_SCALE
                parts.append(self.audio(waveforms, noise, draw() if draw is not None else None))
            weights.append(group.weights)
        rows = torch.cat([group.rows for group in groups])
        made = torch.cat(parts)
        made = made * torch.cat(weights)[:, None].to(made.dtype)
        pooled = made.new_zeros(num_clips, made.shape[1]).index_add(0, rows, made)
        return functional.normalize(pooled, dim=1) if self._normalize else pooled

    def _read(self, tokens: dict[str, Tensor]) -> Tensor:
        hidden: Tensor = self.text(**tokens).last_hidden_state.float()
        if self._pooling == "first":
            pooled = hidden[:, 0]
        else:
            mask = tokens["attention_mask"].unsqueeze(-1).float()
            pooled = (hidden * mask).sum(1) / mask.sum(1)
        return functional.normalize(pooled, dim=1) if self._normalize else pooled


@dataclass(frozen=True, slots=True)
class CaptionReader:
    """Captions as the text encoder takes them.

    Attributes:
        tokenizer: of the text model.
        form: name of the caption form.
        max_length: most tokens of a caption.
        files: of the model, to be stored with what is trained.
    """

    tokenizer: PreTrainedTokenizerBase
    form: str
    max_length: int
    files: ModelFiles

    def tokens(self, captions: Sequence[str]) -> Tokens:
        """Captions as token ids, not padded."""
        form = caption_form(self.form)
        return tokenized(self.tokenizer, [form(one) for one in captions], self.max_length)


def load_encoders(
    config: FinetuneConfig, *, attention: AttentionName = "fused"
) -> tuple[EncoderPair, CaptionReader]:
    """The encoders to start from, on the CPU in float32.

    Raises:
        EncoderUnavailableError: weights cannot be had or do not fit.
        ConfigError: the text model has no dropout to be set, or takes no captions so long.
    """
    options = config.encoders("cpu")
    file = passt_weights(options)
    architecture = passt_options(options).architecture
    audio = TrainablePasst(
        architecture,
        read_weights(file.path, architecture, file.name),
        attention=attention,
        checkpointing=config.gradient_checkpointing,
    )
    settings = hf_settings(options)
    files = model_files(config.text_model, TEXT_MODEL_OPTION)
    if files.repository:
        fetch_weights(files.repository, files.revision, TEXT_MODEL_OPTION, WEIGHTS)
    text = _text_model(files, config)
    reader = CaptionReader(
        load_tokenizer(files),
        str(settings["caption_form"]),
        int(settings["max_length"] or 0),
        files,
    )
    pair = EncoderPair(
        audio,
        text,
        pooling=config.text_pooling,
        freeze=config.freeze,
        normalize=config.normalize,
        text_dim=model_width(files),
    )
    if not pair.text_frozen:
        _leave_out_unused(pair, reader)
    return pair.train(), reader


def _text_model(files: ModelFiles, config: FinetuneConfig) -> nn.Module:
    """The text model, with the dropout asked for."""
    changes: dict[str, float] = {}
    if config.text_dropout is not None:
        changes = {name: config.text_dropout for name in _DROPOUTS if name in files.config}
        if not changes:
            raise ConfigError(
                f"the text model has no dropout to be set: got {config.text_dropout:g} for "
                f"{files.name}, expected a configuration with {_DROPOUTS[0]} or its like. Leave "
                "--text-dropout out."
            )
    model: Any = load_model(files, "AutoModel", "float32", without=("pooler",), changes=changes)
    if getattr(model.config, "is_encoder_decoder", False):
        model = model.get_encoder()
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    if config.gradient_checkpointing and config.freeze not in {"text", "both"}:
        if not getattr(model, "supports_gradient_checkpointing", False):
            raise ConfigError(
                f"the text model cannot compute its results again: got --gradient-checkpointing "
                f"for {files.name}, expected a model that supports it. Leave the option out, or "
                "add --freeze text."
            )
        model.activation_checkpointing_enable({"use_reentrant": False})
    loaded: nn.Module = model
    return loaded


def _leave_out_unused(pair: EncoderPair, reader: CaptionReader) -> None:
    """Train no parameter that no embedding depends on, such as a pooler's."""
    pair.eval()
    _, text = pair([], 0, reader.tokens(["a dog barks"]).batch([0], torch.device("cpu")))
    text.sum().backward()
    for parameter in pair.text.parameters():
        if parameter.grad is None:
            parameter.requires_grad = False
        parameter.grad = None
