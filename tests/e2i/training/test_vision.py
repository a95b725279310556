"""Training and evaluating CNN heads: from generated and stored images alike."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from e2i.errors import ConfigError, ImageError, StorageUnavailableError
from e2i.heads.build import build_heads
from e2i.heads.checkpoint import checkpoint_bytes, load_checkpoint, save_checkpoint
from e2i.heads.config import HeadsConfig
from e2i.images.config import ImagesConfig
from e2i.images.names import png_name
from e2i.images.render import render_images
from e2i.images.standardization import Standardization
from e2i.retrieval.config import EvaluationConfig
from e2i.storage import Folder
from e2i.training import pseudo_images
from e2i.training.config import TrainingConfig
from e2i.training.evaluate import evaluate_checkpoint
from e2i.training.project import project
from e2i.training.pseudo_images import stored_images_of
from e2i.training.train import train_heads

HEADS = HeadsConfig(
    input_type="vision",
    hidden_dim=32,
    out_dim=16,
    vision_base_channels=4,
    vision_hidden_dim=32,
    vision_image_source="generated",
    vision_image_size="native",
)
QUICK = TrainingConfig(epochs=2, batch_size=32, device="cpu")
PLAIN = EvaluationConfig(bootstrap_resamples=0)


def heads_with(**changes: object) -> HeadsConfig:
    return HeadsConfig.model_validate({**HEADS.model_dump(), **changes})


def equal_weights(first, second) -> bool:
    assert first.weights.keys() == second.weights.keys()
    return all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)


@pytest.fixture
def store(tmp_path, make_cache):
    """Caches in folders, with the pseudo-images that `HEADS` asks for beside them."""

    class Store:
        def __init__(self) -> None:
            self.folders: dict[str, Folder] = {}

        def cache(
            self,
            split: str,
            images: HeadsConfig | None = HEADS,
            clips: int = 40,
            by: Standardization | None = None,
        ):
            folder = self.folders[split] = Folder(tmp_path / split)
            cache = make_cache(clips, split=split, url=folder.url)
            if images is not None:
                render_images(
                    folder,
                    "audio",
                    cache.clip_ids,
                    cache.audio,
                    images.images(),
                    fingerprint=cache.audio_fingerprint,
                    standardization=by,
                )
            return cache

        @property
        def load(self):
            return stored_images_of(*self.folders.values())

    return Store()


def recall_at_10(checkpoint, cache):
    scored = evaluate_checkpoint(checkpoint, cache, PLAIN, device="cpu")
    return scored.retrieval.scores["text_to_audio_R@10"]


LEARNS = QUICK.model_copy(update={"epochs": 8, "batch_size": 50, "lr": 1e-2})


def test_learns_what_can_be_learned(make_cache):
    trained = train_heads([make_cache(200)], make_cache(100, split="validation"), HEADS, LEARNS)
    assert recall_at_10(trained.checkpoint, make_cache(100, split="evaluation")).value > 0.6


def test_shuffled_captions_and_untrained_heads_are_at_chance(make_cache):
    evaluation = make_cache(300, split="evaluation")
    shuffled = train_heads(
        [make_cache(200, shuffle_captions=True)],
        make_cache(100, split="validation"),
        HEADS,
        LEARNS,
    )
    untrained = build_heads(HEADS, 24, 16, seed=5).state_dict()
    for checkpoint in (
        shuffled.checkpoint,
        dataclasses.replace(shuffled.checkpoint, weights=untrained),
    ):
        assert recall_at_10(checkpoint, evaluation).value < 10 / 300 + 0.05


@pytest.mark.parametrize("standardize", [False, True])
def test_two_runs_are_equal_to_the_bit_and_nothing_global_is_touched(make_cache, standardize):
    heads = heads_with(standardize_input=standardize)
    torch.manual_seed(1)
    first = train_heads([make_cache()], None, heads, QUICK)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = train_heads([make_cache()], None, heads, QUICK)
    assert torch.equal(before, torch.get_rng_state())
    assert checkpoint_bytes(first.checkpoint) == checkpoint_bytes(again.checkpoint)


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("standardize", [False, True])
def test_generated_disk_and_auto_train_to_the_same_bits(store, held_out, standardize, monkeypatch):
    heads = heads_with(standardize_input=standardize)
    train = store.cache("development", None)
    validation = None if held_out else store.cache("validation", None)
    generated = train_heads([train], validation, heads, QUICK)
    by = generated.checkpoint.heads().audio.standardization
    assert (by is None) is not standardize
    for split in store.folders:
        store.cache(split, heads, by=by)
    # What follows may not fold anything: the images have to be those from the disk.
    monkeypatch.setattr(pseudo_images, "fold_embeddings", lambda *_: pytest.fail("generated"))
    monkeypatch.setattr("e2i.heads.cnn.fold_embeddings", lambda *_: pytest.fail("generated"))
    for source in ("disk", "auto"):
        config = heads.model_copy(update={"vision_image_source": source})
        stored = train_heads([train], validation, config, QUICK, load_stored=store.load)
        assert equal_weights(stored.checkpoint, generated.checkpoint)
        assert stored.checkpoint.record.heads.vision_image_source == source


def test_images_by_other_statistics_are_refused_from_disk_and_not_taken_by_auto(store):
    heads = heads_with(standardize_input=True)
    train = store.cache("development", None)
    other = Standardization.of(train.audio[:20])
    store.cache("development", heads, by=other)
    validation = store.cache("validation", heads, by=other)
    disk, auto = (heads.model_copy(update={"vision_image_source": s}) for s in ("disk", "auto"))
    with pytest.raises(ImageError) as caught:
        train_heads([train], validation, disk, QUICK, load_stored=store.load)
    wanted = Standardization.of(train.audio).digest
    assert str(caught.value).endswith(
        f"was made otherwise: got standardization {other.digest!r}, expected {wanted!r}. Train "
        "from generated images, or run e2i cache-images --standardize --standardize-by with the "
        "cache or checkpoint whose training clips these are."
    )
    generated = train_heads([train], validation, heads, QUICK)
    stored = train_heads([train], validation, auto, QUICK, load_stored=store.load)
    assert equal_weights(stored.checkpoint, generated.checkpoint)


def test_evaluation_standardizes_by_the_checkpoints_statistics(store, monkeypatch):
    heads = heads_with(standardize_input=True, vision_image_source="auto")
    train, validation = store.cache("development", None), store.cache("validation", None)
    trained = train_heads([train], validation, heads, QUICK, load_stored=store.load).checkpoint
    evaluation = store.cache("evaluation", None)
    generated = evaluate_checkpoint(trained, evaluation, PLAIN, device="cpu")
    store.cache("evaluation", heads, by=trained.heads().audio.standardization)
    monkeypatch.setattr(pseudo_images, "fold_embeddings", lambda *_: pytest.fail("generated"))
    stored = evaluate_checkpoint(trained, evaluation, PLAIN, device="cpu", load_stored=store.load)
    assert stored.retrieval.scores == generated.retrieval.scores


def test_several_caches_are_read_in_their_order(store):
    caches = [store.cache("development", clips=20), store.cache("more", clips=30)]
    validation = store.cache("validation")
    generated = train_heads(caches, validation, HEADS, QUICK)
    disk = heads_with(vision_image_source="disk")
    stored = train_heads(caches, validation, disk, QUICK, load_stored=store.load)
    assert equal_weights(stored.checkpoint, generated.checkpoint)


def test_generated_reads_nothing(make_cache):
    def refuse(*_):
        pytest.fail("read")

    train_heads([make_cache()], None, HEADS, QUICK, load_stored=refuse)


def test_images_too_many_to_keep_train_to_the_same_bits(make_cache, monkeypatch):
    heads = heads_with(standardize_input=True)
    kept = train_heads([make_cache()], None, heads, QUICK)
    monkeypatch.setattr(pseudo_images, "MAX_IMAGES_BYTES", 10)
    monkeypatch.setattr(pseudo_images, "fold_embeddings", lambda *_: pytest.fail("kept"))
    folded_anew = train_heads([make_cache()], None, heads, QUICK)
    assert checkpoint_bytes(folded_anew.checkpoint) == checkpoint_bytes(kept.checkpoint)


def test_images_are_folded_once(make_cache, monkeypatch):
    folded = []

    def recorded(embeddings, *rest):
        folded.append(len(embeddings))
        return fold(embeddings, *rest)

    fold = pseudo_images.fold_embeddings
    monkeypatch.setattr(pseudo_images, "fold_embeddings", recorded)
    monkeypatch.setattr("e2i.heads.cnn.fold_embeddings", lambda *_: pytest.fail("again"))
    train_heads([make_cache(60)], make_cache(50, split="validation"), HEADS, QUICK)
    assert folded == [60, 50]


def test_a_missing_image_is_named(store):
    train, validation = store.cache("development"), store.cache("validation")
    name = png_name("audio", validation.clip_ids[7])
    folder = store.folders["validation"].folder("pseudo_images/audio")
    folder.delete(name)
    disk = heads_with(vision_image_source="disk")
    with pytest.raises(ImageError) as caught:
        train_heads([train], validation, disk, QUICK, load_stored=store.load)
    assert str(caught.value) == (
        f"the pseudo-image of audio {validation.clip_ids[7]!r} is missing: got no file {name} in "
        f"{folder.url}, expected one. Run e2i cache-images."
    )


OTHERWISE = {
    "size": (heads_with(vision_image_size=9), "got image_size 9, expected 3"),
    "channels": (heads_with(vision_image_channel_mode="replicate"), "got image_size 5, expected 3"),
    "clipped": (heads_with(vision_clip_images=True), "got clip_values True, expected False"),
    "none": (None, "is missing: got no file audio_"),
    "elsewhere": (heads_with(vision_image_dir="other/audio"), "is missing: got no file audio_"),
}


@pytest.mark.parametrize("case", OTHERWISE)
def test_images_made_otherwise_are_refused_from_disk_and_not_taken_by_auto(store, case):
    made, words = OTHERWISE[case]
    train, validation = store.cache("development", made), store.cache("validation", made)
    disk = heads_with(vision_image_source="disk")
    with pytest.raises(ImageError, match=words):
        train_heads([train], validation, disk, QUICK, load_stored=store.load)
    generated = train_heads([train], validation, HEADS, QUICK)
    auto = heads_with(vision_image_source="auto")
    stored = train_heads([train], validation, auto, QUICK, load_stored=store.load)
    assert equal_weights(stored.checkpoint, generated.checkpoint)


def test_images_of_former_embeddings_are_refused(store):
    train, validation = store.cache("development"), store.cache("validation")
    newer = dataclasses.replace(train, audio=train.audio * np.float32(1.5))
    disk = heads_with(vision_image_source="disk")
    with pytest.raises(ImageError, match=r"made otherwise: got embedding '[0-9a-f]{16}', expected"):
        train_heads([newer], validation, disk, QUICK, load_stored=store.load)


def test_stored_images_may_lie_in_another_folder(store):
    elsewhere = heads_with(vision_image_source="disk", vision_image_dir="my/pictures/audio")
    train, validation = store.cache("development", elsewhere), store.cache("validation", elsewhere)
    stored = train_heads([train], validation, elsewhere, QUICK, load_stored=store.load)
    assert equal_weights(
        stored.checkpoint, train_heads([train], validation, HEADS, QUICK).checkpoint
    )


def test_auto_hides_no_trouble_of_the_store(make_cache):
    def unavailable(*_):
        raise StorageUnavailableError("away")

    auto = heads_with(vision_image_source="auto")
    with pytest.raises(StorageUnavailableError):
        train_heads([make_cache()], None, auto, QUICK, load_stored=unavailable)


def test_disk_without_a_folder_is_refused_and_auto_generates(make_cache):
    with pytest.raises(ConfigError) as caught:
        train_heads([make_cache()], None, heads_with(vision_image_source="disk"), QUICK)
    assert str(caught.value) == (
        "pseudo-images cannot be read from the disk here: got no folder to read from, expected a "
        "cache's folder and at most 2 GiB. Use --vision-image-source generated, which gives the "
        "same pixels."
    )
    auto = train_heads([make_cache()], None, heads_with(vision_image_source="auto"), QUICK)
    generated = train_heads([make_cache()], None, HEADS, QUICK)
    assert equal_weights(auto.checkpoint, generated.checkpoint)


def test_more_stored_images_than_can_be_held(store, monkeypatch):
    train = store.cache("development")
    huge = heads_with(vision_image_source="disk", vision_image_size=4096)
    monkeypatch.setattr(pseudo_images, "MAX_IMAGES_BYTES", 2**30)
    with pytest.raises(ConfigError, match=r"here: got 1\.9 GiB for 40 clips, expected a cache's"):
        train_heads([train], None, huge, QUICK, load_stored=store.load)


def test_a_stored_checkpoint_scores_as_it_did_in_training(store, tmp_path):
    """Validation goes by running statistics, and these are stored."""
    train, validation = store.cache("development"), store.cache("validation")
    trained = train_heads([train], validation, HEADS, LEARNS)
    save_checkpoint(Folder(tmp_path), "heads.safetensors", trained.checkpoint)
    read = load_checkpoint(Folder(tmp_path), "heads.safetensors")
    scored = evaluate_checkpoint(read, validation, PLAIN, allow_seen=True, device="cpu")
    for name, score in scored.retrieval.scores.items():
        assert score.value == pytest.approx(trained.best.metrics[name], abs=1e-9)


def test_a_projection_does_not_depend_on_its_batch_mates(make_cache):
    cache = make_cache(40, split="evaluation")
    trained = train_heads([make_cache()], make_cache(split="validation"), HEADS, QUICK).checkpoint
    heads = trained.heads()
    audio, text = torch.from_numpy(cache.audio), torch.from_numpy(cache.text)
    together, _ = project(heads, audio, text, 1024)
    for size in (1, 7):
        parted, _ = project(heads, audio, text, size)
        assert ((parted - together).norm(dim=1) <= 1e-5 * together.norm(dim=1)).all()
    assert (together[1:] - together[:-1]).norm(dim=1).min() > 0.01  # they do differ


def test_evaluation_takes_images_as_the_checkpoint_says(store, monkeypatch):
    train, validation = store.cache("development"), store.cache("validation")
    evaluation, bare = store.cache("evaluation"), store.cache("bare", None)
    disk = heads_with(vision_image_source="disk")
    trained = train_heads([train], validation, disk, QUICK, load_stored=store.load).checkpoint
    generated = evaluate_checkpoint(trained, evaluation, PLAIN, device="cpu")
    with pytest.raises(ImageError, match="Run e2i cache-images"):
        evaluate_checkpoint(trained, bare, PLAIN, device="cpu", load_stored=store.load)
    monkeypatch.setattr(pseudo_images, "fold_embeddings", lambda *_: pytest.fail("generated"))
    stored = evaluate_checkpoint(trained, evaluation, PLAIN, device="cpu", load_stored=store.load)
    assert stored.retrieval.scores == generated.retrieval.scores


def test_standardization_uses_training_clips_only(make_cache):
    cache = make_cache()
    heads = heads_with(standardize_input=True)
    trained = train_heads([cache], make_cache(split="validation"), heads, QUICK)
    found = trained.checkpoint.heads().audio.standardization
    assert found is not None
    assert found.digest == Standardization.of(cache.audio).digest


def test_the_budget_is_as_stated():
    images = HEADS.model_copy(update={"vision_image_size": 128})
    assert pseudo_images.images_bytes(43_690, 768, images) <= pseudo_images.MAX_IMAGES_BYTES
    assert pseudo_images.images_bytes(43_691, 768, images) > pseudo_images.MAX_IMAGES_BYTES
    assert ImagesConfig().image_size == 128
