"""Attention over windows, and dropout of windows: what they are, and that they train."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from e2i.errors import CacheError, ConfigError
from e2i.heads.build import build_heads, seeded_generator
from e2i.heads.checkpoint import checkpoint_bytes, checkpoint_from_bytes
from e2i.heads.config import HeadsConfig
from e2i.heads.pooling import AttentionPooling, Windows, mean_pooled, windows_dropped
from e2i.losses import contrastive_loss
from e2i.retrieval.config import EvaluationConfig
from e2i.storage import Folder
from e2i.training import windows as module
from e2i.training.config import TrainingConfig
from e2i.training.evaluate import evaluate_checkpoint
from e2i.training.state import StateFile
from e2i.training.train import train_heads
from e2i.training.windows import ClipWindows, WindowTensors, joined, load_windows

CPU = torch.device("cpu")
PLAIN = HeadsConfig(hidden_dim=16, out_dim=8, dropout=0.0)
ATTENTION = PLAIN.model_copy(update={"audio_pooling": "attention"})
QUICK = TrainingConfig(epochs=2, batch_size=32, device="cpu", lr=1e-2)
DROPPING = QUICK.model_copy(update={"window_dropout": 0.5})


class Windowed:
    """Caches, and windows whose means are their clips' embeddings."""

    def __init__(self, make_cache) -> None:
        self._make_cache = make_cache
        self._windows: dict[str, ClipWindows] = {}

    def cache(self, split="development", clips=40, most=4, normalized=False):
        cache = self._make_cache(clips, split=split)
        random = np.random.default_rng(len(split))
        counts = random.integers(1, most + 1, clips)
        rows = np.repeat(cache.audio, counts, axis=0)
        rows = (rows + random.standard_normal(rows.shape)).astype(np.float32)
        if most == 1:
            rows = cache.audio.copy()
        windows = ClipWindows(rows, counts, np.ones(len(rows), np.float32), normalized)
        self._windows[split] = windows
        return dataclasses.replace(cache, audio=windows.means())

    def load(self, cache) -> ClipWindows:
        return self._windows[cache.split]


@pytest.fixture
def windowed(make_cache):
    return Windowed(make_cache)


def train(windowed, caches, heads=ATTENTION, training=QUICK, **options):
    return train_heads(
        [caches[0]], caches[1], heads, training, load_windows=windowed.load, **options
    )


def pair(windowed, **options):
    return windowed.cache(**options), windowed.cache("validation", 20, **options)


def some_windows(normalized=False, dim=6, seed=0):
    random = torch.Generator().manual_seed(seed)
    shares = torch.tensor([[1.0, 1.0, 0.5], [1.0, 0.0, 0.0], [1.0, 0.2, 0.0]])
    return Windows(torch.randn(3, 3, dim, generator=random) * 3, shares, normalized)


# -- pooling --------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalized", [False, True])
def test_pooling_is_the_loop_written_out(normalized):
    windows = some_windows(normalized)
    pooling = AttentionPooling(6, CPU)
    with torch.no_grad():
        pooling.query.copy_(torch.linspace(-1, 1, 6))
    for pooled, query in (
        (mean_pooled(windows), torch.zeros(6)),
        (pooling(windows), pooling.query),
    ):
        for clip in range(3):
            rows = windows.rows[clip][windows.shares[clip] > 0].double()
            shares = windows.shares[clip][windows.shares[clip] > 0].double()
            scores = (rows / rows.norm(dim=1, keepdim=True)) @ query.double() * 6**0.5
            weights = shares * scores.exp()
            expected = (weights[:, None] * rows).sum(0) / weights.sum()
            expected = expected / expected.norm() if normalized else expected
            torch.testing.assert_close(pooled[clip].double(), expected, rtol=1e-5, atol=1e-6)


def test_untrained_attention_is_the_mean_and_padding_does_not_count():
    windows = some_windows()
    pooling = AttentionPooling(6, CPU)
    pooling.reset()
    torch.testing.assert_close(pooling(windows), mean_pooled(windows))
    with torch.no_grad():
        pooling.query.normal_(generator=torch.Generator().manual_seed(1))
    other = windows.rows.clone()
    other[windows.shares == 0] = 1e6
    changed = windows._replace(rows=other)
    assert torch.equal(pooling(changed), pooling(windows))
    assert torch.equal(mean_pooled(changed), mean_pooled(windows))
    pooling(windows).sum().backward()
    assert pooling.query.grad.isfinite().all()


@pytest.mark.parametrize("normalized", [False, True])
def test_of_one_window_any_attention_is_that_window(normalized):
    rows = torch.nn.functional.normalize(torch.randn(5, 1, 8), dim=-1)
    pooling = AttentionPooling(8, CPU)
    with torch.no_grad():
        pooling.query.fill_(0.7)
    pooled = pooling(Windows(rows, torch.ones(5, 1), normalized))
    torch.testing.assert_close(pooled, rows[:, 0], rtol=0, atol=1e-7)


def test_dropping_keeps_one_window_at_least_and_about_the_share_asked_for():
    windows = Windows(torch.zeros(4000, 5, 1), torch.ones(4000, 5), normalized=False)
    windows.shares[:2000, 1:] = 0.0
    before = torch.get_rng_state()
    kept = windows_dropped(windows, 0.6, seeded_generator(0, "dropout")).shares
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(kept[:2000], windows.shares[:2000])
    counts = kept[2000:].sum(1)
    assert counts.min() == 1
    # 5 windows, each kept with 0.4, and one where none would be: 2 + 0.6^5.
    assert counts.mean() == pytest.approx(2 + 0.6**5, abs=0.1)
    again = windows_dropped(windows, 0.6, seeded_generator(0, "dropout")).shares
    assert torch.equal(kept, again)
    assert windows_dropped(windows, 0.0, seeded_generator(0, "dropout")) is windows


# -- windows of caches ----------------------------------------------------------------------------


@pytest.mark.parametrize("normalized", [False, True])
def test_the_mean_of_all_windows_is_the_stored_embedding(windowed, normalized):
    cache = windowed.cache(normalized=normalized)
    tensors = WindowTensors(windowed.load(cache), CPU)
    pooled = tensors.pooled(build_heads(PLAIN, 24, 16, seed=0)).numpy()
    np.testing.assert_allclose(pooled, cache.audio, rtol=1e-5, atol=1e-6)


def test_a_clips_embedding_depends_on_its_windows_alone(windowed, monkeypatch):
    cache = windowed.cache(clips=30, most=6)
    windows = windowed.load(cache)
    heads = build_heads(ATTENTION, 24, 16, seed=0)
    with torch.no_grad():
        heads.pooling.query.normal_(generator=torch.Generator().manual_seed(1))
    together = WindowTensors(windows, CPU).pooled(heads)
    monkeypatch.setattr(module, "_POOLED_AT_ONCE_BYTES", 1)
    assert torch.equal(WindowTensors(windows, CPU).pooled(heads), together)
    alone = WindowTensors(windows.of_clips(np.array([3, 17])), CPU).pooled(heads)
    assert torch.equal(alone, together[[3, 17]])
    padded = heads.pool(WindowTensors(windows, CPU).batch(torch.arange(30), 6)).detach()
    torch.testing.assert_close(padded, together, rtol=1e-5, atol=1e-6)


def test_windows_of_several_caches_are_joined(windowed):
    one, other = (windowed.load(windowed.cache(split)) for split in ("a", "bc"))
    both = joined([one, other])
    assert len(both.counts) == 80
    np.testing.assert_array_equal(both.of_clips(np.arange(40, 80)).rows, other.rows)


def opened(settings=None):
    header = SimpleNamespace(audio=SimpleNamespace(settings=settings or {"normalize": False}))
    return SimpleNamespace(header=header)


def test_read_in_the_caches_order(windowed, monkeypatch):
    cache = windowed.cache()
    windows = windowed.load(cache)
    stored = [
        (cache.clip_ids[clip], windows.of_clips(np.array([clip])).rows)
        for clip in reversed(range(40))
    ]
    monkeypatch.setattr(module, "read_windows", lambda _: [*stored, ("gone.wav", windows.rows)])
    found = load_windows(opened(), cache)
    np.testing.assert_array_equal(found.rows, windows.rows)
    np.testing.assert_array_equal(found.counts, windows.counts)
    monkeypatch.setattr(module, "read_windows", lambda _: stored[1:])
    with pytest.raises(CacheError) as caught:
        load_windows(opened(), cache)
    assert str(caught.value) == (
        f"a clip has no windows: got none of {cache.clip_ids[39]!r} in {cache.url}, expected at "
        "least 1. Run `e2i cache-embeddings --store-windows --force`."
    )


def test_the_last_of_passts_segments_counts_by_what_the_clip_fills(make_cache, monkeypatch):
    settings = {"encoder": "passt", "windowing": "segments", "window_s": 10.0, "normalize": True}
    cache = make_cache(2)
    rows = np.random.default_rng(0).standard_normal((4, 24)).astype(np.float32)
    mean = rows[0] + rows[1] + 0.25 * rows[2]
    audio = np.stack([mean / np.linalg.norm(mean), rows[3] / np.linalg.norm(rows[3])])
    cache = dataclasses.replace(cache, audio=audio, duration_s=np.array([22.5, 4.0]))
    stored = [(cache.clip_ids[0], rows[:3]), (cache.clip_ids[1], rows[3:])]
    monkeypatch.setattr(module, "read_windows", lambda _: stored)
    found = load_windows(opened(settings), cache)
    np.testing.assert_allclose(found.shares, [1, 1, 0.25, 0.4])
    other = dataclasses.replace(cache, duration_s=np.array([30.0, 4.0]))
    with pytest.raises(CacheError) as caught:
        load_windows(opened(settings), other)
    assert "do not average to its embedding: got a mean that is off by 0." in str(caught.value)
    assert str(caught.value).endswith(
        "expected the stored one. Train without --audio-pooling attention and --window-dropout."
    )


# -- training -------------------------------------------------------------------------------------


def test_with_one_window_a_clip_it_trains_as_without(windowed):
    caches = pair(windowed, most=1)
    plain = train_heads([caches[0]], caches[1], PLAIN, QUICK).checkpoint.weights
    for heads, training in ((ATTENTION, QUICK), (PLAIN, DROPPING), (ATTENTION, DROPPING)):
        weights = dict(train(windowed, caches, heads, training).checkpoint.weights)
        query = weights.pop("pooling.query", None)
        assert query is None or not query.any()
        assert weights.keys() == plain.keys()
        assert all(torch.equal(weights[name], plain[name]) for name in plain)


def test_attention_finds_the_window_that_tells(make_cache):
    """One of four windows is the clip's, and is marked; the others are louder than it."""

    def told(split, clips):
        cache = make_cache(clips, split=split)
        random = np.random.default_rng(clips)
        rows = 2 * random.standard_normal((clips, 4, 24)).astype(np.float32)
        rows[..., 0] = -2.0
        places = random.integers(0, 4, clips)
        rows[np.arange(clips), places] = cache.audio
        rows[np.arange(clips), places, 0] = 6.0
        counts = np.full(clips, 4)
        shares = np.ones(4 * clips, np.float32)
        windows = ClipWindows(rows.reshape(-1, 24), counts, shares, normalized=False)
        return dataclasses.replace(cache, audio=windows.means()), windows

    splits = {name: told(name, n) for name, n in (("development", 200), ("validation", 100))}
    caches = {name: cache for name, (cache, _) in splits.items()}
    training = TrainingConfig(epochs=10, batch_size=50, lr=1e-2, device="cpu")
    found = {}
    for heads in (PLAIN, ATTENTION):
        trained = train_heads(
            [caches["development"]],
            caches["validation"],
            heads,
            training,
            load_windows=lambda cache: splits[cache.split][1],
        )
        found[heads.audio_pooling] = trained.best.metrics["text_to_audio_R@10"]
    assert found["attention"] > found["mean"] + 0.2


@pytest.mark.parametrize("heads", [PLAIN, ATTENTION], ids=["mean", "attention"])
@pytest.mark.parametrize("step", [1, 2])
def test_killed_and_resumed_it_is_the_uninterrupted_one(
    windowed, tmp_path, heads, step, monkeypatch
):
    caches = pair(windowed)
    training = DROPPING.model_copy(update={"epochs": 3})
    heads = heads.model_copy(update={"dropout": 0.2})
    whole = train(windowed, caches, heads, training)
    assert checkpoint_bytes(train(windowed, caches, heads, training).checkpoint) == (
        checkpoint_bytes(whole.checkpoint)
    )
    undropped = train(windowed, caches, heads, training.model_copy(update={"window_dropout": 0.0}))
    assert not torch.equal(
        undropped.checkpoint.weights["audio.out.weight"],
        whole.checkpoint.weights["audio.out.weight"],
    )
    left = [step * 4 + 1]  # four batches an epoch

    def loss(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return contrastive_loss(*arguments)

    monkeypatch.setattr("e2i.training.epochs.contrastive_loss", loss)
    with StateFile(Folder(tmp_path), "state") as state, pytest.raises(KeyboardInterrupt):
        train(windowed, caches, heads, training, state=state)
    monkeypatch.undo()
    with StateFile(Folder(tmp_path), "state") as state:
        resumed = train(windowed, caches, heads, training, state=state)
    assert checkpoint_bytes(resumed.checkpoint) == checkpoint_bytes(whole.checkpoint)


def test_clips_are_held_out_with_their_windows(windowed):
    cache = windowed.cache(clips=60)
    trained = train_heads([cache], None, ATTENTION, DROPPING, load_windows=windowed.load)
    assert trained.checkpoint.weights["pooling.query"].any()
    assert len(trained.checkpoint.clips.test) > 0


def test_windows_are_dropped_before_images_are_folded(windowed):
    caches = pair(windowed)
    vision = HeadsConfig(
        input_type="vision",
        out_dim=8,
        dropout=0.0,
        vision_base_channels=2,
        vision_hidden_dim=8,
        vision_image_size="native",
        vision_image_source="generated",
    )
    dropped = train(windowed, caches, vision, DROPPING)
    plain = train(windowed, caches, vision, QUICK)
    assert dropped.history[0].train_loss != plain.history[0].train_loss
    disk = vision.model_copy(update={"vision_image_source": "disk"})
    with pytest.raises(ConfigError) as caught:
        train(windowed, caches, disk, DROPPING)
    assert str(caught.value) == (
        "stored pseudo-images show clips with all their windows: got window_dropout 0.5 and "
        "vision_image_source 'disk', expected one of the two. Use --vision-image-source generated."
    )


def test_a_checkpoint_scores_as_it_did_in_training(windowed):
    caches = pair(windowed, normalized=True)
    trained = train(windowed, caches)
    read = checkpoint_from_bytes(checkpoint_bytes(trained.checkpoint), "here")
    assert read.record.heads.audio_pooling == "attention"
    quick = EvaluationConfig(bootstrap_resamples=0)
    scored = evaluate_checkpoint(
        read, caches[1], quick, allow_seen=True, device="cpu", load_windows=windowed.load
    )
    for name, score in scored.retrieval.scores.items():
        assert score.value == pytest.approx(trained.best.metrics[name], abs=1e-9)
    with pytest.raises(ConfigError) as caught:
        evaluate_checkpoint(read, caches[1], quick, allow_seen=True, device="cpu")
    assert str(caught.value) == (
        "windows cannot be read here: got no folder to read from, expected a cache's folder. Use "
        "--audio-pooling mean and --window-dropout 0."
    )


def test_what_is_trained_with_dropped_windows_is_scored_without_any(windowed):
    caches = pair(windowed)
    trained = train(windowed, caches, PLAIN, DROPPING)
    quick = EvaluationConfig(bootstrap_resamples=0)
    scored = evaluate_checkpoint(
        trained.checkpoint, caches[1], quick, allow_seen=True, device="cpu"
    )
    for name, score in scored.retrieval.scores.items():
        assert score.value == pytest.approx(trained.best.metrics[name], abs=1e-9)


def test_attention_has_no_way_through_pixels():
    with pytest.raises(ValidationError) as caught:
        HeadsConfig(input_type="vision", audio_pooling="attention")
    assert (
        "attention over windows is learned through the embedding: got audio_pooling 'attention' "
        "and input_type 'vision', whose pixels have no gradient, expected input_type 'embedding'. "
        "Leave --audio-pooling at mean."
    ) in str(caught.value)


def test_a_window_that_is_no_number_is_refused(make_cache, monkeypatch):
    cache = make_cache(2)
    stored = [
        (clip, row[None].copy()) for clip, row in zip(cache.clip_ids, cache.audio, strict=True)
    ]
    stored[1][1][0, 3] = np.nan
    monkeypatch.setattr(module, "read_windows", lambda _: stored)
    with pytest.raises(CacheError) as caught:
        load_windows(opened(), cache)
    message = str(caught.value)
    assert f"got a mean that is off by nan for {cache.clip_ids[1]!r}" in message
