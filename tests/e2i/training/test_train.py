"""Training: it learns, twice the same, from what it should and nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from e2i.device import resolve_device
from e2i.errors import CacheError, ConfigError, FingerprintMismatchError, RunFailedError
from e2i.heads.build import build_heads
from e2i.heads.checkpoint import checkpoint_bytes
from e2i.heads.clip_roles import clip_digest
from e2i.heads.config import HeadsConfig
from e2i.heads.mlp import dropped_out
from e2i.retrieval.config import EvaluationConfig
from e2i.training.config import TrainingConfig
from e2i.training.evaluate import evaluate_checkpoint
from e2i.training.pairs import clip_keys
from e2i.training.schedule import cosine_lr, step_lrs
from e2i.training.train import train_heads

HEADS = HeadsConfig(hidden_dim=32, out_dim=16)
QUICK = TrainingConfig(epochs=3, batch_size=32, device="cpu")


def with_changes(**changes: object) -> TrainingConfig:
    return TrainingConfig(**{**QUICK.model_dump(), **changes})


def recall_at_10(checkpoint, cache):
    scored = evaluate_checkpoint(
        checkpoint, cache, EvaluationConfig(bootstrap_resamples=0), device="cpu"
    )
    return scored.retrieval.scores["text_to_audio_R@10"]


def test_defaults_are_the_originals():
    config = TrainingConfig()
    assert (config.epochs, config.batch_size, config.lr) == (10, 256, 5e-4)
    assert (config.weight_decay, config.temperature, config.val_fraction) == (1e-4, 0.07, 0.1)
    assert (config.seed, config.learn_temperature) == (13, False)
    assert config.selection_metric == "text_to_audio_mAP@10"


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 0},
        {"batch_size": 1},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"temperature": 0.0},
        {"val_fraction": 0.0},
        {"val_fraction": 0.6, "test_fraction": 0.4},
        {"selection_metric": "accuracy"},
        {"learning_rate": 1.0},
        {"epochs": 3, "warmup_epochs": 3},
        {"patience": -1},
        {"precision": "float16"},
    ],
)
def test_out_of_bounds_is_refused(changes):
    with pytest.raises(ValidationError):
        TrainingConfig(**changes)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("learn", [False, True])
def test_two_runs_are_equal_to_the_bit(make_cache, standardize, learn):
    heads = HEADS.model_copy(update={"standardize_input": standardize})
    config = with_changes(learn_temperature=learn)
    torch.manual_seed(1)
    first = train_heads([make_cache()], None, heads, config)
    torch.manual_seed(2)
    again = train_heads([make_cache()], None, heads, config)
    assert checkpoint_bytes(first.checkpoint) == checkpoint_bytes(again.checkpoint)


def test_another_seed_is_another_training(make_cache):
    validation = make_cache(split="validation")
    first, other = (
        train_heads([make_cache()], validation, HEADS, with_changes(seed=seed)).checkpoint.weights
        for seed in (1, 2)
    )
    assert not torch.equal(first["audio.out.weight"], other["audio.out.weight"])


def test_nothing_global_is_touched(make_cache):
    cache = make_cache()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    threads, before = torch.get_num_threads(), cache.audio.copy()
    train_heads([cache], None, HEADS, QUICK)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])
    assert torch.get_num_threads() == threads
    assert np.array_equal(before, cache.audio)


def test_read_only_arrays_will_do(make_cache):
    cache = make_cache()
    for array in (cache.audio, cache.text, cache.caption_clip):
        array.flags.writeable = False
    trained = train_heads([cache], None, HEADS, QUICK)
    evaluate_checkpoint(trained.checkpoint, cache, EvaluationConfig(bootstrap_resamples=0))


LEARNS = with_changes(epochs=20, lr=3e-3)


def test_learns_what_can_be_learned(make_cache):
    trained = train_heads([make_cache(200)], make_cache(100, split="validation"), HEADS, LEARNS)
    score = recall_at_10(trained.checkpoint, make_cache(100, split="evaluation"))
    assert score.chance == pytest.approx(0.1)
    assert score.value > 0.9
    assert trained.history[-1].train_loss < trained.history[0].train_loss / 2


def test_several_clips_in_a_batch_learn_too(make_cache):
    config = LEARNS.model_copy(update={"repeat_clips": True})
    trained = train_heads([make_cache(200)], make_cache(100, split="validation"), HEADS, config)
    assert recall_at_10(trained.checkpoint, make_cache(100, split="evaluation")).value > 0.9


def test_shuffled_captions_and_untrained_heads_are_at_chance(make_cache):
    evaluation = make_cache(300, split="evaluation")
    shuffled = train_heads(
        [make_cache(200, shuffle_captions=True)],
        make_cache(100, split="validation"),
        HEADS,
        LEARNS,
    )
    untrained = build_heads(HEADS, 24, 16, seed=5).state_dict()
    chance = 10 / 300
    for checkpoint in (
        shuffled.checkpoint,
        dataclasses.replace(shuffled.checkpoint, weights=untrained),
    ):
        score = recall_at_10(checkpoint, evaluation)
        assert score.chance == pytest.approx(chance)
        # Captions of a clip rank alike, so 300 clips count: standard error about 0.01.
        assert score.value < chance + 0.05


def test_history_records_and_the_best_epoch(make_cache):
    records = []
    trained = train_heads(
        [make_cache()], make_cache(split="validation"), HEADS, QUICK, records.append
    )
    assert tuple(records) == trained.history
    assert [record.epoch for record in records] == [1, 2, 3]
    assert {record.num_epochs for record in records} == {3}
    values = [record.metrics["text_to_audio_mAP@10"] for record in records]
    assert trained.best.epoch == 1 + values.index(max(values))
    assert trained.checkpoint.record.best_epoch == trained.best.epoch
    assert trained.checkpoint.metrics == trained.best.metrics
    assert all(record.pairs_per_s > 0 and record.seconds > 0 for record in records)
    assert [record.lr for record in records] == pytest.approx([5e-4, 3.75e-4, 1.25e-4])


def test_the_best_epoch_is_the_one_that_is_kept(make_cache):
    """Its weights, scored again, give its metrics; ties go to the earliest."""
    validation = make_cache(30, split="validation")
    trained = train_heads([make_cache(40)], validation, HEADS, with_changes(epochs=15, lr=1e-2))
    scored = evaluate_checkpoint(
        trained.checkpoint, validation, EvaluationConfig(bootstrap_resamples=0), allow_seen=True
    )
    for name, score in scored.retrieval.scores.items():
        assert score.value == pytest.approx(trained.best.metrics[name], abs=1e-9)
    values = [record.metrics["text_to_audio_mAP@10"] for record in trained.history]
    assert trained.best.epoch == 1 + values.index(max(values))


def test_on_ties_the_earliest_epoch_is_kept(make_cache):
    # All clips sound alike, so every epoch scores chance.
    alike = make_cache(30, split="validation", audio=np.ones((30, 24), np.float32))
    trained = train_heads([make_cache()], alike, HEADS, with_changes(epochs=4))
    assert len({record.metrics["text_to_audio_mAP@10"] for record in trained.history}) == 1
    assert trained.best.epoch == 1


def test_selection_by_loss_takes_the_lowest(make_cache):
    config = with_changes(epochs=8, lr=1e-2, selection_metric="val_loss")
    trained = train_heads([make_cache(40)], make_cache(split="validation"), HEADS, config)
    losses = [record.metrics["val_loss"] for record in trained.history]
    assert trained.best.epoch == 1 + losses.index(min(losses))


def test_train_loss_is_the_mean_over_pairs(make_cache):
    # All projections alike: each pair costs log of its batch's size. 25 pairs: 8, 8 and 9.
    alike = make_cache(
        25, 1, audio=np.ones((25, 24), np.float32), text=np.ones((25, 16), np.float32)
    )
    heads = HEADS.model_copy(update={"dropout": 0.0})
    config = with_changes(epochs=1, batch_size=9)
    trained = train_heads([alike], make_cache(split="validation"), heads, config)
    expected = (16 * np.log(8) + 9 * np.log(9)) / 25
    assert trained.history[0].train_loss == pytest.approx(expected, abs=1e-5)


def test_dropout_is_on_both_sides_in_training_and_off_in_validation(make_cache, monkeypatch):
    dropped = []

    def recorded(hidden, share, generator):
        dropped.append(len(hidden))
        return dropped_out(hidden, share, generator)

    monkeypatch.setattr("e2i.heads.mlp.dropped_out", recorded)
    train_heads([make_cache(64, 1)], make_cache(split="validation"), HEADS, with_changes(epochs=1))
    assert dropped == [32] * 4  # two batches, two sides


def test_cosine_by_epoch():
    # Golden: torch.optim.lr_scheduler.CosineAnnealingLR(T_max=4), stepped once an epoch.
    assert [cosine_lr(1.0, epoch, 4) for epoch in (1, 2, 3, 4)] == pytest.approx(
        [1.0, 0.8535533905932737, 0.5, 0.14644660940672627]
    )


def test_warm_up_by_step_and_the_cosine_behind_it():
    lrs = [step_lrs(1.0, epoch, 6, 2, 2) for epoch in (1, 2, 3, 4, 5, 6)]
    # Linear over four steps; then the four epochs of the cosine above.
    cosine = [[cosine_lr(1.0, epoch, 4)] * 2 for epoch in (1, 2, 3, 4)]
    assert lrs == [[0.25, 0.5], [0.75, 1.0], *cosine]


def test_half_precision_trains_close_to_single(make_cache):
    caches = [make_cache(64)], make_cache(split="validation")
    single, half = (
        train_heads(*caches, HEADS, with_changes(epochs=1, precision=precision))
        for precision in ("float32", "bfloat16")
    )
    losses = [trained.history[0].train_loss for trained in (single, half)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert all(weight.dtype == torch.float32 for weight in half.checkpoint.weights.values())


def logit_scale_after(make_cache, **changes: object) -> float:
    trained = train_heads(
        [make_cache(10, 1)], make_cache(split="validation"), HEADS, with_changes(**changes)
    )
    return float(trained.checkpoint.weights["logit_scale"])


def test_temperature_stays_unless_learned(make_cache):
    start = np.log(1 / 0.07)
    assert logit_scale_after(make_cache) == pytest.approx(start, abs=1e-6)
    assert abs(logit_scale_after(make_cache, learn_temperature=True) - start) > 1e-4


def test_a_learned_temperature_is_not_decayed(make_cache):
    # One step: AdamW moves it by lr at most, decay would take a hundredth of it.
    after = logit_scale_after(
        make_cache, learn_temperature=True, epochs=1, lr=1e-3, weight_decay=10.0
    )
    assert abs(after - np.log(1 / 0.07)) < 1.1e-3


@pytest.mark.parametrize("temperature", [0.0101, 0.99])
def test_a_learned_temperature_is_clamped(make_cache, temperature):
    after = logit_scale_after(
        make_cache, learn_temperature=True, epochs=4, lr=10.0, temperature=temperature
    )
    assert 0.0 <= after <= float(np.float32(np.log(100)))


def test_clips_are_held_out_of_a_single_cache_with_all_their_captions(make_cache):
    counts = [1 + index % 5 for index in range(100)]
    cache = make_cache(100, counts)
    trained = train_heads([cache], None, HEADS, QUICK)
    roles = trained.checkpoint.clips
    everything = {clip_digest(key) for key in clip_keys(cache)}
    assert roles.train | roles.validation | roles.test == everything
    assert len(roles.train) + len(roles.validation) + len(roles.test) == 100
    assert min(len(roles.validation), len(roles.test)) > 2


def test_a_held_out_clip_leaves_no_trace_in_the_weights(make_cache):
    cache = make_cache()
    config = with_changes(epochs=1)
    trained = train_heads([cache], None, HEADS, config)
    held = [
        index
        for index, key in enumerate(clip_keys(cache))
        if clip_digest(key) not in trained.checkpoint.clips.train
    ]
    text, audio = cache.text.copy(), cache.audio.copy()
    audio[held] = 7.0
    text[np.isin(cache.caption_clip, held)] = -7.0
    changed = dataclasses.replace(cache, audio=audio, text=text)
    again = train_heads([changed], None, HEADS.model_copy(), config)
    for name, weight in trained.checkpoint.weights.items():
        assert torch.equal(weight, again.checkpoint.weights[name])


def test_standardization_uses_training_clips_only(make_cache):
    heads = HEADS.model_copy(update={"standardize_input": True})
    cache, validation = make_cache(), make_cache(split="validation")
    weights = train_heads([cache], validation, heads, QUICK).checkpoint.weights
    np.testing.assert_allclose(weights["audio.mean"], cache.audio.mean(0), atol=1e-5)
    np.testing.assert_allclose(weights["text.deviation"], cache.text.std(0), rtol=1e-5)


def test_several_caches_are_joined(make_cache):
    first, second = make_cache(20, 2), make_cache(30, 3, split="more")
    trained = train_heads([first, second], make_cache(split="validation"), HEADS, QUICK)
    assert len(trained.checkpoint.clips.train) == 50
    assert [(c.split, c.role, c.num_clips) for c in trained.checkpoint.record.caches] == [
        ("development", "train", 20),
        ("more", "train", 30),
        ("validation", "validation", 60),
    ]
    alone = train_heads([first], make_cache(split="validation"), HEADS, QUICK)
    assert not torch.equal(
        trained.checkpoint.weights["audio.out.weight"], alone.checkpoint.weights["audio.out.weight"]
    )


def test_a_batch_larger_than_the_data_is_cut_and_says_so(make_cache):
    trained = train_heads(
        [make_cache(20, 5)], make_cache(split="validation"), HEADS, with_changes(batch_size=256)
    )
    assert trained.notes == trained.checkpoint.record.notes
    assert trained.notes == (
        "The batch size is cut from 256 to 20: there are 100 training pairs of 20 clips, and a "
        "batch holds a clip at most once.",
    )
    assert train_heads([make_cache()], make_cache(split="validation"), HEADS, QUICK).notes == ()


def test_five_clips_are_enough(make_cache):
    trained = train_heads([make_cache(5, 2)], None, HEADS, QUICK)
    assert "the epoch is chosen by mAP@2 instead" in trained.notes[1]


def test_divergence_is_an_error_with_a_next_step(make_cache):
    cache = make_cache()
    huge = dataclasses.replace(cache, audio=np.sign(cache.audio) * np.float32(3e38))
    with pytest.raises(RunFailedError) as caught:
        train_heads([huge], make_cache(split="validation"), HEADS, with_changes(lr=10.0))
    assert str(caught.value) == (
        "training diverged in epoch 1: got a loss of nan, expected a finite number. "
        "Train with a lower --lr than 10, or look for huge values among the embeddings."
    )


@pytest.mark.parametrize(
    ("side", "ids", "what"), [("audio", "clip_ids", "clip"), ("text", "caption_ids", "caption")]
)
def test_nan_rows_are_named(make_cache, side, ids, what):
    cache = make_cache()
    getattr(cache, side)[5, 2] = np.nan
    with pytest.raises(CacheError) as caught:
        train_heads([cache], None, HEADS, QUICK)
    of = getattr(cache, ids)
    assert str(caught.value) == (
        "the cache synthetic/development (memory://development) holds embeddings that are no "
        f"numbers: got NaN or infinity for 1 of {len(of)} {what}s, the first {of[5]!r}, expected "
        "finite values. Embed that side again with --force."
    )


def test_an_empty_cache_is_refused(make_cache):
    with pytest.raises(CacheError, match="is empty: got 0 clips and 0 captions, expected at least"):
        train_heads([make_cache(0)], None, HEADS, QUICK)
    with pytest.raises(ConfigError, match=r"no training cache: got 0, expected at least one"):
        train_heads([], None, HEADS, QUICK)


@pytest.mark.parametrize("role", ["train", "validation"])
def test_other_encoders_are_refused_by_name(make_cache, role):
    other = make_cache(split="other", text_fingerprint="c0" * 8)
    train = [make_cache(), other] if role == "train" else [make_cache()]
    with pytest.raises(FingerprintMismatchError) as caught:
        train_heads(train, other if role == "validation" else None, HEADS, QUICK)
    assert str(caught.value) == (
        "the caches synthetic/development (memory://development) and synthetic/other "
        "(memory://other) were made by different encoders: got text fingerprint c0c0c0c0c0c0c0c0 "
        "in the second, expected b0b0b0b0b0b0b0b0 as in the first. Embed both with the same "
        "encoder settings."
    )


def test_validation_may_not_share_clips_with_training(make_cache):
    with pytest.raises(ConfigError) as caught:
        train_heads([make_cache(60)], make_cache(50), HEADS, QUICK)
    assert str(caught.value) == (
        "validation shares clips with training: got 50, the first "
        "'synthetic/development/development 0 #[%].wav', expected none. Give another "
        "--val-cache-dir, or none to hold clips out."
    )


def test_one_cache_given_twice_is_refused(make_cache):
    with pytest.raises(ConfigError, match="stands in two training caches: got 'synthetic/develop"):
        train_heads([make_cache(), make_cache()], None, HEADS, QUICK)


def test_one_clip_has_nothing_to_be_told_apart_from(make_cache):
    with pytest.raises(ConfigError, match="too few clips to train on: got 1, expected at least 2"):
        train_heads([make_cache(1)], make_cache(split="validation"), HEADS, QUICK)


@pytest.mark.parametrize("name", ["gpu", "cuda:99", ""])
def test_a_device_that_is_not_there(name):
    with pytest.raises(ConfigError) as caught:
        resolve_device(name)
    assert str(caught.value) == (
        f"the device cannot be used here: got {name!r}, expected auto, cpu, cuda, cuda:<n> or "
        "mps. Use --device auto."
    )


def test_auto_is_a_device():
    assert resolve_device("auto").type in {"cpu", "cuda", "mps"}
