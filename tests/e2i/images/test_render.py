from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections import Counter

import numpy as np
import pytest

from e2i.errors import ImageError, StorageUnavailableError
from e2i.images.config import ImagesConfig
from e2i.images.fold import decode_images, encode_images
from e2i.images.load import load_images
from e2i.images.names import png_name
from e2i.images.png import decode_png
from e2i.images.render import RenderCounts, missing_rows, render_images, render_rows
from e2i.images.stored import embedding_digest
from e2i.storage import Folder

NATIVE = ImagesConfig(image_size="native")
FINGERPRINT = "0123456789abcdef"


class CountingFolder(Folder):
    """A real folder that counts what is asked of it, and can lose its store."""

    def __init__(self, url):
        super().__init__(url)
        self.calls = Counter()
        self.fails_after = None
        self._lock = threading.Lock()

    def folder(self, name):
        below = super().folder(name)
        below.__class__ = type("Below", (_Counted,), {"above": self})
        return below


class _Counted(Folder):
    above: CountingFolder

    def _count(self, call, name=""):
        with self.above._lock:
            self.above.calls[call] += 1
            if name.endswith(".png"):
                self.above.calls[f"{call} png"] += 1
            limit = self.above.fails_after
            if limit is not None and self.above.calls["write png"] > limit:
                raise StorageUnavailableError("the store is away")

    def read(self, name):
        self._count("read", name)
        return super().read(name)

    def write(self, name, data, *, durable=True):
        self._count("write", name)
        super().write(name, data, durable=durable)

    def delete(self, name):
        self._count("delete", name)
        super().delete(name)

    def files(self, below=""):
        self._count("files")
        return super().files(below)


@pytest.fixture
def cache(tmp_path):
    return CountingFolder(tmp_path / "cache")


@pytest.fixture
def pngs(tmp_path):
    return tmp_path / "cache" / "pseudo_images" / "audio"


IDS = [f"clip {number} #[{number % 3}].wav" for number in range(12)]
EMBEDDINGS = np.random.default_rng(5).standard_normal((12, 50)).astype(np.float32)


def render(
    cache, ids=IDS, embeddings=EMBEDDINGS, config=NATIVE, fingerprint=FINGERPRINT, **options
):
    return render_images(
        cache, "audio", ids, embeddings, config, fingerprint=fingerprint, **options
    )


def load(cache, ids=IDS, config=NATIVE, fingerprint=FINGERPRINT, embeddings=EMBEDDINGS):
    return load_images(cache, "audio", ids, config, fingerprint=fingerprint, embeddings=embeddings)


def stored_bytes(pngs):
    return {file.name: file.read_bytes() for file in pngs.iterdir() if file.suffix == ".png"}


def assert_whole(cache, ids=IDS, embeddings=EMBEDDINGS, config=NATIVE, fingerprint=FINGERPRINT):
    """Exactly the images wanted are there, and asking again finds all by one listing."""
    pixels = load(cache, ids, config, fingerprint, embeddings)
    assert (pixels == encode_images(embeddings, config).pixels).all()
    place = Folder(cache.url).folder(f"{config.images_dir}/audio")
    names = {file.name for file in place.files()}
    assert names == {png_name("audio", item_id) for item_id in ids} | {"images.json"}
    cache.calls.clear()
    again = render(cache, ids, embeddings, config, fingerprint)
    assert again == RenderCounts(rendered=0, reused=len(ids), replaced=0, deleted=0)
    assert cache.calls == {"files": 1, "read": 1}


def test_images_are_rendered_once(cache):
    assert render(cache) == RenderCounts(rendered=12, reused=0, replaced=0, deleted=0)
    assert_whole(cache)


def by_parts(cache, ids=IDS, embeddings=EMBEDDINGS, config=NATIVE, size=5):
    """What processes of their own do, one after the other: counts, and bytes by file name."""
    of = {"fingerprint": FINGERPRINT}
    missing = missing_rows(cache, "audio", ids, embeddings, config, **of)
    written = {}
    for start in range(0, len(missing.rows), size):
        rows = list(missing.rows[start : start + size])
        some = [ids[row] for row in rows]
        written |= render_rows(cache, "audio", some, embeddings[rows], config, **of)
    return missing, written


def test_parts_make_the_images_that_one_run_makes(cache, pngs, tmp_path):
    other = CountingFolder(tmp_path / "other")
    render(other)
    missing, written = by_parts(cache)
    assert (missing.rows, missing.replaced) == (tuple(range(12)), 0)
    cache.calls.clear()
    counts = render(cache, written=written)
    assert counts == RenderCounts(rendered=0, reused=12, replaced=0, deleted=0)
    assert cache.calls["read png"] == cache.calls["write png"] == 0, "they are vouched for"
    expected = stored_bytes(tmp_path / "other" / "pseudo_images" / "audio")
    assert stored_bytes(pngs) == expected
    assert_whole(cache)


def test_parts_are_of_what_is_missing(cache):
    render(cache, IDS[:7], EMBEDDINGS[:7])
    missing, written = by_parts(cache)
    assert missing.rows == tuple(range(7, 12))
    assert len(written) == 5
    changed = EMBEDDINGS.copy()
    changed[2] += 1
    render(cache, written=written)
    missing, written = by_parts(cache, embeddings=changed)
    assert (missing.rows, missing.replaced) == ((2,), 1)
    render(cache, embeddings=changed, written=written)
    assert_whole(cache, embeddings=changed)


def test_a_part_that_was_lost_is_made_again(cache, pngs):
    _, written = by_parts(cache)
    name = png_name("audio", IDS[4])
    (pngs / name).write_bytes(b"half")
    (pngs / png_name("audio", IDS[5])).unlink()
    assert render(cache, written=written).rendered == 2
    assert_whole(cache)


def test_it_works_in_memory():
    cache = CountingFolder("memory://render-once")
    assert render(cache).rendered == 12
    assert_whole(cache)


def test_a_file_says_what_it_shows_and_decodes(cache, pngs):
    render(cache)

    name = png_name("audio", IDS[3])
    stored = decode_png((pngs / name).read_bytes(), name)

    assert stored.label.item_id == IDS[3]
    assert stored.label.side == "audio"
    assert stored.label.fingerprint == FINGERPRINT
    assert stored.label.embedding_digest == embedding_digest(EMBEDDINGS[3])
    # 17 cells of a standard normal span less than 8.
    assert np.abs(decode_images(stored.images) - EMBEDDINGS[3]).max() < 8 / 510


def test_both_sides_lie_beside_each_other(cache):
    render(cache)
    text = render_images(
        cache, "text", ["a#1"], EMBEDDINGS[:1, :20], NATIVE, fingerprint="fedcba9876543210"
    )

    assert text.rendered == 1
    assert_whole(cache)


def test_more_images_than_a_block_holds(cache, monkeypatch):
    monkeypatch.setattr("e2i.images.render._LARGEST_BATCH", 5)

    assert render(cache).rendered == 12
    assert_whole(cache)


def test_progress_counts_each_image_once(cache):
    seen = []
    render(cache, IDS[:5], EMBEDDINGS[:5])
    render(cache, progress=seen.append)

    assert seen == [5] + [1] * 7


def test_an_outage_keeps_what_was_rendered(cache, pngs, monkeypatch):
    monkeypatch.setattr("e2i.images.render._LARGEST_BATCH", 4)
    cache.fails_after = 6
    with pytest.raises(StorageUnavailableError):
        render(cache)
    there = stored_bytes(pngs)
    assert len(there) == 6
    cache.fails_after = None

    assert render(cache) == RenderCounts(rendered=6, reused=6, replaced=0, deleted=0)
    assert stored_bytes(pngs).items() >= there.items()
    assert_whole(cache)


KILLED = """
import os, sys, threading
import numpy as np
from e2i.images.config import ImagesConfig
from e2i.images.render import render_images
from e2i.storage import Folder

kill_at, seen = int(sys.argv[2]), []
original = Folder.write
def write(self, name, data, *, durable=True):
    original(self, name, data, durable=durable)
    seen.append(name)
    if len(seen) >= kill_at:
        os.kill(os.getpid(), 9)
Folder.write = write
ids = [f"clip {n}" for n in range(12)]
embeddings = np.load(sys.argv[1] + "/embeddings.npy")
config = ImagesConfig(image_size=int(sys.argv[3]))
render_images(Folder(sys.argv[1] + "/cache"), "audio", ids, embeddings, config, fingerprint="f")
"""


def test_a_killed_run_is_resumed(cache, tmp_path):
    # Of other settings, so that the killed run replaces images: none may pass for a current one.
    ids = [f"clip {number}" for number in range(12)]
    np.save(tmp_path / "embeddings.npy", EMBEDDINGS)
    render(cache, ids, config=NATIVE, fingerprint="f")
    script = [sys.executable, "-c", KILLED, str(tmp_path), "5", "20"]
    killed = subprocess.run(script, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr

    counts = render(cache, ids, config=NATIVE, fingerprint="f")

    assert counts.rendered == counts.replaced
    assert 5 <= counts.rendered <= 12
    assert_whole(cache, ids, fingerprint="f")


@pytest.mark.parametrize("lost", ["deleted", "broken", "of another kind"])
def test_a_lost_index_costs_reading_only(cache, pngs, lost):
    render(cache)
    index = pngs / "images.json"
    if lost == "deleted":
        index.unlink()
    else:
        index.write_bytes(b'{"settings": {' if lost == "broken" else b'{"images": []}')
    cache.calls.clear()

    assert render(cache) == RenderCounts(rendered=0, reused=12, replaced=0, deleted=0)
    assert cache.calls["read png"] == 12
    assert_whole(cache)


def test_a_copied_folder_costs_reading_only(cache, tmp_path):
    render(cache)
    shutil.copytree(tmp_path / "cache", tmp_path / "copy", copy_function=shutil.copyfile)
    copy = CountingFolder(tmp_path / "copy")

    assert render(copy) == RenderCounts(rendered=0, reused=12, replaced=0, deleted=0)
    assert_whole(copy)


def test_a_changed_embedding_is_rendered_again(cache):
    render(cache)
    changed = EMBEDDINGS.copy()
    changed[[2, 7]] *= -1
    cache.calls.clear()

    counts = render(cache, embeddings=changed)

    assert counts == RenderCounts(rendered=2, reused=10, replaced=2, deleted=0)
    assert cache.calls["write png"] == 2
    assert cache.calls["read png"] == 0
    assert_whole(cache, embeddings=changed)


def test_new_ids_cost_themselves(cache):
    render(cache, IDS[:9], EMBEDDINGS[:9])

    assert render(cache) == RenderCounts(rendered=3, reused=9, replaced=0, deleted=0)
    assert_whole(cache)


@pytest.mark.parametrize("index_lost", [False, True])
def test_images_of_gone_ids_are_deleted(cache, pngs, index_lost):
    render(cache)
    if index_lost:
        (pngs / "images.json").unlink()

    counts = render(cache, IDS[4:], EMBEDDINGS[4:])

    assert counts == RenderCounts(rendered=0, reused=8, replaced=0, deleted=4)
    assert_whole(cache, IDS[4:], EMBEDDINGS[4:])


def test_files_of_others_are_left_alone(cache, pngs):
    render(cache)
    foreign = [
        "audio_dog.wav_1.png",
        "notes.txt",
        "below/" + png_name("audio", "x"),
        png_name("audio", "of the right form"),
    ]
    (pngs / "below").mkdir()
    for name in foreign:
        (pngs / name).write_bytes(b"mine")
    # An image of e2i under a name that is not its own: somebody put it there.
    renamed = png_name("audio", "another name")
    shutil.copyfile(pngs / png_name("audio", IDS[0]), pngs / renamed)

    assert render(cache, IDS[1:], EMBEDDINGS[1:]).deleted == 1
    assert all((pngs / name).read_bytes() == b"mine" for name in foreign)
    assert (pngs / renamed).exists()


@pytest.mark.parametrize(
    "options",
    [
        {"config": ImagesConfig(image_size=20)},
        {"config": ImagesConfig(image_size="native", image_mode="area")},
        {"config": ImagesConfig(image_size="native", image_channel_mode="replicate")},
        {"config": ImagesConfig(image_size="native", clip_values=True)},
        {"fingerprint": "fedcba9876543210"},
        {"embeddings": EMBEDDINGS[:, :49]},
    ],
)
@pytest.mark.parametrize("index_lost", [False, True])
def test_other_settings_render_all_anew(cache, pngs, options, index_lost):
    render(cache)
    if index_lost:
        (pngs / "images.json").unlink()

    counts = render(cache, **options)

    assert counts == RenderCounts(rendered=12, reused=0, replaced=12, deleted=0)
    assert_whole(cache, **options)


def test_native_and_its_number_are_one_size(cache):
    render(cache)

    assert render(cache, config=ImagesConfig(image_size=5)).reused == 12


@pytest.mark.parametrize("damage", ["truncated", "other settings", "other image", "touched"])
def test_a_file_changed_behind_the_index_is_judged_by_itself(cache, pngs, tmp_path, damage):
    render(cache)
    target = pngs / png_name("audio", IDS[5])
    if damage == "truncated":
        target.write_bytes(target.read_bytes()[:-30])
    elif damage == "other settings":
        other = CountingFolder(tmp_path / "other")
        render(other, config=ImagesConfig(image_size="native", clip_values=True))
        shutil.copyfile(tmp_path / "other/pseudo_images/audio" / target.name, target)
    elif damage == "other image":
        shutil.copyfile(pngs / png_name("audio", IDS[6]), target)
    else:
        target.touch()

    rendered = 0 if damage == "touched" else 1
    assert render(cache) == RenderCounts(rendered, 12 - rendered, rendered, 0)
    assert_whole(cache)


def test_what_another_run_writes_in_between_is_not_entered(cache, tmp_path):
    # Another run with other settings overwrites an image before this one has written its index.
    other = CountingFolder(tmp_path / "other")
    render(other, config=ImagesConfig(image_size=20))
    name = png_name("audio", IDS[0])
    theirs = tmp_path / "other/pseudo_images/audio" / name

    def overwrite(count):
        if (tmp_path / "cache/pseudo_images/audio" / name).exists():
            shutil.copyfile(theirs, tmp_path / "cache/pseudo_images/audio" / name)

    render(cache, progress=overwrite)

    index = json.loads((tmp_path / "cache/pseudo_images/audio/images.json").read_bytes())
    assert name not in index["images"]
    assert render(cache) == RenderCounts(rendered=1, reused=11, replaced=1, deleted=0)
    assert_whole(cache)


def test_two_runs_at_once_end_whole(cache):
    errors = []

    def run():
        try:
            render(cache)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not errors
    assert render(cache).rendered == 0
    assert_whole(cache)


def test_rendering_twice_gives_the_same_bytes(cache, pngs, tmp_path):
    render(cache)
    render(CountingFolder(tmp_path / "again"), IDS[::-1], EMBEDDINGS[::-1])

    assert stored_bytes(pngs) == stored_bytes(tmp_path / "again/pseudo_images/audio")


def test_an_embedding_that_is_not_finite_is_named(cache):
    embeddings = EMBEDDINGS.copy()
    embeddings[4, 0] = np.nan

    with pytest.raises(ImageError, match=r"the embedding of 'clip 4 #\[1\]\.wav' is not finite"):
        render(cache, embeddings=embeddings)


def test_ids_and_embeddings_have_to_match(cache):
    with pytest.raises(ImageError) as caught:
        render(cache, IDS[:3])
    assert str(caught.value) == (
        "ids and embeddings do not match: got 3 ids and embeddings of shape (12, 50), expected "
        "(3, D). Read both from one cache."
    )


def test_ids_have_to_differ(cache):
    with pytest.raises(ImageError) as caught:
        render(cache, ["a", "b", "a"], EMBEDDINGS[:3])
    assert str(caught.value) == (
        f"two audio embeddings have one pseudo-image: got 'a' and 'a' for {png_name('audio', 'a')},"
        " expected ids that differ. Rename one of them."
    )


def test_images_are_loaded_in_the_order_asked_for(cache):
    config = ImagesConfig(image_size=9, image_mode="bicubic")
    render(cache, config=config)
    order = [7, 0, 11]

    pixels = load(cache, [IDS[n] for n in order], config, embeddings=EMBEDDINGS[order])

    assert pixels.dtype == np.uint8
    assert (pixels == encode_images(EMBEDDINGS[order], config).pixels).all()
    assert load(cache, [], config, embeddings=None).shape == (0, 3, 9, 9)


def test_loading_names_the_png_that_is_missing(cache, pngs):
    render(cache)
    name = png_name("audio", IDS[8])
    (pngs / name).unlink()

    with pytest.raises(ImageError) as caught:
        load(cache)
    assert str(caught.value) == (
        f"the pseudo-image of audio {IDS[8]!r} is missing: got no file {name} in {pngs}, expected "
        "one. Run e2i cache-images."
    )


@pytest.mark.parametrize(
    ("options", "got"),
    [
        ({"config": ImagesConfig(image_size=64)}, "image_size 5, expected 64"),
        (
            {"config": ImagesConfig(image_size="native", image_mode="area")},
            "image_mode 'nearest', expected 'area'",
        ),
        (
            {"config": ImagesConfig(image_size=5, image_channel_mode="replicate")},
            "image_channel_mode 'split', expected 'replicate'",
        ),
        (
            {"config": ImagesConfig(image_size="native", clip_values=True)},
            "clip_values False, expected True",
        ),
        ({"fingerprint": "new"}, "fingerprint '0123456789abcdef', expected 'new'"),
        (
            {"embeddings": -EMBEDDINGS},
            f"embedding {embedding_digest(EMBEDDINGS[0])!r}, expected "
            f"{embedding_digest(-EMBEDDINGS[0])!r}",
        ),
    ],
)
def test_loading_refuses_images_that_were_made_otherwise(cache, options, got):
    render(cache)

    with pytest.raises(ImageError) as caught:
        load(cache, **options)
    assert str(caught.value) == (
        f"the stored pseudo-image {png_name('audio', IDS[0])} was made otherwise: got {got}. Run "
        "e2i cache-images with these settings."
    )


def test_loading_refuses_an_image_of_another_id(cache, pngs):
    render(cache)
    shutil.copyfile(pngs / png_name("audio", IDS[0]), pngs / png_name("audio", IDS[1]))

    with pytest.raises(ImageError, match=r"got id 'clip 0 #\[0\]\.wav', expected 'clip 1"):
        load(cache, IDS[1:2], embeddings=None)


def test_loading_refuses_images_of_two_sizes(cache):
    render(cache)
    render_images(cache, "text", ["a", "b"], EMBEDDINGS[:2, :3], NATIVE, fingerprint=FINGERPRINT)
    other = CountingFolder(cache.url + "-other")
    render_images(other, "text", ["b"], EMBEDDINGS[:1], NATIVE, fingerprint=FINGERPRINT)
    name = "pseudo_images/text/" + png_name("text", "b")
    Folder(cache.url).write(name, Folder(other.url).read(name))

    with pytest.raises(ImageError) as caught:
        load_images(cache, "text", ["a", "b"], NATIVE, fingerprint=FINGERPRINT)
    assert str(caught.value) == (
        "pseudo-images of one cache have one size: got 5 px for 'b', expected 1 px. Run e2i "
        "cache-images."
    )


def test_loading_needs_an_embedding_for_each_id(cache):
    render(cache)

    with pytest.raises(ImageError, match="got 12 ids and 3 embeddings, expected one for each"):
        load(cache, embeddings=EMBEDDINGS[:3])
