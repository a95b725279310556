"""Checkpoints: what is written is read, and nothing else is."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

import e2i
from e2i.clips import ClipKey
from e2i.errors import CheckpointError, CheckpointNotFoundError
from e2i.heads.build import build_heads
from e2i.heads.checkpoint import (
    Checkpoint,
    CheckpointRecord,
    EpochSummary,
    TrainedOn,
    checkpoint_bytes,
    checkpoint_from_bytes,
    load_checkpoint,
    load_checkpoint_and_digest,
    save_checkpoint,
)
from e2i.heads.clip_roles import ClipRoles, clip_digest
from e2i.heads.config import HeadsConfig
from e2i.storage import Folder
from e2i.training.config import TrainingConfig


def make_checkpoint(*, learn: bool = False, standardize: bool = False) -> Checkpoint:
    heads = HeadsConfig(hidden_dim=4, out_dim=3, standardize_input=standardize)
    training = TrainingConfig(epochs=2, learn_temperature=learn)
    model = build_heads(heads, 5, 6, seed=1, learn_temperature=learn)
    history = tuple(
        EpochSummary(epoch=n, lr=0.1 / n, train_loss=1.5, metrics={"val_loss": 2.0 / n})
        for n in (1, 2)
    )
    record = CheckpointRecord(
        kind="projection_heads",
        schema_version=1,
        e2i_version=e2i.__version__,
        heads=heads,
        training=training,
        audio_dim=5,
        text_dim=6,
        audio_fingerprint="a" * 16,
        text_fingerprint="b" * 16,
        caches=(TrainedOn(dataset="s", split="x", role="train", num_clips=3, num_captions=9),),
        best_epoch=2,
        history=history,
        notes=("A note.",),
    )
    clips = [ClipKey("s", "x", f"{n} [é#%].wav") for n in range(4)]
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return Checkpoint(record, weights, ClipRoles.of(clips[:2], clips[2:3], clips[3:]))


def with_metadata(change) -> bytes:
    """A checkpoint's bytes with its JSON changed."""
    checkpoint = make_checkpoint()
    tensors = load(checkpoint_bytes(checkpoint))
    content = checkpoint.record.model_dump(mode="json")
    change(content)
    return save(tensors, {"e2i": json.dumps(content)})


def with_tensors(change) -> bytes:
    """A checkpoint's bytes with its tensors changed."""
    checkpoint = make_checkpoint()
    tensors = load(checkpoint_bytes(checkpoint))
    change(tensors)
    return save(tensors, {"e2i": json.dumps(checkpoint.record.model_dump(mode="json"))})


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("url", ["local", "memory://heads"])
def test_round_trip(tmp_path, url, learn, standardize):
    folder = Folder(tmp_path if url == "local" else url)
    written = make_checkpoint(learn=learn, standardize=standardize)
    save_checkpoint(folder, "projection_heads.safetensors", written)
    read = load_checkpoint(folder, "projection_heads.safetensors")
    assert read.record == written.record
    assert read.clips == written.clips
    assert read.metrics == {"val_loss": 1.0}
    assert read.weights.keys() == written.weights.keys()
    assert all(torch.equal(read.weights[name], written.weights[name]) for name in read.weights)
    rows = torch.ones((2, 5))
    assert torch.equal(read.heads().project_audio(rows), written.heads().project_audio(rows))


def test_equal_checkpoints_have_equal_bytes():
    assert checkpoint_bytes(make_checkpoint()) == checkpoint_bytes(make_checkpoint())


def test_heads_are_copies_that_do_not_train():
    checkpoint = make_checkpoint(learn=True)
    heads = checkpoint.heads()
    assert not any(weight.requires_grad for weight in heads.parameters())
    heads.audio.hidden.weight.zero_()
    assert checkpoint.weights["audio.hidden.weight"].abs().sum() > 0


def test_no_clip_name_is_in_the_file():
    assert "é#%".encode() not in checkpoint_bytes(make_checkpoint())
    assert b"\\u00e9" not in checkpoint_bytes(make_checkpoint())


def test_clips_differ_by_each_part_of_their_key():
    keys = [
        ClipKey("a", "b", "c"),
        ClipKey("ab", "", "c"),
        ClipKey("a", "bc", ""),
        ClipKey("", "b", "c"),
    ]
    assert len({clip_digest(key) for key in keys}) == 4
    # Golden: first 16 bytes of `printf '["a", "b", "c"]' | sha256sum`.
    assert clip_digest(keys[0]).hex() == "d33b202c020cbde1c4a7bb26d0b02e66"


def test_missing(tmp_path):
    with pytest.raises(CheckpointNotFoundError) as caught:
        load_checkpoint(Folder(tmp_path), "projection_heads.safetensors")
    assert str(caught.value) == (
        f"there is no checkpoint: got {tmp_path}/projection_heads.safetensors, expected a file "
        "written by train-projection. Train first, or give --checkpoint."
    )
    assert isinstance(caught.value, FileNotFoundError)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


@pytest.mark.parametrize("form", ["torch", "plain", "legacy"])
def test_pickles_are_named_and_not_executed(form):
    stream = io.BytesIO()
    if form == "plain":
        stream.write(pickle.dumps(Bomb()))
    else:
        torch.save({"x": torch.ones(2)}, stream, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(CheckpointError) as caught:
        checkpoint_from_bytes(stream.getvalue(), "/c/heads.pt")
    assert str(caught.value) == (
        "the checkpoint is a pickle, which could run code: got /c/heads.pt, expected a "
        "safetensors file. Train again with train-projection."
    )


@pytest.mark.parametrize("length", [0, 1, 7, 8, 100, 1500, -1])
def test_truncated(length):
    with pytest.raises(CheckpointError, match=r"truncated or no safetensors file: got \d+ bytes"):
        checkpoint_from_bytes(checkpoint_bytes(make_checkpoint())[:length], "here")


def test_foreign_safetensors():
    with pytest.raises(CheckpointError) as caught:
        checkpoint_from_bytes(save({"x": torch.ones(2)}), "here")
    assert str(caught.value) == (
        "the file is not a checkpoint of e2i: got here without an 'e2i' entry in its header, "
        "expected one written by train-projection. Give another --checkpoint."
    )


def test_other_schema_version():
    with pytest.raises(CheckpointError) as caught:
        checkpoint_from_bytes(with_metadata(lambda c: c.update(schema_version=2)), "here")
    assert str(caught.value) == (
        "the checkpoint was written by another version of e2i: got schema version 2 in here, "
        "expected 1. Use that version, or train again."
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("text_dim"), "got text_dim: Field required in here"),
        (lambda c: c["heads"].update(hidden_dim=-1), "got heads.hidden_dim: Input should be"),
        (lambda c: c.update(surprise=1), "got surprise: Extra inputs are not permitted"),
        (lambda c: c.update(history=[]), "got history: Tuple should have at least 1 item"),
        (lambda c: c.update(best_epoch=3), "best epoch is not in its history: got 3 in here"),
        (
            lambda c: c.update(audio_dim=7),
            r"here: the checkpoint's tensors do not fit its configuration: got audio.hidden.weight "
            r"of shape \(4, 5\), expected \(4, 7\). Train again.",
        ),
        (
            lambda c: c["heads"].update(standardize_input=True),
            r"got audio.deviation of shape none, expected \(5,\)",
        ),
        (
            lambda c: (c["heads"].update(hidden_dim=65_536), c.update(audio_dim=1_048_576)),
            r"expected \(65536,\)",
        ),
    ],
)
def test_a_header_that_does_not_fit(change, words):
    with pytest.raises(CheckpointError, match=words):
        checkpoint_from_bytes(with_metadata(change), "here")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("text.out.bias"), r"got text.out.bias of shape none, expected \(3,\)"),
        (lambda t: t.update(more=torch.ones(2)), r"got more of shape \(2,\), expected none"),
        (
            lambda t: t["text.out.bias"].fill_(float("nan")),
            "got text.out.bias with other than finite float32 values",
        ),
        (
            lambda t: t.update({"text.out.bias": torch.ones(3, dtype=torch.float16)}),
            "got text.out.bias with other than finite float32 values",
        ),
        (lambda t: t.pop("clips.train"), "which clips it has seen: got nothing as clips.train"),
        (
            lambda t: t.update({"clips.test": torch.ones((2, 8), dtype=torch.uint8)}),
            r"got torch.uint8 \(2, 8\) as clips.test in here, expected bytes of shape \(n, 16\)",
        ),
    ],
)
def test_tensors_that_do_not_fit(change, words):
    with pytest.raises(CheckpointError, match=words):
        checkpoint_from_bytes(with_tensors(change), "here")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"x"', "[" * 100_000, "null"])
def test_metadata_that_is_no_object(text):
    with pytest.raises(CheckpointError, match="header of the checkpoint is damaged: got here"):
        checkpoint_from_bytes(save({"x": torch.ones(2)}, {"e2i": text}), "here")


WHOLE = checkpoint_bytes(make_checkpoint())


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=300))
def test_garbage_ends_in_an_error(data):
    with pytest.raises(CheckpointError):
        checkpoint_from_bytes(data, "here")


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=100))
def test_garbage_behind_a_length_ends_in_an_error(data):
    with pytest.raises(CheckpointError):
        checkpoint_from_bytes(struct.pack("<Q", len(data)) + data, "here")


@settings(deadline=None, max_examples=300)
@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_a_changed_byte_is_an_error_or_a_checkpoint(place, byte):
    damaged = bytearray(WHOLE)
    damaged[place] = byte
    try:
        read = checkpoint_from_bytes(bytes(damaged), "here")
    except CheckpointError:
        return
    assert read.heads().project_text(torch.ones((1, 6))).shape == (1, 3)


def test_a_digest_is_of_the_bytes_that_were_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that replaces the file meanwhile must not lend the scores its name."""
    folder = Folder(tmp_path)
    save_checkpoint(folder, "heads.safetensors", make_checkpoint())
    data = folder.read("heads.safetensors")
    reads = []
    monkeypatch.setattr(Folder, "read", lambda self, name: reads.append(name) or data)
    assert (
        load_checkpoint_and_digest(folder, "heads.safetensors")[1]
        == hashlib.sha256(data).hexdigest()
    )
    assert reads == ["heads.safetensors"]
