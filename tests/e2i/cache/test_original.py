"""The original's own files, read as a cache."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_world import World, memory_folder, new_world

from e2i.cache.info import cache_info
from e2i.cache.reader import open_cache
from e2i.errors import CacheCorruptError, CacheError, CacheNotFoundError
from e2i.storage import Folder
from original_files import CLIPS, SOURCE, OriginalFiles, tensor_file


def test_rows_of_a_clip_are_folded_to_one() -> None:
    files = OriginalFiles()
    folder = files.written(memory_folder())
    rows = open_cache(folder).load()
    assert rows.clip_ids == CLIPS
    assert rows.caption_ids == tuple(files.metadata["ids"])
    assert rows.caption_clip.tolist() == [clip for clip in range(3) for _ in range(5)]
    assert rows.audio.dtype == rows.text.dtype == np.float32
    assert np.array_equal(rows.audio, files.audio.numpy()[::5])
    assert np.array_equal(rows.text, files.text.numpy())
    assert (rows.dataset, rows.split, rows.url) == ("CLOTHO_v2.1", "validation", folder.url)
    assert set(rows.captions) == {""}
    assert rows.shown_caption(6) == "rain.wav#2"
    assert np.isnan(rows.duration_s).all()


def test_pairs_in_any_order_keep_their_clips() -> None:
    files = OriginalFiles()
    order = np.random.default_rng(1).permutation(len(files.audio))
    ids = files.metadata["ids"]
    files.audio, files.text = files.audio[order], files.text[order]
    files.metadata["ids"] = [ids[row] for row in order]
    rows = open_cache(files.written(memory_folder())).load()
    assert set(rows.clip_ids) == set(CLIPS)
    for row, caption_id in enumerate(rows.caption_ids):
        clip = rows.caption_clip[row]
        assert rows.clip_ids[clip] == caption_id.rpartition("#")[0]
        assert np.array_equal(rows.audio[clip], files.audio[row].numpy())


def test_splits_of_one_origin_have_one_fingerprint_and_e2i_another() -> None:
    first, second = OriginalFiles(), OriginalFiles()
    second.metadata["metadata_source"] = SOURCE.replace("validation", "evaluation")
    rows, others = (open_cache(files.written(memory_folder())).load() for files in (first, second))
    assert rows.audio_fingerprint == others.audio_fingerprint
    assert rows.text_fingerprint == others.text_fingerprint
    assert rows.audio_fingerprint != rows.text_fingerprint
    second.metadata["audio_sample_rate"] = 16000
    resampled = open_cache(second.written(memory_folder())).load()
    assert resampled.audio_fingerprint != rows.audio_fingerprint


def test_the_states_of_the_files_are_told_apart() -> None:
    files = OriginalFiles()
    before = open_cache(files.written(memory_folder())).manifest_sha256
    assert open_cache(files.written(memory_folder())).manifest_sha256 == before
    files.text[0, 0] += 1
    assert open_cache(files.written(memory_folder())).manifest_sha256 != before


@pytest.mark.parametrize(
    ("source", "folder_name", "expected"),
    [
        ("/d/sounds.csv", "evaluation", ("d", "evaluation")),
        ("/d/sounds.csv", "mine", ("d", "all")),
        (None, "mine", ("mine", "all")),
        ("validation.json", "mine", ("mine", "validation")),
    ],
)
def test_its_name_is_told_by_its_source_and_its_folder(
    source: str | None, folder_name: str, expected: tuple[str, str]
) -> None:
    files = OriginalFiles()
    files.metadata["metadata_source"] = source
    rows = open_cache(files.written(memory_folder().folder(folder_name))).load()
    assert (rows.dataset, rows.split) == expected


def test_only_ids_are_needed_of_the_metadata(tmp_path: Path) -> None:
    files = OriginalFiles()
    files.metadata = {"ids": files.metadata["ids"], "own": {"note": 1}}
    files.audio = files.audio.double()
    files.text = files.text.t().contiguous().t().requires_grad_()
    rows = open_cache(files.written(Folder(tmp_path))).load()
    assert rows.audio.dtype == np.float32
    assert np.array_equal(rows.text, files.text.detach().numpy())


def test_what_is_in_it() -> None:
    folder = OriginalFiles().written(memory_folder())
    info = cache_info(folder)
    assert (info.complete, info.source) == (True, SOURCE)
    assert (info.audio.stored, info.text.stored) == (3, 15)
    assert (info.audio.dim, info.text.dim) == (8, 6)
    assert info.audio.shard_bytes == folder.info("audio_embeddings.pt").size_bytes
    assert info.audio.settings["encoder"] == "AudioEncoder"


def test_a_snapshot_without_its_cache_is_read_as_such(world: World) -> None:
    world.build(snapshot="always")
    rows = open_cache(world.folder).load()
    copied = memory_folder()
    for name in ("audio_embeddings.pt", "text_embeddings.pt", "metadata.json"):
        copied.write(name, world.folder.read(name))
    found = open_cache(copied).load()
    assert (found.clip_ids, found.caption_ids) == (rows.clip_ids, rows.caption_ids)
    assert np.array_equal(found.audio, rows.audio)
    assert np.array_equal(found.text, rows.text)
    assert np.array_equal(found.caption_clip, rows.caption_clip)


def test_a_cache_is_not_taken_for_its_snapshot(world: World) -> None:
    world.build(snapshot="always")
    world.folder.delete("manifest.json")
    with pytest.raises(CacheError, match="the cache is not whole"):
        open_cache(world.folder)


def test_a_metadata_file_alone_is_no_cache() -> None:
    folder = memory_folder()
    folder.write("metadata.json", b"{}")
    for look in (open_cache, cache_info):
        with pytest.raises(CacheNotFoundError, match="there is no cache"):
            look(folder)


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def ids(change: Callable[[list[str]], list[str]]) -> Callable[[OriginalFiles], None]:
    return lambda files: files.metadata.update(ids=change(files.metadata["ids"]))


def put(name: str, data: bytes | None) -> Callable[[Folder], None]:
    return lambda folder: folder.delete(name) if data is None else folder.write(name, data)


def nan_in(side: str) -> Callable[[OriginalFiles], None]:
    return lambda files: getattr(files, side)[7].__setitem__(0, float("nan"))


WRONG: list[tuple[str, Callable, tuple[str, ...]]] = [
    ("count", ids(lambda own: own[:-1]), ("num_pairs 15 and 14 ids",)),
    (
        "more rows than ids",
        lambda files: files.metadata.update(ids=files.metadata["ids"][:-1], num_pairs=None),
        ("audio_embeddings.pt", "got 15 rows", "expected 14, one for each id of metadata.json"),
    ),
    (
        "fewer captions than clips' rows",
        lambda files: setattr(files, "text", files.text[:9]),
        ("text_embeddings.pt", "got 9 rows", "expected 15"),
    ),
    (
        "another shape than it says",
        lambda files: files.metadata.update(text_embedding_shape=[15, 7]),
        ("text_embeddings.pt", "got shape [15, 6]", "[15, 7] as metadata.json says"),
    ),
    (
        "no dimensions",
        lambda files: setattr(files, "text", torch.zeros(15, 0)),
        ("got 0 dimensions",),
    ),
    ("three axes", lambda files: setattr(files, "text", torch.zeros(15, 2, 3)), ("(15, 2, 3)",)),
    ("whole numbers", lambda files: setattr(files, "text", torch.ones(15, 6).int()), ("int32",)),
    ("sparse", lambda files: setattr(files, "text", torch.eye(15).to_sparse()), ("text_embed",)),
    ("no tensor", lambda files: setattr(files, "text", {"a": torch.zeros(1)}), ("got a dict",)),
    ("code", lambda files: setattr(files, "audio", Malicious()), ("audio_embeddings.pt", "Unpick")),
    ("NaN in audio", nan_in("audio"), ("not finite for 'rain.wav#3'",)),
    ("NaN in text", nan_in("text"), ("text_embeddings.pt", "not finite for 'rain.wav#3'")),
    (
        "rows of another recording",
        lambda files: files.audio[6].neg_(),
        ("values for 'rain.wav#2' that point elsewhere", "the same recording"),
    ),
    ("an id without a number", ids(lambda own: ["rain.wav", *own[1:]]), ("'rain.wav' in row 0",)),
    ("an id without a name", ids(lambda own: ["#1", *own[1:]]), ("the id '#1' in row 0",)),
    ("an id twice", ids(lambda own: [*own[:-1], own[0]]), ("'dog #2 [far].wav#1' twice",)),
    ("no ids", lambda files: files.metadata.pop("ids"), ("got ids: Field required",)),
    ("ids that are none", ids(lambda own: [1, *own[1:]]), ("got ids.0: Input should be",)),
    ("empty", lambda files: files.metadata.update(ids=[], num_pairs=0), ("got no ids",)),
]
DAMAGED: list[tuple[str, Callable, tuple[str, ...]]] = [
    ("no metadata", put("metadata.json", None), ("metadata.json", "got no such file")),
    ("no text", put("text_embeddings.pt", None), ("text_embeddings.pt", "got no such file")),
    ("a list", put("metadata.json", b"[1]"), ("metadata.json", "the whole file")),
    ("cut short", put("metadata.json", b'{"ids": ["a'), ("metadata.json", "the whole file")),
    ("text for a tensor", put("audio_embeddings.pt", b"not ours"), ("audio_embeddings.pt",)),
    ("nothing for a tensor", put("audio_embeddings.pt", b""), ("(0 bytes)",)),
    (
        "a pickle that is no tensor file",
        put("audio_embeddings.pt", pickle.dumps(Malicious())),
        ("audio_embeddings.pt", "without running code"),
    ),
]


@pytest.mark.parametrize(("change", "words"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_files_that_do_not_fit_are_refused(
    change: Callable[[OriginalFiles], None],
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = OriginalFiles()
    change(files)
    refused(files.written(memory_folder()), words, tmp_path, monkeypatch)


@pytest.mark.parametrize(("change", "words"), [w[1:] for w in DAMAGED], ids=[w[0] for w in DAMAGED])
def test_damaged_files_are_refused(
    change: Callable[[Folder], None],
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = OriginalFiles().written(memory_folder())
    change(folder)
    refused(folder, words, tmp_path, monkeypatch)


def refused(
    folder: Folder, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In words, and without running what the files carry."""
    monkeypatch.chdir(tmp_path)
    for look in (open_cache, cache_info):
        with pytest.raises(CacheCorruptError) as caught:
            look(folder)
        for word in (*words, folder.url, "Copy its three files again"):
            assert word in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_differences_within_rounding_are_none() -> None:
    files = OriginalFiles()
    files.audio[6] *= 1 + 5e-6
    assert len(open_cache(files.written(memory_folder())).load().clip_ids) == 3


@pytest.mark.parametrize("normalized", [False, True])
def test_rows_that_batch_mates_have_changed_are_averaged(normalized: bool) -> None:
    """The original padded a recording to the longest of its batch, so its five rows may differ."""
    files = OriginalFiles()
    files.audio[5:10] += 0.1 * torch.randn((5, 8), generator=torch.Generator().manual_seed(1))
    if normalized:
        files.audio /= files.audio.norm(dim=1, keepdim=True)
    loaded = open_cache(files.written(memory_folder())).load().audio
    mean = files.audio[5:10].mean(dim=0)
    expected = mean / mean.norm() if normalized else mean
    assert np.allclose(loaded[1], expected.numpy(), atol=1e-6)
    for clip, row in ((0, 0), (2, 10)):
        assert loaded[clip].tobytes() == files.audio[row].numpy().tobytes()


def test_no_cut_of_a_tensor_file_is_taken() -> None:
    whole = tensor_file(OriginalFiles().text)
    folder = OriginalFiles().written(memory_folder())
    for length in range(0, len(whole), 97):
        folder.write("text_embeddings.pt", whole[:length])
        with pytest.raises(CacheCorruptError, match=r"text_embeddings\.pt cannot be used"):
            open_cache(folder)


def test_nothing_is_embedded_into_its_folder() -> None:
    world = new_world(2, OriginalFiles().written(memory_folder()))
    with pytest.raises(CacheError, match="embeddings that e2i did not write"):
        world.plan()
