"""A fine-tuned checkpoint: encoders, heads, and what they were trained on, in one file.

Conventions: the layout of `e2i.encoders.finetuned`; beside it the heads' tensors as `heads.<name>`
and the clips by role as `clips.<role>`, and in the header `heads`, which is the record of a
checkpoint of heads. So the file is an encoder where encoders are named (`checkpoint:<URL>`), and
heads wherever a checkpoint of heads is taken. The same training gives the same bytes.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

import e2i
from e2i.encoders.config import EncodersConfig
from e2i.encoders.finetuned import (
    AUDIO_NAME,
    KIND,
    TEXT_NAME,
    FinetunedEncoders,
    write_encoders,
)
from e2i.encoders.load import audio_settings, text_settings
from e2i.encoders.model_files import SIDE_FILES, ModelFiles
from e2i.encoders.protocols import fingerprint
from e2i.heads.checkpoint import Checkpoint, CheckpointRecord, checkpoint_bytes
from e2i.storage import Folder
from e2i.training.finetune.config import FinetuneConfig

_METADATA_KEY = "e2i"


@dataclass(frozen=True, slots=True)
class EncoderWeights:
    """Trained encoders as they are stored.

    Attributes:
        audio: weights of PaSST, by their published names.
        text: weights of the text model, by those of transformers.
        files: its configuration and tokenizer, uint8.
        record: how they hear and read.
    """

    audio: Mapping[str, Tensor]
    text: Mapping[str, Tensor]
    files: Mapping[str, Tensor]
    record: FinetunedEncoders

    def fingerprints(self, config: FinetuneConfig) -> tuple[str, str]:
        """Of the audio and the text encoder, as a cache that they embed has them."""
        with tempfile.TemporaryDirectory(prefix="e2i-finetuned-") as scratch:
            folder = Path(scratch) / "encoders"
            write_encoders(folder, self.audio, self.text, self.files)
            options = EncodersConfig(
                audio_encoder="passt",
                text_encoder="hf",
                audio_weights=str(folder / AUDIO_NAME),
                text_model=str(folder / TEXT_NAME),
                audio_arch=self.record.audio_arch,
                windowing=self.record.windowing,
                resampler=self.record.resampler,
                text_pooling=self.record.text_pooling,
                max_length=self.record.max_length,
                caption_form=self.record.caption_form,
                normalize=self.record.normalize,
                weights_dir=config.weights_dir,
            )
            return fingerprint(audio_settings(options)), fingerprint(text_settings(options))


def encoder_record(config: FinetuneConfig, max_length: int, form: str) -> FinetunedEncoders:
    """How the encoders hear and read, from how they were trained."""
    return FinetunedEncoders.model_validate(
        {
            "audio_arch": config.audio_arch,
            "windowing": config.windowing,
            "text_pooling": config.text_pooling,
            "max_length": max_length,
            "caption_form": form,
            "normalize": config.normalize,
            "resampler": config.resampler,
        }
    )


def side_files(files: ModelFiles) -> dict[str, Tensor]:
    """Configuration and tokenizer of a text model, as tensors of bytes."""
    found = {}
    for name in SIDE_FILES:
        path = files.path / name
        if path.is_file():
            content = np.frombuffer(bytearray(path.read_bytes()), dtype=np.uint8)
            found[name] = torch.from_numpy(content)
    return found


def finetuned_bytes(encoders: EncoderWeights, heads: Checkpoint, config: FinetuneConfig) -> bytes:
    """The file of a checkpoint; equal checkpoints give equal bytes."""
    tensors = {f"audio.{name}": tensor for name, tensor in encoders.audio.items()}
    tensors |= {f"text.{name}": tensor for name, tensor in encoders.text.items()}
    tensors |= {f"files.{name}": tensor for name, tensor in encoders.files.items()}
    for name, tensor in load_tensors(checkpoint_bytes(heads)).items():
        tensors[name if name.startswith("clips.") else f"heads.{name}"] = tensor
    content = {
        "kind": KIND,
        "schema_version": 1,
        "e2i_version": e2i.__version__,
        "encoders": encoders.record.model_dump(mode="json"),
        "finetuning": _without_places(config),
        "heads": heads.record.model_dump(mode="json"),
    }
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return save_tensors(whole, {_METADATA_KEY: json.dumps(content, sort_keys=True)})


def save_finetuned(
    folder: Folder,
    names: Sequence[str],
    encoders: EncoderWeights,
    heads: Checkpoint,
    config: FinetuneConfig,
) -> None:
    """Write a checkpoint under each name, replacing what is there, in one step each.

    Raises:
        StorageError: the store refused.
    """
    data = finetuned_bytes(encoders, heads, config)
    for name in names:
        folder.write(name, data)


def heads_record(
    config: FinetuneConfig, dims: tuple[int, int], fingerprints: tuple[str, str], **rest: object
) -> CheckpointRecord:
    """What the checkpoint says of its heads, beside the history and the data in `rest`."""
    return CheckpointRecord.model_validate(
        {
            "kind": "projection_heads",
            "schema_version": 1,
            "e2i_version": e2i.__version__,
            "heads": config.heads(),
            "training": config.selection().model_copy(
                update={
                    "epochs": config.epochs,
                    "lr": config.head_lr or config.max_lr,
                    "weight_decay": config.weight_decay,
                    "temperature": config.temperature,
                    "learn_temperature": config.learn_temperature,
                    "repeat_clips": config.repeat_clips,
                    "val_fraction": config.val_fraction,
                    "test_fraction": config.test_fraction,
                    "device": config.device,
                }
            ),
            "audio_dim": dims[0],
            "text_dim": dims[1],
            "audio_fingerprint": fingerprints[0],
            "text_fingerprint": fingerprints[1],
            **rest,
        }
    )


def _without_places(config: FinetuneConfig) -> dict[str, object]:
    """How it was trained, without where anything lay."""
    places = {"audio_weights", "weights_dir", "text_model"}
    return {
        name: value for name, value in config.model_dump(mode="json").items() if name not in places
    }
