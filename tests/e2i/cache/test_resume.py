"""What is embedded again, and what is not."""

from __future__ import annotations

import os
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cache_world import (
    CountingAudioEncoder,
    CountingTextEncoder,
    World,
    load_waveform,
    new_world,
)

from e2i.cache.embed_audio import embed_audio_chunk
from e2i.cache.embed_text import embed_text_chunk
from e2i.cache.embeddings import CachedEmbeddings
from e2i.cache.plan import shuffled
from e2i.cache.reader import open_cache
from e2i.errors import (
    CacheError,
    CacheIncompleteError,
    FingerprintMismatchError,
    StorageUnavailableError,
)
from e2i.storage import Folder

FIRST, SECOND = "clip 000 #odd%20&.wav", "clip 001 #odd%20&.wav"


def load(world: World) -> CachedEmbeddings:
    return open_cache(world.folder).load()


def check(world: World, failed: tuple[str, ...] = ()) -> None:
    """The cache holds what is wanted, in order, with the current values."""
    rows = load(world)
    clips = [clip for clip in world.clips.clips if clip.clip_id not in failed]
    captions = [caption for clip in clips for caption in clip.captions]
    assert rows.clip_ids == tuple(clip.clip_id for clip in clips)
    assert rows.caption_ids == tuple(caption.caption_id for caption in captions)
    assert rows.captions == tuple(caption.text for caption in captions)
    owners = [rows.clip_ids[index] for index in rows.caption_clip]
    assert owners == [caption.clip_id for caption in captions]
    for row, clip in zip(rows.audio, clips, strict=True):
        assert np.array_equal(row, world.audio.one(world.contents[clip.clip_id]))
    for row, caption in zip(rows.text, captions, strict=True):
        assert np.array_equal(row, world.text.one(caption.text))
    lengths = [len(world.contents[clip.clip_id]) / 8_000 for clip in clips]
    assert rows.duration_s.tolist() == lengths


def test_one_run_embeds_each_thing_once(world: World) -> None:
    summary = world.build()
    check(world)
    audio, text = world.counted()
    assert audio == sorted(world.contents.values())
    assert len(text) == len(set(text)) == 20
    assert (summary.clips_stored, summary.captions_stored, summary.failures) == (10, 20, ())


def test_the_second_run_does_nothing(world: World) -> None:
    world.build()
    world.forget()
    before = world.folder.files()
    summary = world.build()
    assert world.counted() == ([], [])
    assert world.folder.files() == before
    assert not summary.manifest_written


@pytest.mark.parametrize("chunks", range(9))
def test_a_run_that_ended_early_is_resumed(chunks: int) -> None:
    world = new_world(10)
    world.embed(world.plan(), chunks)
    with pytest.raises(CacheIncompleteError) if chunks < 8 else nullcontext():
        world.finish()
    world.build()
    check(world)
    audio, text = world.counted()
    assert audio == sorted(world.contents.values())
    assert len(text) == 20
    whole, resumed = world.twin(), load(world)
    whole.build()
    expected = load(whole)
    assert np.array_equal(resumed.audio, expected.audio)
    assert np.array_equal(resumed.text, expected.text)


def test_another_chunk_size_resumes_as_well(world: World) -> None:
    world.embed(world.plan(4), 2)
    world.build(chunk_size=7)
    check(world)
    assert len(world.counted()[0]) == 10


def test_only_new_and_changed_clips_and_captions_are_embedded(world: World) -> None:
    world.build()
    world.forget()
    world.put("new 1", captions=1)
    world.put("new 2", captions=5)
    world.record(FIRST, b"another sound altogether")
    world.texts[SECOND][1] = "other words"
    world.drop("clip 005 #odd%20&.wav")
    world.build()
    check(world)
    audio, text = world.counted()
    assert audio == sorted([b"another sound altogether", b"sound of new 1", b"sound of new 2"])
    assert text == sorted([*world.texts["new 1"], *world.texts["new 2"], "other words"])


def test_what_went_comes_back_without_embedding(world: World) -> None:
    world.build()
    content, texts = world.contents[FIRST], world.texts[FIRST]
    world.drop(FIRST)
    world.build()
    check(world)
    world.forget()
    world.texts[FIRST], world.contents[FIRST] = texts, content
    world.build()
    check(world)
    assert world.counted() == ([], [])


def test_a_recording_that_changes_back_is_not_embedded(world: World) -> None:
    world.build()
    content = world.contents[FIRST]
    world.record(FIRST, b"for a while")
    world.build()
    check(world)
    world.forget()
    world.record(FIRST, content)
    world.build()
    check(world)
    assert world.counted() == ([], [])


def test_captions_that_swap_places_are_embedded_again(world: World) -> None:
    world.build()
    world.forget()
    world.texts[FIRST].reverse()
    world.build()
    check(world)
    assert world.counted() == ([], sorted(world.texts[FIRST]))


def test_the_order_of_the_metadata_is_the_order_read(world: World) -> None:
    world.build()
    world.forget()
    world.texts = dict(reversed(world.texts.items()))
    world.build()
    check(world)
    assert world.counted() == ([], [])


class TestTouchedOnDisk:
    """A recording whose modification time changes while its bytes do not."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        world = new_world(4, Folder(tmp_path / "cache"), Folder(tmp_path / "audio"))
        world.build()
        world.forget()
        return world

    @pytest.fixture
    def opened(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Names under the audio root that are read."""
        names: list[str] = []
        for method in ("open", "read"):
            original = getattr(Folder, method)

            def noted(self: Folder, name: str, original=original):
                if self.url.endswith("/audio"):
                    names.append(name)
                return original(self, name)

            monkeypatch.setattr(Folder, method, noted)
        return names

    def test_it_is_hashed_once_and_reused(self, world: World, opened: list[str]) -> None:
        os.utime(world.audio_root.local_path / FIRST, ns=(1, 1))
        summary = world.build()
        assert summary.manifest_written
        assert opened == [FIRST]
        summary = world.build()
        assert not summary.manifest_written
        assert opened == [FIRST]
        check(world)
        assert world.counted() == ([], [])

    def test_what_is_untouched_is_not_read(self, world: World, opened: list[str]) -> None:
        world.build()
        assert opened == []

    def test_changed_bytes_of_the_same_length_are_embedded(self, world: World) -> None:
        world.record(FIRST, world.contents[FIRST][::-1])
        world.build()
        check(world)
        assert world.counted() == ([world.contents[FIRST]], [])

    def test_a_recording_that_went_away_keeps_its_row(self, world: World) -> None:
        os.utime(world.audio_root.local_path / FIRST, ns=(1, 1))
        world.build()
        world.audio_root.delete(FIRST)
        world.audio_root.delete(SECOND)
        world.build()
        check(world)
        assert world.counted() == ([], [])

    def test_of_two_rows_the_last_stays_when_the_recording_goes(self, world: World) -> None:
        for content in (b"one", b"two", b"three", b"four"):
            world.record(FIRST, content)
            world.build()
            world.audio_root.delete(FIRST)
            world.build()
            check(world)

    def test_a_link_out_of_the_root_fails(self, world: World, tmp_path: Path) -> None:
        (tmp_path / "outside.wav").write_bytes(b"sound")
        world.put("inside")
        (tmp_path / "audio" / "inside").unlink()
        (tmp_path / "audio" / "inside").symlink_to(tmp_path / "outside.wav")
        summary = world.build()
        assert summary.failures[0].reason.startswith("a recording leads out of the audio root")
        assert world.audio.seen == []


def test_failures_cost_themselves_only_and_are_tried_again(world: World) -> None:
    world.record(FIRST, b"broken file")
    world.record(SECOND, b"refused by the encoder")
    world.put("nan", b"nan")
    world.put("absent")
    world.audio_root.delete("absent")
    summary = world.build()
    failed = (FIRST, SECOND, "nan", "absent")
    check(world, failed)
    assert tuple(failure.id for failure in summary.failures) == failed
    assert [failure.error for failure in summary.failures] == [
        "AudioError", "AudioError", "AudioError", "AudioNotFoundError",
    ]  # fmt: skip
    assert summary.captions_without_clip == 8
    assert world.folder.files("failures") == []
    assert len(world.folder.read("failures.jsonl").splitlines()) == 4

    world.forget()
    again = world.build()
    assert (again.manifest_written, again.manifest_sha256) == (False, summary.manifest_sha256)
    assert world.counted() == ([b"nan"], [])
    for name in failed:
        world.record(name, f"repaired {name}".encode())
    assert world.build().failures == ()
    check(world)
    assert world.folder.info("failures.jsonl") is None
    assert len(world.counted()[0]) == 4


def test_empty_captions_fail(world: World) -> None:
    world.texts[FIRST] = [" \n"]
    world.texts[SECOND][0] = ""
    world.texts["clip 002 #odd%20&.wav"][1] = "half \ud83d"
    summary = world.build()
    assert [failure.id[:8] for failure in summary.failures] == ["clip 000", "clip 001", "clip 002"]
    assert summary.failures[0].reason.startswith("the caption is empty")
    assert "no valid Unicode" in summary.failures[2].reason
    rows = load(world)
    assert FIRST not in rows.clip_ids
    assert len(rows.caption_ids) == 16


def test_a_failure_does_not_hide_a_shard_from_another_run(world: World) -> None:
    world.record(SECOND, b"broken")
    plan = world.plan()
    world.embed(plan)
    other = replace(world, audio=CountingAudioEncoder(), text=CountingTextEncoder())
    results = other.embed(plan)
    assert other.counted() == ([], [])
    assert sum(result.reused for result in results) == 9 + 20
    assert [f.id for result in results for f in result.failed] == [SECOND]
    world.finish()
    assert sum(result.reused for result in other.embed(plan)) == 9 + 20


def test_two_runs_at_once_share_the_work() -> None:
    world = new_world(40)
    other = replace(world, audio=CountingAudioEncoder(), text=CountingTextEncoder())
    barrier, errors = threading.Barrier(2), []

    def run(one: World, seed: str) -> None:
        try:
            plan = shuffled(one.plan(2), seed)
            barrier.wait(10)
            one.embed(plan)
            one.finish()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(w, s)) for w, s in ((world, "a"), (other, "b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    check(world)
    assert len(world.audio.seen) + len(other.audio.seen) < 2 * 40
    alone = world.twin()
    alone.build(2)
    assert np.array_equal(load(world).audio, load(alone).audio)
    assert world.finish().manifest_written is False


def test_of_two_writers_of_one_shard_the_later_drops_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = world.plan().audio_chunks[0]
    other = replace(world, audio=CountingAudioEncoder())

    class Overtaken(CountingAudioEncoder):
        def encode(self, waveforms):
            other.embed(other.plan(), 1)
            return super().encode(waveforms)

    # In one process the encoder's lock would keep the other run waiting.
    monkeypatch.setattr("e2i.cache.embed_audio.encoder_lock", lambda _: nullcontext())
    result = embed_audio_chunk(world.folder, world.audio_root, chunk, Overtaken(), load_waveform)
    assert (result.embedded, result.discarded, result.stored_bytes) == (0, 3, 0)
    assert len(world.folder.files("audio")) == 1


def test_rows_that_stand_twice_are_read_once(world: World) -> None:
    first, second = world.plan(3), world.plan(4)
    world.embed(first)
    world.embed(second)
    world.finish()
    check(world)
    assert len(world.folder.files("audio")) > len(first.audio_chunks)


def test_force_embeds_both_sides_again(world: World) -> None:
    world.build()
    world.forget()
    plan = world.plan(force=True, force_token="run")
    with pytest.raises(CacheIncompleteError, match="of other embeddings than"):
        open_cache(world.folder)
    assert (plan.clips_stored, plan.captions_stored) == (0, 0)
    world.embed(plan)
    assert world.plan(force=True, force_token="run").clips_stored == 10
    world.finish()
    check(world)
    assert [len(seen) for seen in world.counted()] == [10, 20]


def test_force_replaces_the_side_that_differs(world: World) -> None:
    world.build()
    world.forget()
    world.text.salt = 1
    with pytest.raises(FingerprintMismatchError, match="got text salt = 1, expected text salt = 0"):
        world.plan()
    check(replace(world, text=CountingTextEncoder()))
    world.build(force=True)
    check(world)
    assert [len(seen) for seen in world.counted()] == [0, 20]


def test_a_forced_run_that_was_killed_is_resumed_without_force(world: World) -> None:
    world.build()
    world.audio.salt = 5
    world.forget()
    world.embed(world.plan(force=True), 2)
    world.build()
    check(world)
    assert [len(seen) for seen in world.counted()] == [10, 0]


def test_a_chunk_is_for_the_encoder_that_it_was_planned_for(world: World) -> None:
    plan = world.plan()
    world.audio.salt, world.text.salt = 3, 3
    for embed in (
        lambda: embed_audio_chunk(
            world.folder, world.audio_root, plan.audio_chunks[0], world.audio, load_waveform
        ),
        lambda: embed_text_chunk(world.folder, plan.text_chunks[0], world.text),
    ):
        with pytest.raises(FingerprintMismatchError, match="was given to another"):
            embed()


def test_an_encoder_that_lies_about_its_length_is_an_error(world: World) -> None:
    class Longer(CountingTextEncoder):
        def one(self, caption: str):
            return np.zeros(self.dim + 1, np.float32)

    class LongerAudio(CountingAudioEncoder):
        def one(self, content: bytes):
            return np.zeros(self.dim + 1, np.float32)

    plan = world.plan()
    with pytest.raises(CacheError, match=r"text encoder gives .* got \(6, 8\), expected 7"):
        embed_text_chunk(world.folder, plan.text_chunks[0], Longer())
    with pytest.raises(CacheError, match=r"audio encoder gives .* got \(13,\), expected 12"):
        embed_audio_chunk(
            world.folder, world.audio_root, plan.audio_chunks[0], LongerAudio(), load_waveform
        )
    assert world.folder.files("audio") == world.folder.files("text") == []


def test_an_outage_is_no_failure_of_a_clip(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = world.plan()

    def away(*_: object) -> bytes:
        raise StorageUnavailableError("the store does not answer")

    monkeypatch.setattr(Folder, "read", away)
    with pytest.raises(StorageUnavailableError):
        world.embed(plan, 1)
    monkeypatch.undo()
    assert world.folder.files("failures") == []
    world.build()
    check(world)


def test_recordings_beyond_the_memory_budget_are_read_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("e2i.cache.embed_audio._KEPT_BYTES", 30)
    world.build(chunk_size=10)
    check(world)


def test_a_recording_that_changes_between_two_reads_fails(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("e2i.cache.embed_audio._KEPT_BYTES", 0)
    plan, reads, read = world.plan(1), [], Folder.read

    def changing(self: Folder, name: str) -> bytes:
        reads.append(name)
        return read(self, name) + (b"!" * reads.count(name) if name == FIRST else b"")

    monkeypatch.setattr(Folder, "read", changing)
    result = world.embed(plan, 1)[0]
    assert "changed while it was read" in result.failed[0].reason


def test_many_clips_in_small_batches_keep_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("e2i.cache.embed_audio._CLIPS_A_CALL", 4)
    monkeypatch.setattr("e2i.cache.embed_text._CAPTIONS_A_CALL", 3)
    world = new_world(30)
    world.record("clip 010 #odd%20&.wav", b"broken")
    world.record("clip 017 #odd%20&.wav", b"refused")
    world.build(chunk_size=30)
    check(world, ("clip 010 #odd%20&.wav", "clip 017 #odd%20&.wav"))


def test_progress_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("e2i.cache.embed_audio._CLIPS_A_CALL", 4)
    world = new_world(10)
    world.record(FIRST, b"broken")
    world.record(SECOND, b"nan")
    plan, done = world.plan(100), []

    def embed() -> int:
        done.clear()
        embed_audio_chunk(
            world.folder, world.audio_root, plan.audio_chunks[0], world.audio, load_waveform,
            progress=done.append,
        )  # fmt: skip
        return sum(done)

    assert (embed(), embed()) == (10, 10)
    done.clear()
    embed_text_chunk(world.folder, plan.text_chunks[0], world.text, progress=done.append)
    embed_text_chunk(world.folder, plan.text_chunks[0], world.text, progress=done.append)
    assert sum(done) == 40


def test_a_run_that_is_to_stop_stores_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("e2i.cache.embed_audio._CLIPS_A_CALL", 4)
    monkeypatch.setattr("e2i.cache.embed_text._CAPTIONS_A_CALL", 8)
    world = new_world(10)
    world.record(FIRST, b"broken")
    plan = world.plan(10)
    audio = embed_audio_chunk(
        world.folder, world.audio_root, plan.audio_chunks[0], world.audio, load_waveform,
        stop=lambda: len(world.audio.seen) >= 4,
    )  # fmt: skip
    text = embed_text_chunk(
        world.folder, plan.text_chunks[0], world.text, stop=lambda: len(world.text.seen) >= 8
    )
    assert (audio.embedded, len(audio.failed), audio.left) == (4, 1, 5)
    assert (text.embedded, text.left) == (8, 12)
    world.build(10)
    check(world, (FIRST,))
    assert [len(seen) for seen in world.counted()] == [9, 20]


def test_an_encoder_runs_one_forward_at_a_time(world: World) -> None:
    running, most = [], []

    class Watched(CountingAudioEncoder):
        def encode(self, waveforms):
            running.append(1)
            most.append(len(running))
            threading.Event().wait(0.01)
            running.pop()
            return super().encode(waveforms)

    encoder = Watched()
    threads = [
        threading.Thread(
            target=embed_audio_chunk,
            args=(world.folder, world.audio_root, chunk, encoder, load_waveform),
        )
        for chunk in world.plan(2).audio_chunks
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(most) == 5
