"""Fine-tuned encoders in a checkpoint: what its header says, and their files on the local disk.

Conventions: a checkpoint is one safetensors file. Its tensors are `audio.<name>` with PaSST's
published names, `text.<name>` with those of transformers, `files.<name>` (uint8: configuration and
tokenizer of the text model), and those of the heads; the header's metadata holds one entry, `e2i`,
a JSON object of which `FinetunedEncoders` is the part `encoders`.

Decides: what is named `checkpoint:<path or URL>` is unpacked once, below `models_dir`, into
published formats (weights of PaSST, a folder of transformers) and used from there as any other
weights are. So the fingerprint is a digest of the weights, and the same weights in another file are
the same encoder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from pydantic import Field, ValidationError

from e2i.configuration import Configuration
from e2i.encoders.config import AudioArch, EncodersConfig, WindowingOption
from e2i.errors import E2IError, EncoderUnavailableError, StorageNotFoundError, is_transient
from e2i.storage import Folder
from e2i.store_layout import split_url

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "checkpoint:"
KIND = "finetuned"
COPIES = "finetuned"
"""Folder below `models_dir` that what is unpacked is kept in."""

AUDIO_NAME = "audio.safetensors"
TEXT_NAME = "text"
_MOST_HEADER_BYTES = 100 * 2**20
_lock = threading.RLock()


class FinetunedEncoders(Configuration):
    """How the encoders of a checkpoint hear and read."""

    audio_arch: AudioArch = Field(description="Architecture of PaSST.")
    windowing: WindowingOption = Field(description="Windows of a clip.")
    text_pooling: Literal["mean", "first"] = Field(description="What stands for a caption.")
    max_length: int = Field(ge=2, description="Most tokens of a caption.")
    caption_form: Literal["as-is", "dcase2025"] = Field(description="What captions are turned to.")
    normalize: bool = Field(description="Whether embeddings have length 1.")
    resampler: Literal["torchaudio", "soxr"] = Field(description="What waveforms are made with.")


def is_checkpoint(name: str) -> bool:
    """Whether an encoder is named by a checkpoint."""
    return name.startswith(PREFIX)


def unpacked_audio(config: EncodersConfig) -> EncodersConfig:
    """The same, with an audio encoder of a checkpoint as weights in the published format.

    Raises:
        EncoderUnavailableError: there is no such checkpoint, or it holds no encoders.
        StorageError: the store refused.
    """
    if not is_checkpoint(config.audio_encoder):
        return config
    location = config.audio_encoder.removeprefix(PREFIX)
    record, folder = _unpacked(location, "--audio-encoder", config.models_dir)
    changes = {
        "audio_encoder": "passt",
        "audio_arch": record.audio_arch,
        "audio_weights": str(folder / AUDIO_NAME),
        "windowing": record.windowing,
        "resampler": record.resampler,
        "normalize": record.normalize,
    }
    return config.model_copy(update=changes)


def unpacked_text(config: EncodersConfig) -> EncodersConfig:
    """The same, with a text encoder of a checkpoint as a folder of transformers.

    Raises:
        EncoderUnavailableError: there is no such checkpoint, or it holds no encoders.
        StorageError: the store refused.
    """
    if not is_checkpoint(config.text_encoder):
        return config
    location = config.text_encoder.removeprefix(PREFIX)
    record, folder = _unpacked(location, "--text-encoder", config.models_dir)
    changes = {
        "text_encoder": "hf",
        "text_model": str(folder / TEXT_NAME),
        "text_pooling": record.text_pooling,
        "max_length": record.max_length,
        "caption_form": record.caption_form,
        "normalize": record.normalize,
    }
    return config.model_copy(update=changes)


def _unpacked(location: str, option: str, models_dir: str) -> tuple[FinetunedEncoders, Path]:
    """The record of a checkpoint, and the folder that its encoders lie in."""
    parent, name = split_url(location)
    folder = Folder(parent)
    shown = f"{folder.url.rstrip('/')}/{name}"
    try:
        with _lock:
            info = folder.info(name)
            if info is None:
                raise _no_checkpoint(shown, option)
            facts = json.dumps([shown, info.size_bytes, info.version])
            name_of_copy = hashlib.sha256(facts.encode()).hexdigest()[:32]
            target = Path(models_dir).expanduser() / COPIES / name_of_copy
            with folder.open(name) as file:
                record = _record(file, shown, option)
                if not target.is_dir():
                    file.seek(0)
                    _unpack(file, target)
    except EncoderUnavailableError:
        raise
    except (E2IError, OSError) as error:
        if is_transient(error):
            raise
        if isinstance(error, StorageNotFoundError):
            raise _no_checkpoint(shown, option) from error
        raise EncoderUnavailableError(
            f"the checkpoint cannot be read: got {shown} ({error}), expected a file written by "
            f"finetune. Correct {option}."
        ) from error
    return record, target


def _no_checkpoint(shown: str, option: str) -> EncoderUnavailableError:
    return EncoderUnavailableError(
        f"there is no checkpoint: got {shown!r}, expected a file written by finetune. Correct "
        f"{option}."
    )


def _record(file: BinaryIO, shown: str, option: str) -> FinetunedEncoders:
    """What the header says of the encoders."""
    size = int.from_bytes(file.read(8), "little")
    content: Any = None
    if 2 <= size <= _MOST_HEADER_BYTES:
        try:
            header = json.loads(file.read(size))
            content = json.loads(header["__metadata__"]["e2i"])
        except (ValueError, KeyError, TypeError, RecursionError):
            content = None
    if not isinstance(content, dict):
        raise EncoderUnavailableError(
            f"the file is no checkpoint of e2i: got {shown}, expected one written by finetune. "
            f"Correct {option}."
        )
    if content.get("kind") != KIND:
        raise EncoderUnavailableError(
            f"the checkpoint holds no encoders: got {content.get('kind')!r} in {shown}, expected "
            f"one written by finetune. Correct {option}, or use the encoders that it was trained "
            "on."
        )
    try:
        return FinetunedEncoders.model_validate(content.get("encoders"))
    except ValidationError as error:
        fault = error.errors()[0]
        raise EncoderUnavailableError(
            f"the checkpoint was written by another version of e2i: got {fault['loc']}: "
            f"{fault['msg']} in {shown}, expected what this version knows. Use that version."
        ) from error


def _unpack(file: BinaryIO, target: Path) -> None:
    """Write the encoders of a checkpoint to a folder that shows up whole or not at all."""
    from safetensors import safe_open  # noqa: PLC0415 - with torch, which takes seconds

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unfinished-") as scratch:
        copy = Path(scratch) / "checkpoint.safetensors"
        with copy.open("wb") as whole:
            shutil.copyfileobj(file, whole, 2**22)
        folder = Path(scratch) / "encoders"
        with safe_open(copy, framework="pt") as stored:
            parts: dict[str, dict[str, Tensor]] = {"audio": {}, "text": {}, "files": {}}
            for name in stored.keys():  # noqa: SIM118 - no mapping
                side, _, rest = name.partition(".")
                if side in parts:
                    parts[side][rest] = stored.get_tensor(name)
        write_encoders(folder, parts["audio"], parts["text"], parts["files"])
        try:
            os.replace(folder, target)  # noqa: PTH105 - fails where another was quicker
        except OSError:
            if not target.is_dir():
                raise


def write_encoders(
    folder: Path,
    audio: Mapping[str, Tensor],
    text: Mapping[str, Tensor],
    files: Mapping[str, Tensor],
) -> None:
    """Write encoders in the published formats; the same tensors give the same bytes.

    Args:
        folder: to be made.
        audio: weights of PaSST.
        text: weights of the text model.
        files: its configuration and tokenizer, uint8.
    """
    from safetensors.torch import save_file  # noqa: PLC0415 - with torch

    (folder / TEXT_NAME).mkdir(parents=True)
    save_file(dict(audio), folder / AUDIO_NAME)
    save_file(dict(text), folder / TEXT_NAME / "model.safetensors", {"format": "pt"})
    for name, content in files.items():
        (folder / TEXT_NAME / Path(name).name).write_bytes(content.numpy().tobytes())
