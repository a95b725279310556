"""Downloading embeddings from the Hub, by the real client on a stand-in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cache_world import World, memory_folder
from mirrors import REPO, mirror_of

from e2i.cache.reader import open_cache
from e2i.cache.restore import restore
from e2i.errors import (
    CacheNotFoundError,
    ConfigError,
    StorageError,
    StorageUnavailableError,
)
from e2i.hub.source import find_cache, source_folder
from e2i.storage import Folder
from hub_server import Cut, HubServer, Status
from original_files import OriginalFiles


@pytest.fixture
def mirrored(world: World, hub: HubServer) -> World:
    world.build()
    mirror_of(world, hf_prefix="runs/development").finish()
    return world


def same(one: Folder, other: Folder) -> bool:
    mine, theirs = open_cache(one).load(), open_cache(other).load()
    return mine.clip_ids == theirs.clip_ids and np.array_equal(mine.audio, theirs.audio)


def test_a_mirrored_cache_is_restored(mirrored: World, tmp_path: Path) -> None:
    kept = find_cache(REPO, None, "runs/development", str(tmp_path))
    assert restore(kept, Folder(tmp_path)).fetched == 8
    assert same(mirrored.folder, Folder(tmp_path))


def test_the_originals_files_are_restored(hub: HubServer, tmp_path: Path) -> None:
    source = OriginalFiles().written(memory_folder())
    hub.put_files(REPO, {f"validation/{f.name}": source.read(f.name) for f in source.files()})
    target = tmp_path / "validation"
    kept = find_cache(REPO, None, "", str(target))  # the subset is the folder's name
    assert restore(kept, Folder(target)).fetched == 3
    assert same(source, Folder(target))


def test_the_root_is_taken_where_there_is_no_such_subset(world: World, hub: HubServer) -> None:
    world.build()
    mirror_of(world).finish()
    assert find_cache(REPO, None, "", "/x/any").folder.url == f"hf://datasets/{REPO}"


def test_a_revision_is_a_state(mirrored: World, hub: HubServer) -> None:
    first = hub.commits(REPO)[-1]["oid"]
    mirrored.put("new")
    mirrored.build()
    mirror_of(mirrored, hf_prefix="runs/development").finish()
    then, now = (
        find_cache(REPO, revision, "runs/development", "x").manifest for revision in (first, None)
    )
    assert (then.counts.clips, now.counts.clips) == (10, 11)


def test_any_folder_will_do(world: World, s3_folder: Folder, tmp_path: Path) -> None:
    world.folder = s3_folder.folder("development")
    world.build()
    kept = look_in(s3_folder)
    restore(kept, Folder(tmp_path))
    assert same(world.folder, Folder(tmp_path))


def look_in(root: Folder):
    """As `find_cache` on its URL, with the credentials of the test's server."""
    from e2i.cache.restore import look_at

    found = look_at(root.folder("development"))
    assert found is not None
    return found


def test_a_url_is_taken_for_a_folder(world: World) -> None:
    root = memory_folder()
    world.folder = root.folder("development")
    world.build()
    kept = find_cache(root.url, None, "", "/any/development")
    assert kept.folder == world.folder


def test_what_is_not_there_is_told_with_what_is(mirrored: World) -> None:
    for subset in ("", "mine"):
        with pytest.raises(CacheNotFoundError) as caught:
            find_cache(REPO, None, subset, "/x/there")
        assert "Give one of these as --subset: runs/development." in str(caught.value)
    with pytest.raises(CacheNotFoundError, match=r"a private data set needs a login"):
        find_cache("me/nothing", None, "", "x")


@pytest.mark.parametrize("repo_id", ["sounds", "a/b/c", ".x", ""])
def test_what_is_no_data_set_is_refused(repo_id: str) -> None:
    with pytest.raises(ConfigError, match="expected 'owner/name', the URL of a folder, or a path"):
        source_folder(repo_id)


def test_a_local_folder_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    wanted = Folder(tmp_path / "caches").url
    for path in (
        str(tmp_path / "caches"),
        "./caches",
        "../" + tmp_path.name + "/caches",
        "~/caches",
    ):
        assert source_folder(path).url == wanted


def test_a_revision_of_a_folder_is_refused() -> None:
    with pytest.raises(ConfigError, match="only a data set of the Hub has revisions"):
        source_folder("memory://x", "main")
    with pytest.raises(ConfigError, match="got --revision main for a folder"):
        source_folder("/x", "main")
    assert source_folder("a/b", "refs/pr/1").url == "hf://datasets/a/b@refs%2Fpr%2F1"


@pytest.mark.parametrize("fault", [Status(500), Cut(), Status(429, {"Retry-After": "0"})])
def test_what_passes_is_ridden_out(
    mirrored: World, hub: HubServer, fault: Status | Cut, tmp_path: Path
) -> None:
    kept = find_cache(REPO, None, "runs/development", str(tmp_path))
    hub.fail("resolve", fault, fault)
    restore(kept, Folder(tmp_path))
    assert same(mirrored.folder, Folder(tmp_path))


def test_no_hub_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder("hf://datasets/me/x", {"endpoint": "http://127.0.0.1:9"})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(StorageUnavailableError, match=r"got Connect\w+ .* for hf://datasets/me/x"):
        folder.read("cache.json")


def test_offline_is_told_at_once() -> None:
    """The tests' own environment says so."""
    with pytest.raises(StorageError, match="OfflineModeIsEnabled"):
        find_cache("me/x", None, "", "y")
