"""CLAP by transformers: recordings and captions into one space, so that no training is needed.

Conventions: a clip is cut into windows of the extractor's length (10 s) side by side before
anything else, since the extractor itself crops longer clips at random; the last window is filled as
the extractor fills it. A window's embedding has length 1; a clip's is the plain mean of its
windows', again of length 1 unless that is turned off. A caption's has length 1. Windows are cut
when they are needed, so a clip may be a memory map of any length.

A fused model compares a long clip as a whole with parts of it. Windows are none longer than the
model hears at once, so all count as short ones; the extractor would mark one of a batch as long, at
random.

Source: Y. Wu et al., "Large-scale contrastive language-audio pretraining with feature fusion and
keyword-to-caption augmentation", ICASSP 2023.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from e2i.encoders.batching import halved_if_too_large
from e2i.encoders.clap_settings import (
    ClapExtractor,
    clap_audio_settings,
    clap_extractor,
    clap_files,
    clap_text_settings,
)
from e2i.encoders.config import EncodersConfig
from e2i.encoders.hf_text import caption_form, embedded, tokenized
from e2i.encoders.products import strict_float32
from e2i.encoders.protocols import AudioEmbedding, Settings
from e2i.encoders.transformers_loading import (
    load_ready_model,
    load_tokenizer,
    pack_model,
    quiet_loading,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Array = NDArray[np.float32]

WINDOWS_A_BATCH = {"cpu": 4, "mps": 16, "cuda": 128}
"""Windows of one forward pass by device."""

_MEL_FLOOR = 1e-10


class ClapAudioEncoder:
    """CLAP's audio side; `settings` says which model. Weights load at the first recording.

    Args:
        config: says which model, and how it runs.
        store_windows: give each window's embedding too.

    Raises:
        EncoderUnavailableError: the model cannot be had.
    """

    def __init__(self, config: EncodersConfig, *, store_windows: bool = False) -> None:
        self._config = config
        self._settings = clap_audio_settings(config)
        self._files, self._option = clap_files(config, "audio")
        self._extractor = clap_extractor(self._files)
        self._store_windows = store_windows
        self._lock = threading.Lock()
        self._loaded: _AudioSide | None = None

    @property
    def dim(self) -> int:
        """D, the length of an embedding."""
        return int(self._settings["dim"] or 0)

    @property
    def sample_rate(self) -> int:
        """Rate of the waveforms that it takes, in Hz."""
        return self._extractor.sampling_rate

    @property
    def settings(self) -> Settings:
        """All that changes its values."""
        return dict(self._settings)

    def encode(self, waveforms: Sequence[Array]) -> list[AudioEmbedding]:
        """Embed waveforms `(T,)`, each alone, in the order given; T of 0 counts as silence.

        Raises:
            EncoderUnavailableError: the weights cannot be read.
            MemoryError: one window alone does not fit.
        """
        side = self._ready()
        length = self._extractor.window_samples
        places = [
            (clip, start)
            for clip, waveform in enumerate(waveforms)
            for start in range(0, max(len(waveform), 1), length)
        ]
        size = self._config.batch_size or WINDOWS_A_BATCH[side.device.type]
        windows = np.empty((len(places), self.dim), dtype=np.float32)

        def heard(first: int) -> Array:
            return np.stack(
                [
                    side.mel(np.asarray(waveforms[clip][start : start + length]))
                    for clip, start in places[first : first + size]
                ]
            )

        with ThreadPoolExecutor(1) as ahead:
            following = ahead.submit(heard, 0) if places else None
            first = 0
            while following is not None:
                mels, more = following.result(), first + size < len(places)
                following = ahead.submit(heard, first + size) if more else None
                for rows, made in side.embed_in_halves(mels):
                    windows[[first + row for row in rows]] = made
                first += size
        of_clip = np.array([clip for clip, _ in places])
        return [self._clip(windows[of_clip == clip]) for clip in range(len(waveforms))]

    def _clip(self, windows: Array) -> AudioEmbedding:
        mean = windows.mean(axis=0, dtype=np.float64)
        if self._settings["normalize"]:
            mean /= max(float(np.linalg.norm(mean)), np.finfo(np.float64).tiny)
        return AudioEmbedding(
            mean.astype(np.float32), len(windows), windows if self._store_windows else None
        )

    def _ready(self) -> _AudioSide:
        with self._lock:
            if self._loaded is None:
                model, device = load_ready_model(
                    self._files, self._option, "ClapAudioModelWithProjection", self._config
                )
                side = _AudioSide(model, self._extractor, _mel_filters(self._extractor), device)
                samples = np.random.default_rng(0).standard_normal(self._extractor.window_samples)
                mel = side.mel((0.1 * samples).astype(np.float32))[None]
                pack_model(model, lambda: torch.from_numpy(side.embed(mel)))
                self._loaded = side
            return self._loaded


class ClapTextEncoder:
    """CLAP's text side; `settings` says which model. Weights load at the first caption.

    Args:
        config: says which model, and how it runs.

    Raises:
        EncoderUnavailableError: the model cannot be had.
        ConfigError: it does not take captions as long as asked for.
    """

    def __init__(self, config: EncodersConfig) -> None:
        self._config = config
        self._settings = clap_text_settings(config)
        self._files, self._option = clap_files(config, "text")
        self._lock = threading.Lock()
        self._loaded: _TextSide | None = None

    @property
    def dim(self) -> int:
        """D, the length of an embedding."""
        return int(self._settings["dim"] or 0)

    @property
    def settings(self) -> Settings:
        """All that changes its values."""
        return dict(self._settings)

    def encode(self, captions: Sequence[str]) -> Array:
        """Embed captions, each alone: float32 (B, D) in the order given.

        Raises:
            EncoderUnavailableError: weights or tokenizer cannot be read.
            MemoryError: one caption alone does not fit.
        """
        side = self._ready()
        valid = caption_form("as-is")
        tokens = tokenized(
            side.tokenizer,
            [valid(caption) for caption in captions],
            int(self._settings["max_length"] or 0),
        )
        return embedded(tokens, self.dim, side.embed, side.device, self._config.batch_size)

    def _ready(self) -> _TextSide:
        with self._lock:
            if self._loaded is None:
                model, device = load_ready_model(
                    self._files, self._option, "ClapTextModelWithProjection", self._config
                )
                side = _TextSide(model, load_tokenizer(self._files), device)
                inputs = tokenized(side.tokenizer, ["A dog barks far away."], 16).batch([0], device)
                pack_model(model, lambda: side.embed(inputs))
                self._loaded = side
            return self._loaded


@dataclass(frozen=True, slots=True)
class _TextSide:
    """What the text side has in memory."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    device: torch.device

    def embed(self, inputs: dict[str, Tensor]) -> Tensor:
        """(B, L) token ids to (B, D) of length 1."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        projected: Tensor = self.model(input_ids=ids, attention_mask=mask).text_embeds
        return functional.normalize(projected.float(), dim=-1)


@dataclass(frozen=True, slots=True)
class _AudioSide:
    """What the audio side has in memory.

    Attributes:
        model: of transformers.
        extractor: what it hears.
        filters: (bins, M) mel filters.
        device: where it is.
    """

    model: Any
    extractor: ClapExtractor
    filters: NDArray[np.float64]
    device: torch.device

    def mel(self, window: Array) -> Array:
        """A window of up to 10 s as the model hears it: (1 or 4, frames, M), in dB."""
        parameters = self.extractor.parameters
        size, hop = int(parameters["fft_window_size"]), int(parameters["hop_length"])
        filled = _filled(window, self.extractor.window_samples, self.extractor.padding)
        padded = np.pad(filled.astype(np.float64), size // 2, mode="reflect")
        frames = sliding_window_view(padded, size)[::hop] * np.hanning(size + 1)[:-1]
        power = np.abs(np.fft.rfft(frames, axis=1).astype(np.complex64), dtype=np.float64) ** 2
        levels = 10 * np.log10(np.maximum(_MEL_FLOOR, power @ self.filters))
        return np.repeat(levels.astype(np.float32)[None], 4 if self.extractor.fused else 1, axis=0)

    def embed(self, mels: Array) -> Array:
        """(B, 1 or 4, frames, M) to (B, D) of length 1."""
        features = torch.from_numpy(mels).to(self.device, self.model.dtype)
        longer = torch.zeros((len(mels), 1), dtype=torch.bool, device=self.device)
        with torch.inference_mode(), strict_float32():
            projected = self.model(input_features=features, is_longer=longer).audio_embeds
            made: Array = functional.normalize(projected.float(), dim=-1).cpu().numpy()
        return made

    def embed_in_halves(self, mels: Array) -> Iterator[tuple[Sequence[int], Array]]:
        """The same in parts where memory is short: rows, and what came of them."""
        return halved_if_too_large(range(len(mels)), lambda rows: self.embed(mels[list(rows)]))


def _filled(window: Array, length: int, padding: str) -> Array:
    """A window filled to its length as transformers' extractor does; an empty one is silence."""
    if not len(window):
        return np.zeros(length, dtype=np.float32)
    whole = length // len(window)
    if padding == "repeat" and len(window) < length:
        return np.tile(window, whole + 1)[:length]
    if padding == "repeatpad":
        window = np.tile(window, whole)
    return np.pad(window, (0, length - len(window)))


def _mel_filters(extractor: ClapExtractor) -> NDArray[np.float64]:
    """The filters (bins, M) that the extractor would use: fused models have others."""
    from transformers import ClapFeatureExtractor  # noqa: PLC0415

    with quiet_loading():
        made = ClapFeatureExtractor(**extractor.parameters)
    filters: NDArray[np.float64] = made.mel_filters if extractor.fused else made.mel_filters_slaney
    return filters
