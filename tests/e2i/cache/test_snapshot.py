from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from cache_world import World

from e2i.cache import snapshot
from e2i.cache.reader import open_cache


def tensors(world: World) -> tuple[torch.Tensor, torch.Tensor]:
    audio, text = (
        torch.load(io.BytesIO(world.folder.read(f"{side}_embeddings.pt")), weights_only=True)
        for side in ("audio", "text")
    )
    return audio, text


def test_it_is_in_the_originals_form(world: World) -> None:
    world.put("bad", b"broken")
    world.build(snapshot="auto")
    rows = open_cache(world.folder).load()
    audio, text = tensors(world)
    assert (audio.dtype, text.dtype) == (torch.float32, torch.float32)
    assert np.array_equal(audio.numpy(), rows.audio[rows.caption_clip])
    assert np.array_equal(text.numpy(), rows.text)
    metadata = json.loads(world.folder.read("metadata.json"))
    assert metadata.pop("manifest_sha256") == open_cache(world.folder).manifest_sha256
    assert metadata == {
        "ids": list(rows.caption_ids),
        "audio_embedding_shape": [20, 12],
        "text_embedding_shape": [20, 7],
        "audio_sample_rate": 8000,
        "audio_encoder": "counting",
        "text_encoder": "counting-text",
        "num_pairs": 20,
        "metadata_source": "data/captions.csv",
    }


def test_it_is_written_once_a_state(world: World) -> None:
    assert world.build(snapshot="auto").snapshot_written
    assert not world.build(snapshot="auto").snapshot_written
    world.put("new")
    assert world.build(snapshot="auto").snapshot_written
    assert len(tensors(world)[0]) == 22


def test_a_snapshot_cut_short_is_written_again(world: World) -> None:
    world.build(snapshot="auto")
    world.folder.delete("text_embeddings.pt")
    assert world.build(snapshot="auto").snapshot_written


def test_never_leaves_no_stale_one_behind(world: World) -> None:
    world.build(snapshot="always")
    assert not world.build(snapshot="never").snapshot_written
    assert world.folder.info("audio_embeddings.pt")
    world.put("new")
    world.build(snapshot="never")
    assert not any(world.folder.info(name) for name in ("audio_embeddings.pt", "metadata.json"))


@pytest.mark.parametrize(("limit", "written"), [(20 * 19 * 4, False), (20 * 19 * 4 + 1, True)])
def test_auto_goes_by_size(
    world: World, monkeypatch: pytest.MonkeyPatch, limit: int, written: bool
) -> None:
    monkeypatch.setattr(snapshot, "AUTO_BELOW_BYTES", limit)
    assert world.build(snapshot="auto").snapshot_written is written
    assert world.build(snapshot="always").snapshot_written is not written
