"""The audio encoder `passt`: windows of clips through PaSST, their embeddings averaged.

Conventions: waveforms are float32 `(T,)` at 32 kHz, in memory or mapped from disk. Windows of one
length, from whichever clips of a call, share a forward pass; none is padded to a batch mate, so an
embedding depends on its clip alone. Windows are cut while the batch before them is computed, a
batch at a time, so memory does not grow with a clip's length.

How many windows make a batch depends on the device: on a CPU as many as keep the layers' results
in its cache, on a GPU many. A batch that does not fit in memory is halved and tried again.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from e2i.audio import waveform_settings
from e2i.encoders.passt_architectures import DIM, MELS, SAMPLE_RATE, Architecture
from e2i.encoders.protocols import AudioEmbedding, Settings
from e2i.encoders.weights import WeightsFile
from e2i.encoders.windows import Window, Windowing, WindowingName, cut
from e2i.errors import EncoderUnavailableError
from e2i.resampling import ResamplerName

if TYPE_CHECKING:
    import torch

    from e2i.encoders.passt_model import Passt

Precision = Literal["float32", "bfloat16", "float16"]

_log = logging.getLogger(__name__)
_VERSION = 1
_DCASE_WINDOW_S = 10.0
_TOKENS_A_BATCH = {"cpu": 2400, "cuda": 76_800, "mps": 9600}
"""Tokens that a batch comes to where no size is asked for, by kind of device."""


@dataclass(frozen=True, slots=True)
class PasstOptions:
    """What changes the values of PaSST's embeddings, beside its weights.

    Attributes:
        architecture: which one.
        windowing: how clips are cut.
        precision: of the transformer's products; the spectrogram is always float32.
        normalize: give each embedding length 1.
        resampler: what its waveforms are made with.
    """

    architecture: Architecture
    windowing: WindowingName = "hear"
    precision: Precision = "float32"
    normalize: bool = True
    resampler: ResamplerName = "torchaudio"

    @property
    def cut(self) -> Windowing:
        """The windowing, in samples."""
        architecture = self.architecture
        length = (
            round(_DCASE_WINDOW_S * SAMPLE_RATE)
            if self.windowing == "dcase2025"
            else architecture.window_samples
        )
        return Windowing(
            self.windowing, length, architecture.hop_samples, architecture.shortest_samples
        )


def passt_settings(options: PasstOptions, weights: WeightsFile) -> Settings:
    """What `PasstEncoder.settings` is, without making one."""
    architecture, windowing = options.architecture, options.cut
    return {
        "encoder": "passt",
        "version": _VERSION,
        "audio_arch": architecture.name,
        "audio_weights_sha256": weights.sha256,
        "dim": DIM,
        "sample_rate": SAMPLE_RATE,
        "stride": architecture.stride,
        "mels": MELS,
        "mel_hop": architecture.mel_hop,
        "pooling": "mean of class and distillation token",
        "windowing": options.windowing,
        "window_s": windowing.length / SAMPLE_RATE,
        "window_hop_s": architecture.hop_s if options.windowing == "hear" else None,
        "precision": options.precision,
        "normalize": options.normalize,
        **waveform_settings(options.resampler),
    }


class PasstEncoder:
    """PaSST; `settings` says which. The model is made when it is first needed, once.

    Args:
        options: what changes its values.
        weights: file of its weights.
        device: where it runs; a torch device.
        batch_size: most windows in one forward pass; None: by device.
        store_windows: give each window's embedding too, as it is before the mean.
    """

    def __init__(
        self,
        options: PasstOptions,
        weights: WeightsFile,
        *,
        device: str = "cpu",
        batch_size: int | None = None,
        store_windows: bool = False,
    ) -> None:
        self._options, self._weights, self._device = options, weights, device
        self._settings = passt_settings(options, weights)
        self._batch_size = batch_size
        self._store_windows = store_windows
        self._fits: dict[int, int] = {}
        self._model: Passt | None = None
        self._lock = threading.Lock()

    @property
    def dim(self) -> int:
        """D, the length of an embedding."""
        return DIM

    @property
    def sample_rate(self) -> int:
        """Rate of the waveforms that it takes, in Hz."""
        return SAMPLE_RATE

    @property
    def settings(self) -> Settings:
        """All that changes its values."""
        return self._settings

    def check_weights(self) -> None:
        """Whether the weights fit, without making the model.

        Raises:
            EncoderUnavailableError: the file is broken, or fits another architecture.
        """
        from e2i.encoders.passt_model import read_weights  # noqa: PLC0415 - imports torch

        read_weights(self._weights.path, self._options.architecture, self._weights.name)

    def encode(self, waveforms: Sequence[NDArray[np.float32]]) -> list[AudioEmbedding]:
        """Embed waveforms `(T,)`, each alone, in the order given; T of 0 counts as silence.

        Raises:
            EncoderUnavailableError: the weights do not fit, or one window does not fit in memory.
        """
        windowing = self._options.cut
        windows = [windowing.windows(len(waveform)) for waveform in waveforms]
        embedded = [np.empty((len(cuts), DIM), dtype=np.float32) for cuts in windows]
        by_length: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for clip, cuts in enumerate(windows):
            for place, window in enumerate(cuts):
                by_length[window.length].append((clip, place))
        with ThreadPoolExecutor(1) as ahead:
            for length, places in by_length.items():
                for batch, made in self._batches(length, places, waveforms, windows, ahead):
                    for (clip, place), values in zip(batch, made, strict=True):
                        embedded[clip][place] = values
        return [self._pooled(values, cuts) for values, cuts in zip(embedded, windows, strict=True)]

    def _batches(
        self,
        length: int,
        places: Sequence[tuple[int, int]],
        waveforms: Sequence[NDArray[np.float32]],
        windows: Sequence[Sequence[Window]],
        ahead: ThreadPoolExecutor,
    ) -> Iterator[tuple[Sequence[tuple[int, int]], NDArray[np.float32]]]:
        """Batches of windows of one length and their embeddings (B, 768)."""
        size = self._size(length)

        def gather(first: int) -> NDArray[np.float32]:
            batch = places[first : first + size]
            return np.stack([cut(waveforms[clip], windows[clip][place]) for clip, place in batch])

        following = ahead.submit(gather, 0)
        for first in range(0, len(places), size):
            samples = following.result()
            if first + size < len(places):
                following = ahead.submit(gather, first + size)
            yield places[first : first + size], self._forward(samples)

    def _size(self, length: int) -> int:
        """Windows of this length in a batch."""
        if self._batch_size is not None:
            return self._batch_size
        tokens = self._options.architecture.tokens(length)
        kind = self._device.partition(":")[0]
        return max(1, round(_TOKENS_A_BATCH.get(kind, _TOKENS_A_BATCH["cpu"]) / tokens))

    def _forward(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B, T) to (B, 768), in parts where all at once do not fit in memory."""
        model = self._made()
        count, length = samples.shape
        made: list[NDArray[np.float32]] = []
        while len(made) < count:
            size = min(self._fits.get(length, count), count - len(made))
            try:
                made.extend(self._embed(model, samples[len(made) : len(made) + size]))
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                if size == 1:
                    raise EncoderUnavailableError(
                        f"a window does not fit in the memory of {self._device}: got "
                        f"{length:,} samples, expected room for one. Free memory, or use another "
                        "--device."
                    ) from error
                self._fits[length] = size // 2
                _log.warning(
                    "%d windows do not fit in the memory of %s; trying %d at a time",
                    *(size, self._device, size // 2),
                )
                _release(self._device)
        return np.stack(made)

    def _embed(self, model: Passt, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch  # noqa: PLC0415 - seconds; settings are read without it

        waveforms = torch.from_numpy(samples)
        if self._device.startswith("cuda"):
            waveforms = waveforms.pin_memory().to(self._device, non_blocking=True)
        else:
            waveforms = waveforms.to(self._device)
        embedded: NDArray[np.float32] = model(waveforms).cpu().numpy()
        return embedded

    def _made(self) -> Passt:
        import torch  # noqa: PLC0415

        from e2i.encoders.passt_model import Passt, read_weights  # noqa: PLC0415

        with self._lock:
            if self._model is None:
                options, file = self._options, self._weights
                weights = read_weights(file.path, options.architecture, file.name)
                dtype: torch.dtype = getattr(torch, options.precision)
                self._model = Passt(
                    options.architecture, weights, torch.device(self._device), dtype
                )
            return self._model

    def _pooled(self, windows: NDArray[np.float32], cuts: Sequence[Window]) -> AudioEmbedding:
        weights = np.array([window.weight for window in cuts])
        embedding = weights @ windows.astype(np.float64)
        if self._options.normalize:
            embedding /= np.linalg.norm(embedding)
        return AudioEmbedding(
            embedding.astype(np.float32),
            num_windows=len(cuts),
            windows=windows if self._store_windows else None,
        )


def _is_out_of_memory(error: Exception) -> bool:
    import torch  # noqa: PLC0415

    words = ("can't allocate memory", "out of memory", "could not create a memory object")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        word in str(error) for word in words
    )


def _release(device: str) -> None:
    """Give back what a failed batch still holds of a GPU's memory."""
    if device.startswith("cuda"):
        import torch  # noqa: PLC0415

        torch.cuda.empty_cache()
