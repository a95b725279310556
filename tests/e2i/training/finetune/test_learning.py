"""Fine-tuning learns on generated soundscapes, through encoders that begin with random weights."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import load_file
from small_world import ARCH, small_architecture

from e2i.audio import load_waveform
from e2i.datasets.config import MetadataConfig
from e2i.datasets.metadata_file import AUDIO_FOLDER, CSV_FOLDER
from e2i.datasets.soundscapes.config import SoundscapesConfig
from e2i.datasets.soundscapes.generate import generate_soundscapes
from e2i.datasets.tabular import read_metadata
from e2i.encoders.passt_model import expected_shapes
from e2i.storage import Folder
from e2i.training.finetune.config import FinetuneConfig
from e2i.training.finetune.examples import Examples
from e2i.training.finetune.train import Finetuned, Inputs, finetune
from e2i.training.finetune.waveforms import WaveformStore
from tiny_models import make_roberta

TRAINED, VALIDATED = 240, 80
SECONDS = 2.5  # the length of the shortest soundscapes; clips of one length share forward passes
CHANCE = 10 / VALIDATED
METRIC = "text_to_audio_R@10"


@dataclass
class Soundscapes:
    """A data set, and a PaSST of one block and a RoBERTa of one layer that know nothing of it."""

    root: Path
    train: Examples
    validation: Examples

    @classmethod
    def made_in(cls, root: Path) -> Soundscapes:
        sizes = SoundscapesConfig(num_development=1150, num_validation=400, num_evaluation=1)
        generate_soundscapes(Folder(root), sizes)
        train = cls._read(root, "development", TRAINED)
        validation = cls._read(root, "validation", VALIDATED)
        torch.save(_fresh_weights(), root / "passt.pt")
        make_roberta(
            root / "roberta",
            std=0.002,  # so that words move before what is heard does
            sentences=train.captions,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=1,
        )
        return cls(root, train, validation)

    @staticmethod
    def _read(root: Path, split: str, count: int) -> Examples:
        """The first `count` clips of the shortest length."""
        metadata = root / CSV_FOLDER / f"clotho_captions_{split}.csv"
        audio = root / AUDIO_FOLDER / split
        with metadata.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        short = [row for row in rows if soundfile.info(audio / row[0]).duration <= SECONDS]
        assert len(short) >= count
        with metadata.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *short[:count]])
        clips = read_metadata(MetadataConfig(metadata=str(metadata)))
        store = WaveformStore(Folder(root / "waveforms"), "torchaudio")
        stored, failed, _ = store.prepare(
            Folder(clips.audio_root_url), clips.clips, load_waveform, 1
        )
        assert not failed
        return Examples.of(clips, stored)

    def finetune(self, name: str, **options: object) -> tuple[Finetuned, dict[str, torch.Tensor]]:
        """What came out, and the weights of the best epoch."""
        config = FinetuneConfig.model_validate(
            {
                **{"audio_arch": ARCH, "audio_weights": str(self.root / "passt.pt")},
                **{"text_model": str(self.root / "roberta"), "max_audio_seconds": SECONDS},
                **{"projection_dim": 64, "hidden_dim": 128, "batch_size": 32, "epochs": 5},
                **{"max_lr": 5e-4, "temperature": 0.05, "patchout_time": 46},
                **{"device": "cpu", "num_workers": 1},
                **{"vision_base_channels": 8, "vision_hidden_dim": 128},
                **{"vision_image_size": "native"},
                **options,
            }
        )
        output = self.root / "checkpoints"
        waveforms = Folder(self.root / "waveforms")
        inputs = Inputs(self.train, self.validation, None, waveforms, Folder(output), name)
        return finetune(inputs, config), load_file(output / f"{name}.safetensors")


def _fresh_weights() -> dict[str, torch.Tensor]:
    """Where training from nothing begins: small matrices, norms of one, no biases."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in expected_shapes(small_architecture()).items():
        if name.endswith("bias"):
            weights[name] = torch.zeros(shape)
        elif "norm" in name:
            weights[name] = torch.ones(shape)
        else:
            weights[name] = 0.02 * torch.randn(shape, generator=generator)
    return weights


@pytest.fixture(scope="module")
def soundscapes(tmp_path_factory: pytest.TempPathFactory) -> Soundscapes:
    return Soundscapes.made_in(tmp_path_factory.mktemp("learning") / "soundscapes")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("model_type", "head_lr"), [("baseline", 1e-3), ("vision", 3e-3)])
def test_training_the_encoders_teaches_more_than_training_heads(
    soundscapes: Soundscapes, model_type: str, head_lr: float
) -> None:
    torch.set_num_threads(2)
    options = {"model_type": model_type, "head_lr": head_lr}
    learned, weights = soundscapes.finetune(model_type, **options)
    frozen, before = soundscapes.finetune(f"{model_type} frozen", **options, freeze="both")
    assert learned.best.metrics[METRIC] >= 2 * CHANCE
    assert learned.best.metrics[METRIC] > frozen.best.metrics[METRIC]
    for side in ("audio.blocks.0.", "text.encoder.layer.0."):
        names = [name for name in weights if name.startswith(side) and weights[name].ndim > 1]
        assert names
        assert all(not torch.equal(weights[name], before[name]) for name in names)
