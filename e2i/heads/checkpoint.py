"""Trained heads in one safetensors file: weights, configuration and what they were trained on.

Conventions: tensors are named as in `ProjectionHeads`; `clips.train`, `clips.validation` and
`clips.test` are uint8 (n, 16), sorted digests of the clips by role; the header's metadata holds one
entry, `e2i`, a JSON object that `CheckpointRecord` describes. The same training gives the same
bytes: no time, no path and no machine is in them. Nothing in a file is ever executed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from e2i.configuration import Configuration
from e2i.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ConfigError,
    StorageError,
    StorageNotFoundError,
)
from e2i.heads.build import ProjectionHeads, unset_heads
from e2i.heads.clip_roles import DIGEST_BYTES, ClipRoles
from e2i.heads.config import HeadsConfig
from e2i.storage import Folder
from e2i.training.config import TrainingConfig

SCHEMA_VERSION = 1
_METADATA_KEY = "e2i"
FINETUNED = "finetuned"
"""Kind of a checkpoint that holds encoders beside its heads."""
_MAX_DIM = 1_048_576


class TrainedOn(Configuration):
    """One cache that took part in training.

    Only what does not change with the place: no location.
    """

    dataset: str = Field(description="Name of the data set.")
    split: str = Field(description="Name of the split.")
    role: Literal["train", "validation"] = Field(description="What it was given for.")
    num_clips: int = Field(ge=0, description="Clips in it.")
    num_captions: int = Field(ge=0, description="Captions in it.")


class EpochSummary(Configuration):
    """What one epoch came to, without times."""

    epoch: int = Field(ge=1, description="From 1.")
    lr: float = Field(description="Learning rate of the epoch.")
    train_loss: float = Field(description="Mean over the training pairs.")
    metrics: dict[str, float] = Field(description="Validation scores by name.")


class CheckpointRecord(Configuration):
    """The JSON in a checkpoint's header."""

    kind: Literal["projection_heads"] = Field(description="What the file holds.")
    schema_version: Literal[1] = Field(description="Of this layout.")
    e2i_version: str = Field(description="Version of e2i that wrote it.")
    heads: HeadsConfig = Field(description="What a head looks like.")
    training: TrainingConfig = Field(description="How they were trained.")
    audio_dim: int = Field(ge=1, le=_MAX_DIM, description="D of the audio embeddings.")
    text_dim: int = Field(ge=1, le=_MAX_DIM, description="D of the text embeddings.")
    audio_fingerprint: str = Field(description="Of the audio encoder that they were trained on.")
    text_fingerprint: str = Field(description="Of the text encoder that they were trained on.")
    caches: tuple[TrainedOn, ...] = Field(description="Caches that took part.")
    best_epoch: int = Field(ge=1, description="Epoch whose weights these are.")
    history: tuple[EpochSummary, ...] = Field(min_length=1, description="All epochs.")
    notes: tuple[str, ...] = Field(description="What training did other than asked, in sentences.")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Trained heads and all that belongs to them.

    Attributes:
        record: configuration, dimensions, fingerprints, history.
        weights: tensors by name, on the CPU.
        clips: what each clip was used for.
    """

    record: CheckpointRecord
    weights: Mapping[str, Tensor]
    clips: ClipRoles

    @property
    def metrics(self) -> dict[str, float]:
        """Validation scores of the epoch that was kept."""
        chosen = next(e for e in self.record.history if e.epoch == self.record.best_epoch)
        return chosen.metrics

    def heads(self, device: torch.device | None = None) -> ProjectionHeads:
        """The heads with these weights, on a device, as copies.

        Raises:
            CheckpointError: names or shapes of the tensors are not those of the configuration.
        """
        target = device or torch.device("cpu")
        copies = {name: tensor.to(target, copy=True) for name, tensor in self.weights.items()}
        # A backbone computes with constants of its own, which no file holds: it is made in full.
        in_full = bool(self.record.heads.vision_backbone)
        heads = _empty_heads(self.record, torch.device("cpu" if in_full else "meta"))
        _check_weights(heads, copies)
        heads.load_state_dict(copies, assign=True)
        if in_full:
            heads.to(target)
        return heads.requires_grad_(requires_grad=False)


def save_checkpoint(folder: Folder, name: str, checkpoint: Checkpoint) -> str:
    """Write a checkpoint, replacing what is there, in one step; the sha256 of its bytes.

    Args:
        folder: where.
        name: file name, such as `projection_heads.safetensors`.
        checkpoint: what.

    Raises:
        StorageError: the store refused.
    """
    data = checkpoint_bytes(checkpoint)
    folder.write(name, data)
    return hashlib.sha256(data).hexdigest()


def checkpoint_bytes(checkpoint: Checkpoint) -> bytes:
    """The file of a checkpoint; equal checkpoints give equal bytes."""
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.weights.items()}
    for role in ("train", "validation", "test"):
        digests: frozenset[bytes] = getattr(checkpoint.clips, role)
        rows = np.frombuffer(bytearray(b"".join(sorted(digests))), dtype=np.uint8)
        tensors[f"clips.{role}"] = torch.from_numpy(rows.reshape(-1, DIGEST_BYTES))
    content = checkpoint.record.model_dump(mode="json")
    # One entry only: several come out in an order of their own each time.
    return save_tensors(tensors, {_METADATA_KEY: json.dumps(content, sort_keys=True)})


def load_checkpoint(folder: Folder, name: str) -> Checkpoint:
    """Read a checkpoint; bytes that are none of ours end in an error, never in code that runs.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointError: it is a folder or pickle, damaged, of another version, or does not fit
            itself.
        StorageError: the store refused.
    """
    return load_checkpoint_and_digest(folder, name)[0]


def load_checkpoint_and_digest(folder: Folder, name: str) -> tuple[Checkpoint, str]:
    """A checkpoint, and the sha256 of the very bytes that it was made from.

    Raises:
        CheckpointNotFoundError: as `load_checkpoint`.
        CheckpointError: as `load_checkpoint`.
        StorageError: the store refused.
    """
    data = read_checkpoint_bytes(folder, name)
    where = f"{folder.url.rstrip('/')}/{name}"
    return checkpoint_from_bytes(data, where), hashlib.sha256(data).hexdigest()


def read_checkpoint_bytes(folder: Folder, name: str) -> bytes:
    """The bytes of a checkpoint's file.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointError: it is a folder.
        StorageError: the store refused.
    """
    where = f"{folder.url.rstrip('/')}/{name}"
    try:
        return folder.read(name)
    except StorageError as error:
        if folder.local_path is not None and (folder.local_path / name).is_dir():
            message = (
                f"the checkpoint is a folder: got {where}, expected a file written by "
                "train-projection. Give the file in it as --checkpoint."
            )
            raise CheckpointError(message) from error
        if not isinstance(error, StorageNotFoundError):
            raise
        message = (
            f"there is no checkpoint: got {where}, expected a file written by train-projection. "
            "Train first, or give --checkpoint."
        )
        raise CheckpointNotFoundError(message) from error


def checkpoint_from_bytes(data: bytes, where: str) -> Checkpoint:
    """The checkpoint in a file's bytes; `where` is for messages.

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    if data[:4] == b"PK\x03\x04" or data[:2] in {
        b"\x80\x02",
        b"\x80\x03",
        b"\x80\x04",
        b"\x80\x05",
    }:
        message = (
            f"the checkpoint is a pickle, which could run code: got {where}, expected a "
            "safetensors file. Train again with train-projection."
        )
        raise CheckpointError(message)
    try:
        tensors = load_tensors(data)
    except (SafetensorError, ValueError, KeyError, OverflowError) as error:
        message = (
            f"the checkpoint is truncated or no safetensors file: got {len(data)} bytes in "
            f"{where} ({error}), expected a whole file. Copy it again, or train again."
        )
        raise CheckpointError(message) from error
    record, prefix = _record(data, where)
    clips = ClipRoles(
        train=_digests(tensors, "train", where),
        validation=_digests(tensors, "validation", where),
        test=_digests(tensors, "test", where),
    )
    weights = {
        key.removeprefix(prefix): tensor
        for key, tensor in tensors.items()
        if key.startswith(prefix) and not key.startswith("clips.")
    }
    try:
        _check_weights(_empty_heads(record, torch.device("meta")), weights)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{where}: {error}") from error
    return Checkpoint(record, weights, clips)


def _record(data: bytes, where: str) -> tuple[CheckpointRecord, str]:
    """The JSON of the header, and what the heads' names begin with.

    The tensors have been read, so the header itself is sound. Of a fine-tuned checkpoint, which
    holds encoders too, it is the part about the heads.
    """
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    text = (header.get("__metadata__") or {}).get(_METADATA_KEY)
    if text is None:
        message = (
            f"the file is not a checkpoint of e2i: got {where} without an {_METADATA_KEY!r} entry "
            "in its header, expected one written by train-projection. Give another --checkpoint."
        )
        raise CheckpointError(message)
    try:
        content = json.loads(text)
        version = content.get("schema_version")
        prefix = "heads." if content.get("kind") == FINETUNED else ""
        if prefix and version == SCHEMA_VERSION:
            content = content.get("heads")
    except (ValueError, AttributeError, RecursionError) as error:
        message = (
            f"the header of the checkpoint is damaged: got {where} ({type(error).__name__}), "
            "expected a JSON object. Copy it again, or train again."
        )
        raise CheckpointError(message) from error
    if version != SCHEMA_VERSION:
        message = (
            f"the checkpoint was written by another version of e2i: got schema version {version!r} "
            f"in {where}, expected {SCHEMA_VERSION}. Use that version, or train again."
        )
        raise CheckpointError(message)
    try:
        record = CheckpointRecord.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(step) for step in first["loc"])
        message = (
            f"the header of the checkpoint does not hold what it should: got {field}: "
            f"{first['msg']} in {where}, expected what train-projection writes. Train again."
        )
        raise CheckpointError(message) from error
    if record.best_epoch not in {epoch.epoch for epoch in record.history}:
        message = (
            f"the checkpoint's best epoch is not in its history: got {record.best_epoch} in "
            f"{where}, expected one of {len(record.history)}. Train again."
        )
        raise CheckpointError(message)
    return record, prefix


def _digests(tensors: Mapping[str, Tensor], role: str, where: str) -> frozenset[bytes]:
    rows = tensors.get(f"clips.{role}")
    if rows is None or rows.dtype != torch.uint8 or rows.shape[1:] != (DIGEST_BYTES,):
        got = "nothing" if rows is None else f"{rows.dtype} {tuple(rows.shape)}"
        message = (
            f"the checkpoint does not say which clips it has seen: got {got} as clips.{role} in "
            f"{where}, expected bytes of shape (n, {DIGEST_BYTES}). Train again."
        )
        raise CheckpointError(message)
    flat = rows.numpy().tobytes()
    return frozenset(flat[i : i + DIGEST_BYTES] for i in range(0, len(flat), DIGEST_BYTES))


def _empty_heads(record: CheckpointRecord, device: torch.device) -> ProjectionHeads:
    """Heads of the right shapes; on "meta" without memory, whatever sizes the file claims."""
    return unset_heads(
        record.heads,
        record.audio_dim,
        record.text_dim,
        device,
        temperature=record.training.temperature,
        learn_temperature=record.training.learn_temperature,
    )


def _check_weights(heads: ProjectionHeads, weights: Mapping[str, Tensor]) -> None:
    """Names, shapes and values of the tensors against the configuration."""
    made = heads.state_dict()
    wanted = {name: tuple(tensor.shape) for name, tensor in made.items()}
    for name in sorted(wanted.keys() | weights.keys()):
        tensor = weights.get(name)
        got = None if tensor is None else tuple(tensor.shape)
        if got != wanted.get(name):
            message = (
                f"the checkpoint's tensors do not fit its configuration: got {name} of shape "
                f"{got or 'none'}, expected {wanted.get(name) or 'none'}. Train again."
            )
            raise CheckpointError(message)
        kind = made[name].dtype  # float32, but for a backbone's counters
        if tensor is None or tensor.dtype != kind or not bool(tensor.isfinite().all()):
            message = (
                f"the checkpoint's weights cannot be computed with: got {name} with other than "
                f"finite {str(kind).removeprefix('torch.')} values, expected those alone. Train "
                "again."
            )
            raise CheckpointError(message)
