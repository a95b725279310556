"""A training that ends before its time goes on to the same end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from e2i.errors import StorageUnavailableError
from e2i.heads.checkpoint import checkpoint_bytes
from e2i.heads.config import HeadsConfig
from e2i.losses import contrastive_loss
from e2i.storage import Folder
from e2i.training.config import TrainingConfig
from e2i.training.state import StateFile, TrainingState
from e2i.training.train import train_heads

MLP = HeadsConfig(hidden_dim=32, out_dim=16, standardize_input=True)
CNN = HeadsConfig(
    input_type="vision",
    hidden_dim=16,
    out_dim=8,
    vision_base_channels=2,
    vision_hidden_dim=16,
    vision_image_size="native",
)
# Three batches an epoch, and everything that has a state.
TRAINING = TrainingConfig(
    epochs=4, batch_size=60, warmup_epochs=1, learn_temperature=True, device="cpu", lr=1e-2
)
NAME = "heads.training-state"


class KilledError(Exception):
    """Stands for the end of the process."""


def train(folder, caches, heads=MLP, training=TRAINING, on_epoch=None):
    with StateFile(folder, NAME) as state:
        trained = train_heads(*caches, heads, training, on_epoch, state=state)
        state.discard()
    return trained


@pytest.fixture
def caches(make_cache):
    return [make_cache(40)], make_cache(20, split="validation")


def killed_at(step, monkeypatch):
    """Losses are computed until that step of the training."""
    left = [step]

    def loss(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KilledError
        return contrastive_loss(*arguments)

    monkeypatch.setattr("e2i.training.epochs.contrastive_loss", loss)


@pytest.mark.parametrize("heads", [MLP, CNN], ids=["mlp", "cnn"])
@pytest.mark.parametrize("steps", [(0,), (4,), (11,), (2, 3, 5), (7, 1)])
def test_killed_at_any_step_and_resumed_it_is_the_uninterrupted_one(
    tmp_path, caches, heads, steps, monkeypatch
):
    whole = train_heads(*caches, heads, TRAINING)
    for step in steps:
        killed_at(step, monkeypatch)
        with pytest.raises(KilledError):
            train(Folder(tmp_path), caches, heads)
        monkeypatch.undo()

    resumed = train(Folder(tmp_path), caches, heads)

    assert checkpoint_bytes(resumed.checkpoint) == checkpoint_bytes(whole.checkpoint)
    assert [epoch.epoch for epoch in resumed.history] == [1, 2, 3, 4]
    assert list(tmp_path.iterdir()) == []


def test_epochs_that_were_passed_are_told_but_not_passed_again(tmp_path, caches, monkeypatch):
    killed_at(7, monkeypatch)
    told = []
    with pytest.raises(KilledError):
        train(Folder(tmp_path), caches, on_epoch=told.append)
    assert [epoch.epoch for epoch in told] == [1, 2]
    killed_at(6, monkeypatch)  # two epochs are left

    again = []
    train(Folder(tmp_path), caches, on_epoch=again.append)

    assert again[:2] == told
    assert [epoch.epoch for epoch in again] == [1, 2, 3, 4]


KILLED = """
import os, pickle, sys
import torch
from pathlib import Path
torch.set_num_threads(1)
from e2i.heads.checkpoint import checkpoint_bytes
from e2i.heads.config import HeadsConfig
from e2i.storage import Folder
from e2i.training import epochs
from e2i.training.config import TrainingConfig
from e2i.training.state import StateFile, TrainingState
from e2i.training.train import train_heads

folder, kill_at = Path(sys.argv[1]), int(sys.argv[2])
caches, heads, training = pickle.loads((folder / "given").read_bytes())
plain, left = epochs.contrastive_loss, [kill_at]
def loss(*arguments):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), 9)
    return plain(*arguments)
epochs.contrastive_loss = loss
with StateFile(Folder(folder / "out"), "state") as state:
    trained = train_heads(*caches, heads, training, state=state)
    (folder / "checkpoint").write_bytes(checkpoint_bytes(trained.checkpoint))
"""


@pytest.mark.slow
def test_a_killed_process_loses_one_epoch_at_most(tmp_path, caches):
    import pickle

    (tmp_path / "given").write_bytes(pickle.dumps((caches, MLP, TRAINING)))
    for kill_at, code in ((8, -9), (5, -9), (0, 0)):
        ran = subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path), str(kill_at)],
            capture_output=True,
            check=False,
        )
        assert ran.returncode == code, ran.stderr
    whole = train_heads(*caches, MLP, TRAINING)
    assert (tmp_path / "checkpoint").read_bytes() == checkpoint_bytes(whole.checkpoint)


@pytest.mark.parametrize(
    "changes", [{"lr": 2e-2}, {"epochs": 5}, {"seed": 14}, {"precision": "bfloat16"}]
)
def test_another_training_does_not_take_it_up(tmp_path, caches, changes, monkeypatch):
    killed_at(7, monkeypatch)
    with pytest.raises(KilledError):
        train(Folder(tmp_path), caches)
    monkeypatch.undo()
    other = TrainingConfig(**{**TRAINING.model_dump(), **changes})

    resumed = train(Folder(tmp_path), caches, training=other)

    whole = train_heads(*caches, MLP, other)
    assert checkpoint_bytes(resumed.checkpoint) == checkpoint_bytes(whole.checkpoint)


def test_other_embeddings_do_not_take_it_up(tmp_path, caches, make_cache, monkeypatch):
    killed_at(7, monkeypatch)
    with pytest.raises(KilledError):
        train(Folder(tmp_path), caches)
    monkeypatch.undo()
    changed = caches[0][0].audio.copy()
    changed[3] *= -1
    others = ([make_cache(40, audio=changed)], caches[1])

    resumed = train(Folder(tmp_path), others)

    whole = train_heads(*others, MLP, TRAINING)
    assert checkpoint_bytes(resumed.checkpoint) == checkpoint_bytes(whole.checkpoint)


@pytest.mark.parametrize("damage", [b"", b"none", "cut", "foreign"])
def test_a_damaged_state_is_as_good_as_none(tmp_path, caches, damage, monkeypatch):
    from safetensors.torch import save

    killed_at(7, monkeypatch)
    with pytest.raises(KilledError):
        train(Folder(tmp_path), caches)
    monkeypatch.undo()
    whole = (tmp_path / NAME).read_bytes()
    foreign = save({"one": torch.ones(1)}, {"e2i": json.dumps([1])})
    broken = {"cut": whole[: len(whole) // 2], "foreign": foreign}.get(damage, damage)
    (tmp_path / NAME).write_bytes(broken)

    resumed = train(Folder(tmp_path), caches)

    uninterrupted = train_heads(*caches, MLP, TRAINING)
    assert checkpoint_bytes(resumed.checkpoint) == checkpoint_bytes(uninterrupted.checkpoint)


def test_a_store_that_refuses_ends_the_training(tmp_path, caches, monkeypatch):
    def refuse(*_, **__):
        raise StorageUnavailableError("the store is away")

    monkeypatch.setattr(Folder, "write", refuse)
    with pytest.raises(StorageUnavailableError, match="the store is away"):
        train(Folder(tmp_path), caches)


def test_early_stopping_is_resumed_too(tmp_path, caches, monkeypatch):
    # Nothing is learned at this rate, so the first epoch stays the best.
    slow = TrainingConfig(
        **{**TRAINING.model_dump(), "lr": 1e-12, "epochs": 9, "patience": 3, "warmup_epochs": 0}
    )
    whole = train_heads(*caches, MLP, slow)
    assert len(whole.history) == 4
    assert whole.best.epoch == 1
    assert whole.notes[-1] == (
        "Training ended after epoch 4 of 9: none of the last 3 was better than the one kept."
    )
    killed_at(8, monkeypatch)
    with pytest.raises(KilledError):
        train(Folder(tmp_path), caches, training=slow)
    monkeypatch.undo()

    resumed = train(Folder(tmp_path), caches, training=slow)

    assert checkpoint_bytes(resumed.checkpoint) == checkpoint_bytes(whole.checkpoint)


def test_the_state_of_a_killed_training_lies_in_its_file(tmp_path, caches, monkeypatch):
    killed_at(7, monkeypatch)
    with pytest.raises(KilledError):
        train(Folder(tmp_path), caches)
    assert [path.name for path in Path(tmp_path).iterdir()] == [NAME]


def test_a_state_that_takes_long_to_write_is_written_now_and_then(tmp_path, monkeypatch):
    clock = [100.0]
    time = SimpleNamespace(monotonic=lambda: clock[0])
    monkeypatch.setattr("e2i.training.state.time", time)
    plain = Folder.write

    def slow(folder, *arguments, **options):
        plain(folder, *arguments, **options)
        clock[0] += 2.0

    monkeypatch.setattr(Folder, "write", slow)
    state = TrainingState({"model.a": torch.ones(1)}, {})
    with StateFile(Folder(tmp_path), NAME, largest_share=0.1) as file:
        assert file.is_due
        file.save("f", state)
        file._written.result()
        for at, due in ((102.0, False), (119.9, False), (120.0, True), (500.0, True)):
            clock[0] = at
            assert file.is_due is due
    with StateFile(Folder(tmp_path), NAME) as file:
        file.save("f", state)
        assert file.is_due  # after each epoch, unless a share is given


def test_best_weights_that_are_the_models_are_stored_once(tmp_path, caches):
    seen = []

    class Watched(StateFile):
        def save(self, fingerprint, state):
            names = {name.partition(".")[0] for name in state.tensors}
            seen.append("best" in names)
            super().save(fingerprint, state)

    with Watched(Folder(tmp_path), NAME) as state:
        trained = train_heads(*caches, MLP, TRAINING, state=state)
    assert seen == [not epoch.is_best for epoch in trained.history]
    assert not seen[0]
