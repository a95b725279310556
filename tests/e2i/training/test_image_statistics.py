"""By which clips stored pseudo-images are standardized: those that training would train on."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from e2i.errors import CacheNotFoundError, CheckpointError, ConfigError
from e2i.heads.checkpoint import save_checkpoint
from e2i.heads.clip_roles import clip_digest
from e2i.heads.config import HeadsConfig
from e2i.images.config import ImagesConfig
from e2i.images.standardization import Standardization
from e2i.storage import Folder
from e2i.training import image_statistics
from e2i.training.config import TrainingConfig
from e2i.training.image_statistics import image_standardization
from e2i.training.pairs import clip_keys
from e2i.training.train import train_heads

STANDARD = ImagesConfig(standardize=True)


@pytest.fixture
def there(monkeypatch):
    """Finished caches, by where they lie."""
    caches = {}

    def open_cache(folder):
        found = [cache for url, cache in caches.items() if folder == Folder(url)]
        if not found:
            raise CacheNotFoundError("none")
        return SimpleNamespace(load=lambda: found[0])

    monkeypatch.setattr(image_statistics, "open_cache", open_cache)
    return caches


def put(there, cache, url=None):
    there[url or f"memory://e/{cache.split}"] = cache
    return url or f"memory://e/{cache.split}", cache


def digest(where, side="audio", images=STANDARD):
    return image_standardization(*where, side, images).digest


def test_nothing_where_images_are_plain(there, make_cache):
    assert image_standardization(*put(there, make_cache()), "audio", ImagesConfig()) is None


def test_all_clips_where_the_epoch_is_chosen_on_another_cache(there, make_cache):
    development = put(there, make_cache())
    others = [put(there, make_cache(20, split=split)) for split in ("validation", "evaluation")]
    cache = development[1]
    for where in (development, *others):
        assert digest(where) == Standardization.of(cache.audio).digest
        assert digest(where, "text") == Standardization.of(cache.text).digest


def test_of_a_cache_alone_those_that_training_does_not_hold_out(there, make_cache):
    where = put(there, make_cache(split="all"))
    heads = HeadsConfig(hidden_dim=4, out_dim=4, standardize_input=True)
    trained = train_heads([where[1]], None, heads, TrainingConfig(epochs=1, device="cpu"))
    kept = [clip_digest(key) in trained.checkpoint.clips.train for key in clip_keys(where[1])]
    assert 0 < sum(kept) < len(kept)
    found = trained.checkpoint.heads()
    assert digest(where) == found.audio.standardization.digest
    assert digest(where, "text") == found.text.standardization.digest
    assert digest(where) == Standardization.of(where[1].audio[np.array(kept)]).digest


def test_a_cache_or_a_checkpoint_may_be_named(there, make_cache, tmp_path):
    one, other = put(there, make_cache()), put(there, make_cache(50, split="more"))
    put(there, make_cache(20, split="validation"))
    by_cache = STANDARD.model_copy(update={"standardize_by": other[0]})
    assert digest(one, images=by_cache) == Standardization.of(other[1].audio).digest
    for standardize in (True, False):
        heads = HeadsConfig(hidden_dim=4, out_dim=4, standardize_input=standardize)
        quick = TrainingConfig(epochs=1, device="cpu", seed=5)
        trained = train_heads([other[1]], None, heads, quick).checkpoint
        save_checkpoint(Folder(tmp_path), "heads.safetensors", trained)
        path = f"{tmp_path}/heads.safetensors"
        by_checkpoint = STANDARD.model_copy(update={"standardize_by": path})
        if standardize:
            for side in ("audio", "text"):
                expected = getattr(trained.heads(), side).standardization.digest
                assert digest(one, side, by_checkpoint) == expected
        else:
            with pytest.raises(CheckpointError) as caught:
                digest(one, images=by_checkpoint)
            assert str(caught.value) == (
                f"the checkpoint was trained without standardizing: got {path}, expected one of "
                "train-projection --standardize-input. Give another --standardize-by."
            )


def test_a_split_that_nothing_is_trained_on_needs_a_training_cache(there, make_cache):
    where = put(there, make_cache(split="evaluation"))
    with pytest.raises(ConfigError) as caught:
        digest(where)
    assert str(caught.value) == (
        "there are no training clips to standardize by: got no cache at memory://e/development "
        "beside that of 'evaluation', expected the one that is trained on. Give --standardize-by."
    )
