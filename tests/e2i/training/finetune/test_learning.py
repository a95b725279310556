"""Fine-tuning learns on generated soundscapes, through encoders that begin with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_world import ARCH, small_architecture

from e2i.audio import load_waveform
from e2i.datasets.config import MetadataConfig
from e2i.datasets.metadata_file import CSV_FOLDER
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

VALIDATED = 80
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
        sizes = SoundscapesConfig(num_development=240, num_validation=VALIDATED, num_evaluation=1)
        generate_soundscapes(Folder(root), sizes)
        train, validation = (cls._read(root, split) for split in ("development", "validation"))
        torch.save(_fresh_weights(), root / "passt.pt")
        make_roberta(
            root / "roberta",
            shaken=False,
            sentences=train.captions,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=1,
        )
        return cls(root, train, validation)

    @staticmethod
    def _read(root: Path, split: str) -> Examples:
        metadata = root / CSV_FOLDER / f"clotho_captions_{split}.csv"
        clips = read_metadata(MetadataConfig(metadata=str(metadata)))
        store = WaveformStore(Folder(root / "waveforms"), "torchaudio")
        stored, failed, _ = store.prepare(
            Folder(clips.audio_root_url), clips.clips, load_waveform, 1
        )
        assert not failed
        return Examples.of(clips, stored)

    def finetune(self, name: str, **options: object) -> tuple[Finetuned, dict[str, torch.Tensor]]:
        """What came out, and the stored weights."""
        config = FinetuneConfig.model_validate(
            {
                **{"audio_arch": ARCH, "audio_weights": str(self.root / "passt.pt")},
                **{"text_model": str(self.root / "roberta"), "max_audio_seconds": 1.25},
                **{"projection_dim": 64, "hidden_dim": 128, "batch_size": 32, "epochs": 5},
                **{"max_lr": 2e-3, "device": "cpu", "num_workers": 1},
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
@pytest.mark.timeout(900)
@pytest.mark.parametrize("model_type", ["baseline", "vision"])
def test_training_the_encoders_teaches_more_than_training_heads(
    soundscapes: Soundscapes, model_type: str
) -> None:
    torch.set_num_threads(2)
    learned, weights = soundscapes.finetune(model_type, model_type=model_type)
    frozen, before = soundscapes.finetune("frozen", model_type=model_type, freeze="both")
    assert learned.best.metrics[METRIC] >= 2 * CHANCE
    assert learned.best.metrics[METRIC] > frozen.best.metrics[METRIC]
    for side in ("audio.", "text."):
        names = [name for name in weights if name.startswith(side) and name.endswith("weight")]
        assert names
        assert all(not torch.equal(weights[name], before[name]) for name in names)
