"""Whole trainings: resumed, frozen, stored, held out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_world import SmallWorld
from train_until_killed import CHANGES

from e2i.audio import load_waveform
from e2i.encoders.config import EncodersConfig
from e2i.encoders.load import load_audio_encoder, load_text_encoder
from e2i.encoders.protocols import fingerprint
from e2i.errors import ConfigError
from e2i.heads.build import build_heads
from e2i.heads.checkpoint import load_checkpoint
from e2i.heads.clip_roles import clip_digest
from e2i.losses import contrastive_loss, positives_from_clips
from e2i.storage import Folder
from e2i.training.epochs import EpochRecord
from e2i.training.finetune.batching import BatchPlans
from e2i.training.finetune.config import FinetuneConfig
from e2i.training.finetune.examples import seed_of
from e2i.training.finetune.optimizer import Schedule
from e2i.training.finetune.train import (
    Finetuned,
    Inputs,
    finetune,
    run_fingerprint,
    with_parts_held_out,
)
from e2i.training.pairs import Pairs

NAME = "finetune"
TESTS = Path(__file__).parents[3]
NOISE = {"patchout_time": 5, "word_dropout": 0.2, "gain_db": 6.0, "roll": True, "dropout": 0.3}


class KilledError(Exception):
    """What a test ends a training with."""


def train(small: SmallWorld, output: Path, **changes: object) -> Finetuned:
    config = small.config(max_audio_seconds=0.21, **changes)
    return finetune(small.inputs(output, NAME), config)


def files(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.iterdir()}


def test_a_broken_off_training_goes_on_to_the_same_weights(
    small: SmallWorld, tmp_path: Path
) -> None:
    """Broken off in the middle of the second epoch, with all that is drawn at random."""
    changes = {**NOISE, "model_type": "vision", "text_dropout": 0.2, "learn_temperature": True}
    whole = train(small, tmp_path / "whole", **changes)
    config = small.config(max_audio_seconds=0.21, save_every=2, **changes)
    inputs = small.inputs(tmp_path / "cut", NAME)
    epochs: list[EpochRecord] = []
    since: list[int] = []

    def die(count: int) -> None:
        if epochs:
            since.append(count)
        if len(since) == 3:
            raise KilledError

    with pytest.raises(KilledError):
        finetune(inputs, config, epochs.append, die)
    assert files(tmp_path / "cut").keys() == {f"{NAME}.training-state"}
    passed: list[int] = []
    again = finetune(inputs, config, on_batch=passed.append)
    assert files(tmp_path / "cut").keys() == {f"{NAME}.safetensors", f"{NAME}_last.safetensors"}
    assert [e.train_loss for e in again.history] == [e.train_loss for e in whole.history]
    assert [e.metrics for e in again.history] == [e.metrics for e in whole.history]
    # All but `save_every`, which is on record, is the same to the last bit.
    for name in (f"{NAME}.safetensors", f"{NAME}_last.safetensors"):
        weights = [load_weights(tmp_path / run / name) for run in ("whole", "cut")]
        assert weights[0].keys() == weights[1].keys()
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert again.test == whole.test
    assert passed[0] >= config.accumulate


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_weights(small: SmallWorld, tmp_path: Path) -> None:
    """SIGKILL in the middle of the second epoch."""
    config = small.config(**CHANGES)
    whole = finetune(small.inputs(tmp_path / "whole"), config)
    here = Path(__file__).parent
    killed = subprocess.run(
        [sys.executable, here / "train_until_killed.py", small.root, tmp_path / "cut", "2"],
        env={**os.environ, "PYTHONPATH": f"{here}:{TESTS}:{TESTS.parent}"},
        timeout=240,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    passed: list[int] = []
    again = finetune(small.inputs(tmp_path / "cut"), config, on_batch=passed.append)
    assert passed[0] > 0
    assert [e.train_loss for e in again.history] == [e.train_loss for e in whole.history]
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


OF_PROCESSES: dict[str, object] = {"text_dropout": 0.0, "dropout": 0.0, "epochs": 2}


def in_two_processes(
    small: SmallWorld, output: Path, how: str, epochs: int
) -> tuple[dict[str, Any], str]:
    """What came of a training, and what was printed."""
    here = Path(__file__).parent
    output.mkdir()
    changes = json.dumps({**OF_PROCESSES, "devices": 2, "epochs": epochs})
    done = subprocess.run(
        [sys.executable, here / "train_in_processes.py", small.root, output, how, changes],
        env={**os.environ, "PYTHONPATH": f"{here}:{TESTS}:{TESTS.parent}"},
        timeout=800,
        check=True,
        capture_output=True,
        text=True,
    )
    outcome: dict[str, Any] = json.loads((output / "outcome.json").read_text())
    return outcome, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_train_as_one(small: SmallWorld, tmp_path: Path) -> None:
    alone = finetune(small.inputs(tmp_path / "alone"), small.config(**OF_PROCESSES))
    outcome, printed = in_two_processes(small, tmp_path / "two", "whole", 2)
    losses = [record["train_loss"] for record in outcome["history"]]
    assert losses == pytest.approx([e.train_loss for e in alone.history], rel=1e-3)
    assert outcome["batches"] == 2 * 5
    assert outcome["left"] == 0
    stored = files(tmp_path / "two")
    assert stored.keys() - {"outcome.json"} == files(tmp_path / "alone").keys()
    for noise in ("distributed", "Grad strides"):  # Lightning's and torch's, about processes
        assert noise not in printed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_ends_a_training_ends_its_processes(small: SmallWorld, tmp_path: Path) -> None:
    small.examples()
    outcome, _ = in_two_processes(small, tmp_path / "two", "ended", 1000)
    assert outcome["error"] == "ToldEnoughError"
    assert len(outcome["history"]) < 1000
    assert outcome["left"] == 0


def test_a_batch_has_a_pair_for_each_device(small: SmallWorld, tmp_path: Path) -> None:
    inputs = small.inputs(tmp_path)
    with pytest.raises(ConfigError) as caught:
        with_parts_held_out(
            replace(inputs, train=inputs.train.of_clips(np.arange(6))),
            small.config(batch_size=4, devices=4),
        )
    assert str(caught.value) == (
        "a device would be left without a pair: got batches of 3 of 3 training clips for 4 "
        "devices, expected at least one pair each. Lower --devices."
    )


def test_limits_of_decoding_do_not_make_it_another_training(
    small: SmallWorld, tmp_path: Path
) -> None:
    """A run that was killed goes on where a decoder is given more time, say."""
    from e2i.training.finetune.encoders import load_encoders

    inputs = with_parts_held_out(small.inputs(tmp_path), small.config())
    _, reader = load_encoders(small.config())

    def fingerprint_of(**changes: object) -> str:
        return run_fingerprint(inputs, small.config(**changes), reader, torch.device("cpu"))

    same = fingerprint_of(decode_timeout=5.0, max_failures=3, num_workers=1, save_every=7)
    assert same == fingerprint_of()
    assert fingerprint_of(seed=1) != fingerprint_of()


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def test_another_configuration_does_not_take_up_the_state(
    small: SmallWorld, tmp_path: Path
) -> None:
    def die(record: EpochRecord) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        finetune(small.inputs(tmp_path, NAME), small.config(freeze="both"), die)
    assert files(tmp_path).keys() == {f"{NAME}.training-state"}
    fresh = train(small, tmp_path / "fresh", freeze="both", seed=14)
    taken = train(small, tmp_path, freeze="both", seed=14)
    assert [e.train_loss for e in taken.history] == [e.train_loss for e in fresh.history]


def embedded(small: SmallWorld, config: FinetuneConfig, inputs: Inputs) -> Pairs:
    """What a cache of the training clips would hold."""
    options = config.encoders("cpu")
    audio, text = load_audio_encoder(options), load_text_encoder(options)
    waveforms = [
        load_waveform((small.root / key.clip_id).read_bytes(), 32_000, key.clip_id).samples
        for key in inputs.train.keys
    ]
    return Pairs(
        inputs.train.keys,
        np.stack([made.embedding for made in audio.encode(waveforms)]),
        text.encode(inputs.train.captions),
        inputs.train.pair_clip,
    )


@pytest.mark.parametrize("model_type", ["baseline", "vision"])
def test_with_frozen_encoders_it_trains_the_heads_of_a_cache(
    small: SmallWorld, tmp_path: Path, model_type: str
) -> None:
    """Beside a plain loop over the embeddings that a cache holds: the same weights."""
    config = small.config(
        model_type=model_type, freeze="both", dropout=0.2, normalize=True, epochs=2
    )
    inputs = with_parts_held_out(small.inputs(tmp_path, NAME), config)
    finetune(small.inputs(tmp_path, NAME), config)
    trained = load_checkpoint(Folder(tmp_path), f"{NAME}_last.safetensors").weights

    pairs = embedded(small, config, inputs).to(torch.device("cpu"), config.heads())
    heads = build_heads(config.heads(), 768, 32, seed=config.seed, temperature=0.07)
    optimizer = torch.optim.AdamW(heads.parameters(), weight_decay=0.0, fused=True)
    plans = BatchPlans(inputs.train, config)
    schedule = Schedule.of(config, plans.num_batches)
    step = 0
    for epoch in (1, 2):
        for batch in plans.epoch(epoch):
            for group in optimizer.param_groups:
                group["lr"] = schedule.lr(step)
            generator = torch.Generator().manual_seed(seed_of(config.seed, "heads", step))
            clips = pairs.pair_clip[batch]
            loss = contrastive_loss(
                heads.project_audio(pairs.audio[clips], generator),
                heads.project_text(pairs.text[batch], generator),
                positives_from_clips(clips),
                heads.logit_scale,
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(heads.parameters(), 1.0)
            optimizer.step()
            step += 1
    expected = heads.state_dict()
    assert trained.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(trained[name], value, rtol=2e-3, atol=2e-4, msg=name)


@pytest.mark.parametrize(
    ("freeze", "moved"),
    [("audio", {"text"}), ("text", {"audio"})],
)
def test_what_is_frozen_stays_and_the_rest_moves(
    small: SmallWorld, tmp_path: Path, freeze: str, moved: set[str]
) -> None:
    train(small, tmp_path, freeze=freeze, epochs=1, patchout_time=5, text_dropout=0.2)
    weights = load_weights(tmp_path / f"{NAME}.safetensors")
    from e2i.training.finetune.encoders import load_encoders

    encoders, _ = load_encoders(small.config())
    before = {"audio": encoders.audio.state_dict(), "text": encoders.text.state_dict()}
    changed = {
        side
        for side, state in before.items()
        if any(not torch.equal(value, weights[f"{side}.{name}"]) for name, value in state.items())
    }
    assert changed == moved


def test_a_checkpoint_is_an_encoder_and_heads(small: SmallWorld, tmp_path: Path) -> None:
    train(small, tmp_path / "out", epochs=1, normalize=True, text_pooling="first")
    url = f"checkpoint:{tmp_path}/out/{NAME}.safetensors"
    options = EncodersConfig(
        audio_encoder=url, text_encoder=url, device="cpu", models_dir=str(tmp_path / "models")
    )
    audio, text = load_audio_encoder(options), load_text_encoder(options)
    checkpoint = load_checkpoint(Folder(tmp_path / "out"), f"{NAME}.safetensors")
    assert fingerprint(audio.settings) == checkpoint.record.audio_fingerprint
    assert fingerprint(text.settings) == checkpoint.record.text_fingerprint
    assert audio.settings["normalize"] is True
    assert text.settings["caption_form"] == "dcase2025"
    assert text.settings["max_length"] == 32
    (unpacked,) = (tmp_path / "models" / "finetuned").iterdir()
    assert sorted(entry.name for entry in unpacked.iterdir()) == ["audio.safetensors", "text"]

    weights = load_weights(tmp_path / "out" / f"{NAME}.safetensors")
    from e2i.training.finetune.encoders import load_encoders

    encoders, reader = load_encoders(small.config(text_pooling="first", normalize=True))
    encoders.eval()
    for side in ("audio", "text"):
        start = f"{side}."
        state = {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
        getattr(encoders, side).load_state_dict(state)
    sound = (0.1 * np.random.default_rng(0).standard_normal(9_000)).astype(np.float32)
    captions = ["A dog-like bark", "rain"]
    with torch.no_grad():
        _, read = encoders([], 0, reader.tokens(captions).batch([0, 1], torch.device("cpu")))
    np.testing.assert_allclose(text.encode(captions), read.numpy(), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        heard = encoders.audio(torch.from_numpy(sound)[None])
        heard /= heard.norm()
    np.testing.assert_allclose(
        audio.encode([sound])[0].embedding, heard[0].numpy(), rtol=1e-4, atol=1e-5
    )


def test_clips_have_one_role_each_and_the_checkpoint_knows_it(
    small: SmallWorld, tmp_path: Path
) -> None:
    train(small, tmp_path, freeze="both", epochs=1, val_fraction=0.3, test_fraction=0.2)
    roles = load_checkpoint(Folder(tmp_path), f"{NAME}.safetensors").clips
    keys = {clip_digest(key) for key in small.examples().keys}
    assert roles.train | roles.validation | roles.test == keys
    assert len(roles.train) + len(roles.validation) + len(roles.test) == len(keys)
    assert min(map(len, (roles.train, roles.validation, roles.test))) > 0


def test_a_clip_in_two_parts_is_refused(small: SmallWorld, tmp_path: Path) -> None:
    examples = small.examples()
    some = examples.of_clips(np.array([2, 5]))
    inputs = Inputs(examples, some, None, Folder(tmp_path), Folder(tmp_path), NAME)
    message = (
        r"the validation part shares clips with another part: got 2, the first "
        r"'recordings/all/clip 2\.wav', expected none\. Give another --val-metadata\."
    )
    with pytest.raises(ConfigError, match=message):
        finetune(inputs, small.config())


def test_a_metric_that_cannot_choose_is_refused_before_anything_is_trained(
    small: SmallWorld, tmp_path: Path
) -> None:
    epochs: list[EpochRecord] = []
    message = "text_to_audio_R@5 cannot choose an epoch: got 2 validation candidates"
    with pytest.raises(ConfigError, match=message):
        finetune(
            small.inputs(tmp_path),
            small.config(selection_metric="text_to_audio_R@5", audio_weights="nowhere.pt"),
            epochs.append,
        )
    assert not epochs


def test_drop_last_leaves_out_what_fills_no_batch(small: SmallWorld) -> None:
    examples = small.examples()  # 24 pairs
    config = small.config(drop_last=True, repeat_clips=True, batch_size=7)
    plan = BatchPlans(examples, config).epoch(1)
    assert plan.sizes == (7, 7, 7)
    assert len(set(plan.order.tolist())) == 21
    with pytest.raises(ConfigError, match="no batch can be filled: got batch_size 25 and drop_"):
        BatchPlans(examples, small.config(drop_last=True, repeat_clips=True, batch_size=25))


def test_drop_last_leaves_no_clip_twice_in_a_batch(small: SmallWorld) -> None:
    examples = small.examples()  # 12 clips of two captions
    plans = BatchPlans(examples, small.config(drop_last=True, batch_size=7))
    for epoch in range(1, 20):
        plan = plans.epoch(epoch)
        assert plan.sizes == (7, 7, 7)
        for pairs in plan:
            assert len(set(examples.pair_clip[pairs.numpy()].tolist())) == 7


def test_a_text_model_without_dropout_says_so(small: SmallWorld, tmp_path: Path) -> None:
    import json
    import shutil

    from e2i.training.finetune.encoders import load_encoders

    shutil.copytree(small.root / "roberta", tmp_path / "plain")
    path = tmp_path / "plain" / "config.json"
    kept = {k: v for k, v in json.loads(path.read_text()).items() if "dropout" not in k}
    path.write_text(json.dumps(kept))
    with pytest.raises(ConfigError, match=r"no dropout to be set: got 0\.2 .*Leave --text-dropout"):
        load_encoders(small.config(text_model=str(tmp_path / "plain"), text_dropout=0.2))
