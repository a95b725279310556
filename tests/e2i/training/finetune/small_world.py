"""A small PaSST and a small RoBERTa of random weights in the published formats, and recordings.

The architecture is a published one with fewer blocks: everything else is what it is. Processes that
a test starts call `shrink_architectures` too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile

from e2i.clips import CaptionedClips
from e2i.datasets.config import MetadataConfig
from e2i.datasets.tabular import read_metadata
from e2i.encoders.passt_architectures import ARCHITECTURES, Architecture
from e2i.storage import Folder
from e2i.training.finetune.config import FinetuneConfig
from e2i.training.finetune.examples import Examples
from e2i.training.finetune.train import Inputs
from e2i.training.finetune.waveforms import WaveformStore
from passt_weights import save_weights
from tiny_models import make_roberta

ARCH = "passt_s_p16_s16_128_ap468"
RATE = 32_000
_published = ARCHITECTURES[ARCH]


def small_architecture(depth: int = 1) -> Architecture:
    """The published architecture with fewer blocks."""
    return replace(_published, depth=depth)


def shrink_architectures(depth: int = 1) -> None:
    """Make the small one what its name means in this process."""
    ARCHITECTURES[ARCH] = small_architecture(depth)


@dataclass
class SmallWorld:
    """Weights and recordings in one folder."""

    root: Path

    @classmethod
    def made_in(cls, root: Path, num_clips: int = 12) -> SmallWorld:
        save_weights(root / "passt.pt", small_architecture())
        make_roberta(root / "roberta")
        write_recordings(root, num_clips)
        return cls(root)

    def config(self, **changes: object) -> FinetuneConfig:
        """Options that train quickly here."""
        options: dict[str, object] = {
            "audio_arch": ARCH,
            "audio_weights": str(self.root / "passt.pt"),
            "text_model": str(self.root / "roberta"),
            "projection_dim": 16,
            "hidden_dim": 16,
            "batch_size": 4,
            "epochs": 2,
            "max_lr": 1e-3,
            "device": "cpu",
            "num_workers": 2,
            "vision_base_channels": 4,
            "vision_hidden_dim": 16,
            "vision_image_size": "native",
        }
        return FinetuneConfig.model_validate({**options, **changes})

    def clips(self) -> CaptionedClips:
        return read_metadata(MetadataConfig(metadata=str(self.root / "clips.csv")))

    def inputs(self, output: Path, name: str = "finetune_baseline") -> Inputs:
        waveforms = Folder(self.root / "waveforms")
        return Inputs(self.examples(), None, None, waveforms, Folder(output), name)

    def examples(self) -> Examples:
        """All clips, decoded in this process."""
        from e2i.audio import load_waveform

        clips = self.clips()
        store = WaveformStore(Folder(self.root / "waveforms"), "torchaudio")
        stored, failed, _ = store.prepare(
            Folder(clips.audio_root_url),
            clips.clips,
            load_waveform,
            1,
        )
        assert not failed
        return Examples.of(clips, stored)


def write_recordings(root: Path, num_clips: int) -> None:
    """Noisy hums of 16 bits, two lengths, two captions each, in Clotho's form."""
    rng = np.random.default_rng(num_clips)
    lines = ["file_name,caption_1,caption_2"]
    for number in range(num_clips):
        time = np.arange(RATE // (4 + number % 2)) / RATE
        hum = 0.2 * np.sin(2 * np.pi * 300 * (1 + number) * time)
        samples = hum + 0.02 * rng.standard_normal(len(time))
        soundfile.write(root / f"clip {number}.wav", samples, RATE, subtype="PCM_16")
        lines.append(f"clip {number}.wav,a hum of {number} machines,tone number {number} sings")
    (root / "clips.csv").write_text("\n".join(lines))
