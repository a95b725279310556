"""The mirror of a cache on the Hub, by the real client on a stand-in."""

from __future__ import annotations

import time

import numpy as np
import pytest
from cache_world import CountingAudioEncoder, World, new_world
from mirrors import QUICK, REPO, mirror_of, shard_names

from e2i.cache.compact import compact_cache
from e2i.cache.reader import open_cache
from e2i.errors import (
    CacheIncompleteError,
    ConfigError,
    HubBusyError,
    StaleWriteError,
    StorageError,
    StoragePermissionError,
)
from e2i.hub import mirror as mirror_module
from e2i.hub.config import HubConfig
from e2i.hub.mirror import Mirror, Pace
from e2i.storage import Folder
from hub_server import SIGNATURE, Cut, Fault, HubServer, Slow, Status


def hub_folder(prefix: str = "") -> Folder:
    return Folder(f"hf://datasets/{REPO}/{prefix}".rstrip("/"))


def same_rows(world: World, folder: Folder) -> bool:
    mine, theirs = open_cache(world.folder).load(), open_cache(folder).load()
    return (
        mine.clip_ids == theirs.clip_ids
        and mine.captions == theirs.captions
        and np.array_equal(mine.audio, theirs.audio)
        and np.array_equal(mine.text, theirs.text)
    )


def test_a_finished_cache_is_sent_in_one_commit(world: World, hub: HubServer) -> None:
    world.build()
    mirror = mirror_of(world)
    mirror.finish()
    assert hub.is_private(REPO)
    files = hub.files(REPO)
    assert set(files) == {*shard_names(world), "cache.json", "manifest.json", "README.md"}
    assert all(files[name] == world.folder.read(name) for name in files if name != "README.md")
    assert len(hub.commits(REPO)) == 2  # the Hub's own first one, and this
    sent = mirror.sent
    assert (sent.commits, sent.files, sent.deleted, mirror.lacking) == (1, len(files), 0, 0)
    assert sent.size_bytes == sum(map(len, files.values()))
    assert same_rows(world, hub_folder())


def test_what_the_hub_holds_is_not_sent_again(world: World, hub: HubServer) -> None:
    world.build()
    mirror_of(world).finish()
    puts, commits = len(hub.of("put")), len(hub.of("commit"))
    again = mirror_of(world)
    again.finish()
    assert (len(hub.of("put")), len(hub.of("commit"))) == (puts, commits)
    assert (again.sent.commits, again.sent.files) == (0, 0)


def test_a_cache_that_grows_sends_what_is_new(world: World, hub: HubServer) -> None:
    world.build()
    mirror_of(world).finish()
    before = set(shard_names(world))
    world.put("new one.wav")
    world.build()
    grown = mirror_of(world)
    grown.finish()
    new = set(shard_names(world)) - before
    assert new
    assert grown.sent.files == len(new) + 2  # and the manifest, and the card with its counts
    assert same_rows(world, hub_folder())


def test_shards_that_no_manifest_names_leave_the_data_set(world: World, hub: HubServer) -> None:
    world.build()
    mirror_of(world, hf_prefix="development").finish()
    hub.put_files(
        REPO, {"development/audio/notes.txt": b"mine", "other/audio/shard-1.parquet": b""}
    )
    world.build(chunk_size=10, force=True)
    forced = mirror_of(world, hf_prefix="development")
    forced.finish()
    assert forced.sent.deleted == 8
    held = {name for name in hub.files(REPO) if name.endswith(".parquet")}
    assert held == {
        *(f"development/{name}" for name in shard_names(world)), "other/audio/shard-1.parquet",
    }  # fmt: skip
    assert "development/audio/notes.txt" in hub.files(REPO)
    assert same_rows(world, hub_folder("development"))


def test_shards_that_were_merged_are_not_sent_again(world: World, hub: HubServer) -> None:
    """They lie in the cache until it is pruned, and on the Hub they would double every row."""
    world.build()
    compact_cache(world.folder)
    mirror_of(world).finish()
    assert len(world.folder.files("audio")) > 1
    late = mirror_of(world)
    late.send_shards()
    assert (late.sent.files, late.sent.commits) == (0, 0)


def test_a_remote_cache_is_mirrored_too(hub: HubServer, s3_folder: Folder) -> None:
    world = new_world(3, folder=s3_folder)
    world.build()
    mirror_of(world).finish()
    assert same_rows(world, hub_folder())


def test_what_is_not_finished_is_not_told_as_such(world: World, hub: HubServer) -> None:
    world.embed(world.plan())
    mirror = mirror_of(world)
    mirror.send_shards()
    assert "manifest.json" not in hub.files(REPO)
    assert sum(name.endswith(".parquet") for name in hub.files(REPO)) == 8
    assert "config_name: audio" in hub.files(REPO)["README.md"].decode()
    with pytest.raises(CacheIncompleteError):
        mirror.finish()
    world.finish(snapshot="never")
    puts = len(hub.of("put"))
    mirror.finish()
    assert len(hub.of("put")) == puts
    assert list(hub.commits(REPO)[-1]["files"])[-1] == "manifest.json"
    assert same_rows(world, hub_folder())


def test_shards_wait_until_they_hold_enough_pairs(world: World, hub: HubServer) -> None:
    plan = world.plan()
    mirror = mirror_of(world)
    world.embed(plan, chunks=2)  # six clips, the audio of twelve pairs
    mirror.send_shards(13, captions_per_clip=2.0)
    assert mirror.sent.commits == 0
    mirror.send_shards(12, captions_per_clip=2.0)
    assert (mirror.sent.commits, mirror.sent.files) == (1, 3)
    world.embed(plan, chunks=5)  # the other clips, and three clips' captions
    mirror.send_shards(9, captions_per_clip=2.0)
    assert mirror.sent.commits == 1
    mirror.send_shards(8, captions_per_clip=2.0)
    assert (mirror.sent.commits, mirror.sent.files) == (2, 6)


def test_shards_of_other_settings_are_not_sent(world: World, hub: HubServer) -> None:
    world.build()
    world.audio = CountingAudioEncoder(salt=1)
    world.embed(world.plan(force=True))
    mirror_of(world).send_shards()
    held = {name for name in hub.files(REPO) if name.endswith(".parquet")}
    assert len(held) == 8
    assert len(held & set(shard_names(world))) == 4  # captions: the audio is that of before


def test_large_changes_go_in_several_commits(
    world: World, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "FILES_A_COMMIT", 4)
    world.build(chunk_size=1)
    mirror = mirror_of(world)
    mirror.finish()
    assert (mirror.sent.commits, mirror.sent.files) == (6, 23)
    for commit in hub.commits(REPO)[1:-1]:
        assert all(name.endswith(".parquet") for name in commit["files"])
    assert same_rows(world, hub_folder())


def test_commits_keep_their_distance(world: World, hub: HubServer) -> None:
    plan = world.plan()
    mirror = mirror_of(world, pace=Pace(interval_s=0.4))
    world.embed(plan, chunks=1)
    mirror.send_shards()
    world.embed(plan)
    mirror.send_shards()
    world.finish(snapshot="never")
    mirror.finish()
    times = [commit["at"] for commit in hub.commits(REPO)[1:]]
    assert len(times) == 3
    assert min(np.diff(times)) >= 0.35


class TestFaults:
    @pytest.fixture(autouse=True)
    def _whole(self, world: World, hub: HubServer) -> None:
        world.build()

    @pytest.mark.parametrize(
        "faults",
        [
            {"commit": [Status(409)]},
            {"commit": [Status(412), Status(500)]},
            {"commit": [Status(429, {"Retry-After": "0"})]},
            {"commit": [Status(503), Status(502)]},
            {"commit": [Cut()]},
            {"commit": [Cut(after=True)]},
            {"commit": [Slow(0.2)], "put": [Slow(0.2)]},
            {"info": [Status(500)]},
            {"info": [Cut()]},
            {"create": [Cut(after=True)]},
            {"tree": [Status(504), Cut()]},
            {"preupload": [Status(429, {"Retry-After": "0"})], "batch": [Status(500)]},
            {"put": [Status(500), Cut(), Cut(after=True), Status(503)], "verify": [Cut()]},
            {"yaml": [Cut()], "resolve": [Status(500)]},
        ],
    )
    def test_what_passes_is_ridden_out(
        self, world: World, hub: HubServer, faults: dict[str, list[Fault]]
    ) -> None:
        for route, ones in faults.items():
            hub.fail(route, *ones)
        mirror_of(world).finish()
        assert same_rows(world, hub_folder())
        assert len(hub.of("put")) <= 8 + len(faults.get("put", []))

    def test_a_commit_by_somebody_else_is_built_upon(self, world: World, hub: HubServer) -> None:
        mirror = mirror_of(world)
        mirror.check()
        commit = mirror.repository.commit
        others = iter(["a", "b"])

        def raced(*arguments, **options):
            if (name := next(others, None)) is not None:
                hub.put_files(REPO, {f"notes-{name}.txt": b"by somebody else"})
            return commit(*arguments, **options)

        mirror.repository.commit = raced
        mirror.finish()
        assert {"notes-a.txt", "notes-b.txt", "manifest.json"} <= set(hub.files(REPO))
        assert len(hub.of("put")) == 8

    def test_one_that_lasts_is_told_and_costs_no_more_than_the_rest(
        self, world: World, hub: HubServer
    ) -> None:
        hub.fail("commit", *[Status(503)] * 3)
        mirror = mirror_of(world)
        with pytest.raises(HubBusyError, match="asks to come back later: got status 503 to write"):
            mirror.finish()
        assert (len(hub.of("commit")), mirror.lacking) == (3, 11)
        puts = len(hub.of("put"))
        mirror_of(world).finish()
        assert len(hub.of("put")) == puts  # sent, and not committed before
        assert same_rows(world, hub_folder())

    def test_it_waits_as_long_as_the_hub_says(self, world: World, hub: HubServer) -> None:
        hub.fail("commit", Status(429, {"Retry-After": "1"}))
        started = time.monotonic()
        mirror_of(world).finish()
        assert time.monotonic() - started >= 1.0
        hub.fail("info", Status(429, {"Retry-After": "3600"}))
        world.put("new")
        world.build()
        with pytest.raises(HubBusyError) as caught:
            mirror_of(world).finish()
        assert caught.value.after_s == 3600

    def test_a_stale_commit_ends_some_time(self, world: World, hub: HubServer) -> None:
        hub.fail("commit", *[Status(412)] * 3)
        with pytest.raises(StaleWriteError, match="someone else wrote first: got status 412"):
            mirror_of(world).finish()

    @pytest.mark.parametrize("code", [401, 403])
    def test_what_is_not_allowed_is_not_tried_again(
        self, world: World, hub: HubServer, code: int
    ) -> None:
        hub.fail("commit", Status(code))
        with pytest.raises(
            StoragePermissionError, match=f"not allowed to write: got status {code}"
        ):
            mirror_of(world).finish()
        assert len(hub.of("commit")) == 1

    def test_other_refusals_are_told(self, world: World, hub: HubServer) -> None:
        hub.fail("commit", Status(413))
        with pytest.raises(StorageError, match="cannot write: got status 413"):
            mirror_of(world).finish()

    def test_a_wrong_token_is_told_and_not_shown(self, world: World, hub: HubServer) -> None:
        hub.token = "hf_right"
        with pytest.raises(StoragePermissionError) as caught:
            mirror_of(world, hf_token="hf_wrong_and_secret").finish()
        assert "--hf-token" in str(caught.value)
        assert "hf_wrong_and_secret" not in str(caught.value)
        assert caught.value.__cause__ is None
        mirror_of(world, hf_token="hf_right").finish()
        sent_with = {request.authorization for request in hub.of("commit")}
        assert sent_with == {"Bearer hf_right"}

    def test_the_signature_of_an_upload_is_not_shown(self, world: World, hub: HubServer) -> None:
        hub.fail("put", *[Status(400)] * 8)
        with pytest.raises(StorageError) as caught:
            mirror_of(world).finish()
        shown = [caught.value, caught.value.__cause__]
        assert not any(SIGNATURE in f"{error} {error!r}" for error in shown)
        assert "got status 400" in str(caught.value)

    def test_no_hub_at_all(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        config = HubConfig(hf_dataset=REPO)
        away = Mirror(world.folder, config, pace=QUICK, endpoint="http://127.0.0.1:9")
        with pytest.raises(HubBusyError, match=r"the Hub does not answer to read: got Connection"):
            away.finish()
        assert away.lacking is None


class TestOtherCaches:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"split": "evaluation"}, "got split 'evaluation', expected 'development'"),
            ({"audio": CountingAudioEncoder(salt=3)}, "got audio fingerprint"),
        ],
    )
    def test_one_folder_holds_one_cache(
        self, world: World, hub: HubServer, change: dict, words: str
    ) -> None:
        world.build()
        mirror_of(world).finish()
        other = world.twin()
        for name, value in change.items():
            setattr(other, name, value)
        other.build()
        state = hub.files(REPO)
        for act in (Mirror.check, Mirror.send_shards, Mirror.finish):
            with pytest.raises(ConfigError, match="holds another cache in its root") as caught:
                act(mirror_of(other))
            assert words in str(caught.value)
            assert "Choose another --hf-prefix." in str(caught.value)
        assert hub.files(REPO) == state
        mirror_of(other, hf_prefix="mine").finish()
        assert same_rows(other, hub_folder("mine"))

    def test_a_side_embedded_again_by_force_takes_its_place(
        self, world: World, hub: HubServer
    ) -> None:
        world.build()
        mirror_of(world).finish()
        world.audio = CountingAudioEncoder(salt=3)
        world.build(force=True)
        mirror_of(world).finish()
        assert same_rows(world, hub_folder())
