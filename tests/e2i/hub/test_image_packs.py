from __future__ import annotations

import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from cache_world import World
from mirrors import REPO, mirror_of

from e2i.cache.reader import open_cache
from e2i.errors import StorageNotFoundError
from e2i.hub import image_packs as module
from e2i.hub.image_packs import image_packs
from e2i.images.config import ImagesConfig
from e2i.images.png import decode_png
from e2i.images.render import render_images
from hub_server import HubServer

NATIVE = ImagesConfig(image_size="native")


def rendered(world: World, config: ImagesConfig = NATIVE) -> dict:
    rows = open_cache(world.folder).load()
    for side, ids, embeddings, fingerprint in (
        ("audio", rows.clip_ids, rows.audio, rows.audio_fingerprint),
        ("text", rows.caption_ids, rows.text, rows.text_fingerprint),
    ):
        render_images(world.folder, side, ids, embeddings, config, fingerprint=fingerprint)
    return image_packs(world.folder, rows, config)


def test_packs_hold_the_images_as_they_are_stored(world: World) -> None:
    world.build()
    packs = rendered(world)
    audio, text = sorted(packs)
    rows = pq.read_table(io.BytesIO(packs[audio].content())).to_pylist()
    assert [row["clip_id"] for row in rows] == list(world.texts)
    for row in rows:
        name = row["image"]["path"]
        assert row["image"]["bytes"] == world.folder.read(f"pseudo_images/audio/{name}")
        assert decode_png(row["image"]["bytes"], name).label.item_id == row["clip_id"]
    captions = pq.read_table(io.BytesIO(packs[text].content())).to_pylist()
    assert [row["caption"] for row in captions] == [t for ts in world.texts.values() for t in ts]
    assert {row["caption_id"].rpartition("#")[0] for row in captions} == set(world.texts)
    assert packs[audio].content() == packs[audio].content()


def test_a_name_tells_what_it_shows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IMAGES_A_PACK", 4)
    world.build()
    before = set(rendered(world))
    assert len(before) == 3 + 5
    assert set(rendered(world)) == before
    world.put("new")
    world.build()
    after = set(rendered(world))
    assert len(after - before) == 2  # the last pack of clips, and a new one of captions
    assert set(rendered(world, NATIVE.model_copy(update={"clip_values": True}))).isdisjoint(after)


def test_datasets_shows_them_as_images(world: World, tmp_path: Path) -> None:
    import datasets  # takes two seconds

    world.build()
    packs = rendered(world)
    (tmp_path / "pack.parquet").write_bytes(packs[sorted(packs)[0]].content())
    loaded = datasets.load_dataset(
        "parquet",
        data_files=f"{tmp_path}/pack.parquet",
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert isinstance(loaded.features["image"], datasets.Image)
    assert (loaded[0]["image"].mode, loaded[0]["image"].size) == ("RGB", (2, 2))


def test_images_are_mirrored_without_the_cache_or_with_it(world: World, hub: HubServer) -> None:
    world.build(snapshot="always")
    packs = rendered(world)
    images_alone = mirror_of(world, hf_prefix="images")
    images_alone.finish(packs, cache=False)
    assert set(hub.files(REPO)) == {"README.md", *(f"images/{name}" for name in packs)}
    assert "pseudo-images-audio" in hub.files(REPO)["README.md"].decode()
    assert "config_name: images-audio" not in hub.files(REPO)["README.md"].decode()
    again = mirror_of(world, hf_prefix="images")
    again.finish(packs, cache=False)
    assert again.sent.commits == 0
    whole = mirror_of(world, hf_prefix="whole")
    whole.finish(packs, snapshot=True)
    held = {name for name in hub.files(REPO) if name.startswith("whole/")}
    assert {"whole/manifest.json", "whole/audio_embeddings.pt", "whole/metadata.json"} <= held
    assert {f"whole/{name}" for name in packs} <= held


def test_images_of_other_settings_take_their_place(world: World, hub: HubServer) -> None:
    world.build()
    mirror_of(world).finish(rendered(world))
    replicated = rendered(world, NATIVE.model_copy(update={"image_channel_mode": "replicate"}))
    changed = mirror_of(world)
    changed.finish(replicated)
    assert changed.sent.deleted == 2
    held = {name for name in hub.files(REPO) if "pseudo_images" in name}
    assert held == set(replicated)


def test_an_image_that_is_gone_is_told(world: World, hub: HubServer) -> None:
    world.build()
    packs = rendered(world)
    world.folder.delete(world.folder.files("pseudo_images/audio")[0].name)
    with pytest.raises(StorageNotFoundError):
        mirror_of(world).finish(packs)
