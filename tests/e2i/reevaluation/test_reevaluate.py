"""Re-evaluation: when a result is accepted, what drift shows, and what is on record."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from e2i.errors import (
    CheckpointError,
    PublishError,
    ReportError,
    ReportNotFoundError,
    StaleWriteError,
)
from e2i.heads.checkpoint import checkpoint_bytes
from e2i.publishing.published import read_published
from e2i.reevaluation.config import ReevaluationConfig
from e2i.reevaluation.drift import Drift, draw_clips, find_drift
from e2i.reevaluation.records import IndexEntry, add_to_index, read_index
from e2i.reevaluation.reevaluate import HowToReevaluate, Recorded, RunIdentity, reevaluate
from e2i.report.score_records import read_scores
from e2i.retrieval.config import ComparisonConfig
from e2i.storage import Folder
from published_world import (
    DATE,
    QUICK,
    NamedAudio,
    NamedText,
    PublishedWorld,
    load_waveform,
    make_world,
)

FIRST = "text_to_audio_mAP@10"
NO_DRIFT = Drift(0)
FEW = ComparisonConfig(resamples=200, flips=999)


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def world() -> PublishedWorld:
    made = make_world(f"memory://reevaluation-tests/{uuid.uuid4().hex}")
    made.publish()
    return made


def again(
    world: PublishedWorld,
    run_id: str = "",
    *,
    drift: Drift = NO_DRIFT,
    date: str = DATE,
    **options: object,
) -> Recorded:
    """One re-evaluation of what is published."""
    how = HowToReevaluate(ReevaluationConfig(**options), QUICK, FEW, None, "cpu")
    return reevaluate(
        world.store_url,
        read_published(world.store),
        world.cache,
        drift,
        how,
        run=RunIdentity(run_id or uuid.uuid4().hex, date),
        counts={"embedded": 0},
    )


def drifted(world: PublishedWorld, sample: int = 100, seed: int = 0) -> Drift:
    cache = world.cache
    return find_drift(
        cache,
        cache.load(),
        world.evaluation.clips,
        (world.evaluation.audio, world.evaluation.text),
        load_waveform,
        sample=sample,
        seed=seed,
    )


def test_the_same_checkpoint_is_unchanged_and_accepted(world: PublishedWorld) -> None:
    first = again(world, "run 1")
    assert first.notes == ("Unchanged since promotion 1.",)
    assert first.result.verdict.outcome == "unchanged"
    assert first.result.verdict.accepted
    second = again(world, "run 2", date="2026-11-27T02:00:00Z")
    assert second.notes == ("Unchanged since 2026-11-26.json.",)
    index = read_index(world.store.folder("reports"))
    assert [(one.name, one.outcome, one.accepted) for one in index.entries] == [
        ("2026-11-26", "unchanged", True),
        ("2026-11-27", "unchanged", True),
    ]
    promotion = read_published(world.store).current
    # What was ranked is the same, so it is stored once.
    assert {one.scored for one in index.entries} == {f"{promotion.folder}/scored.parquet"}
    assert second.url.endswith("/reports/2026-11-27.json")
    record = read_scores(world.store.folder("reports"), "2026-11-27.json")
    for table in record.content["queries"].values():
        assert world.store.info(f"reports/{table}") is not None
    part = record.content["reevaluation"]
    assert part["reference"]["name"] == "2026-11-26.json"
    assert part["differences"][FIRST]["value"] == 0
    assert part["promotion"]["number"] == 1
    assert part["cache_update"] == {"embedded": 0}


def test_a_spoiled_checkpoint_drops_and_the_result_stays_with_the_former(
    world: PublishedWorld,
) -> None:
    again(world)
    world.publish(world.spoiled())
    found = again(world, date="2026-11-27T02:00:00Z")
    verdict = found.result.verdict
    assert (verdict.outcome, verdict.accepted, verdict.failed) == ("dropped", False, True)
    assert FIRST in verdict.dropped
    one = found.result.comparison.differences[FIRST]
    assert one.value < -0.1
    assert found.notes[0].startswith("Dropped since 2026-11-26.json by more than 0.01: ")
    words = f"{FIRST} fell by {-one.value:.3f} ({one.second:.3f} to {one.first:.3f}, 95 % interval "
    assert words + f"{-one.high:.3f} to {-one.low:.3f}, p = {one.p_holm:.4f})" in found.notes[0]
    assert found.notes[1] == (
        "The published checkpoint changed since 2026-11-26.json: it is that of promotion 2 now, "
        "and was that of 1."
    )
    repeated = again(world, date="2026-11-28T02:00:00Z")
    assert repeated.result.reference.name == "2026-11-26.json"
    by_hand = again(world, date="2026-11-29T02:00:00Z", accept=True)
    assert (by_hand.result.verdict.accepted, by_hand.result.verdict.failed) == (True, False)
    assert by_hand.notes[0].endswith("It was accepted by hand.")
    after = again(world, date="2026-11-30T02:00:00Z")
    assert after.notes == ("Unchanged since 2026-11-29.json.",)


def test_before_the_first_one_the_row_of_promotions_is_compared_with_its_first(
    world: PublishedWorld,
) -> None:
    for noise in (2.9, 3.0):
        world.publish(world.spoiled(noise))
    found = again(world)
    assert found.result.reference.name == "promotion 1"
    assert found.result.verdict.outcome == "dropped"
    assert found.notes[1] == (
        "The published checkpoint changed since promotion 1: it is that of promotion 3 now, and "
        "was that of 1."
    )


def test_a_published_file_that_was_overwritten_is_scored_and_never_accepted(
    world: PublishedWorld,
) -> None:
    promotion = read_published(world.store).current
    name = f"{promotion.folder}/checkpoint.safetensors"
    world.store.write(name, checkpoint_bytes(world.spoiled()))
    found = again(world, accept=True)
    verdict = found.result.verdict
    assert (verdict.outcome, verdict.accepted, verdict.failed) == ("damaged", False, True)
    assert found.notes[0].startswith("The checkpoint is not what was published: got sha256 ")
    assert f"{FIRST} fell by " in found.notes[0]


def test_a_published_file_that_cannot_be_read_is_told_with_the_way_back(
    world: PublishedWorld,
) -> None:
    promotion = read_published(world.store).current
    name, url = f"{promotion.folder}/checkpoint.safetensors", promotion.checkpoint.url
    rest = (
        f"expected sha256 {promotion.checkpoint.sha256} as it was published. Publish it again, or "
        "run `e2i publish --rollback`."
    )
    world.store.write(name, world.store.read(name)[:-3])
    with pytest.raises(PublishError) as cut:
        again(world)
    assert str(cut.value).startswith("the published checkpoint cannot be read: got sha256 ")
    assert str(cut.value).endswith(f" of {url}, {rest}")
    world.store.delete(name)
    with pytest.raises(PublishError) as gone:
        again(world)
    assert str(gone.value) == f"the published checkpoint cannot be read: got no {url}, {rest}"


def test_a_published_file_of_another_version_is_called_that(
    world: PublishedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("e2i.heads.checkpoint.SCHEMA_VERSION", 2)
    with pytest.raises(CheckpointError, match="written by another version of e2i"):
        again(world)


def test_a_sample_anew_is_what_is_stored(world: PublishedWorld) -> None:
    found = drifted(world)
    assert (found.clips, found.captions, found.moved) == (40, 80, ())
    assert found.largest == 0.0
    few = drifted(world, sample=5, seed=3)
    assert (few.clips, few.captions, few.seed) == (5, 10, 3)
    assert drifted(world, sample=0) == Drift(0)


def test_code_that_embeds_otherwise_shows_by_name(
    world: PublishedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip_id = world.cache.load().clip_ids[7]
    one = NamedAudio.one

    def moved(encoder: NamedAudio, content: bytes) -> NDArray[np.float32]:
        # Half the tolerance everywhere, and twice the tolerance for one clip.
        factor = 2e-5 if content == f"sound of {clip_id}".encode() else 0.5e-5
        return one(encoder, content) * np.float32(1 + factor)

    monkeypatch.setattr(NamedAudio, "one", moved)
    found = drifted(world)
    assert found.moved_clips == (clip_id,)
    assert found.moved[0].distance == pytest.approx(2e-5, rel=0.05)
    assert found.largest == found.moved[0].distance
    result = again(world, drift=found)
    verdict = result.result.verdict
    assert (verdict.outcome, verdict.accepted, verdict.failed) == ("drifted", False, False)
    assert result.notes[0] == "Embeddings moved, and so the result stays with the former."
    assert result.notes[1] == (
        f"Of 40 clips and 80 captions embedded anew 1 moved: {clip_id} (the same recording is "
        "embedded otherwise). Where that is meant, `e2i cache-embeddings --force` embeds the cache "
        "anew."
    )
    record = read_scores(world.store.folder("reports"), "2026-11-26.json")
    assert record.content["reevaluation"]["drift"]["moved"][0]["id"] == clip_id


def test_captions_and_recordings_that_moved_show_by_name(
    world: PublishedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = world.evaluation
    first, second, *_ = world.cache.load().clip_ids
    caption = f"caption 0 of {second}"
    one = NamedText.one

    def moved(encoder: NamedText, words: str) -> NDArray[np.float32]:
        return one(encoder, words) + (1 if words == caption else 0)

    monkeypatch.setattr(NamedText, "one", moved)
    evaluation.audio_root.write(first, b"another sound")
    evaluation.audio_root.delete(second)
    found = drifted(world)
    assert [(one.side, one.id) for one in found.moved] == [
        ("audio", second),
        ("audio", first),
        ("text", f"{second}#1"),
    ]
    assert "cannot be embedded any more: there is no recording: got" in found.moved[0].reason
    assert found.moved[1].reason == "its recording has other bytes, under the same size and date"
    assert found.moved[2].reason == "the same words are embedded otherwise"


def test_samples_differ_by_seed_and_not_otherwise() -> None:
    ids = [str(number) for number in range(1000)]
    assert draw_clips(ids, 20, 1) == draw_clips(ids, 20, 1)
    assert draw_clips(ids, 20, 1) != draw_clips(ids, 20, 2)
    assert len(set(draw_clips(ids, 20, 1))) == 20
    assert draw_clips(ids, 5000, 1) == ids
    drawn = [name for seed in range(200) for name in draw_clips(ids, 50, seed)]
    assert len(set(drawn)) == 1000  # each is drawn at some time: (1 - 0.05)^200 = 4e-5


def test_a_set_that_changed_is_compared_on_what_is_common(world: PublishedWorld) -> None:
    again(world)
    evaluation = world.evaluation
    names = list(evaluation.texts)
    evaluation.drop(names[0])
    evaluation.record(names[1], b"sound of " + names[1].encode() + b"!")
    evaluation.texts[names[2]][0] = f"a word of {names[2]}"
    for number in range(30):  # more candidates: the ranks among all of them get worse
        evaluation.put(f"new {number}", f"sound of new {number}".encode())
    evaluation.build()
    found = again(world, date="2026-11-27T02:00:00Z")
    comparison = found.result.comparison
    assert (comparison.num_clips, comparison.num_captions) == (39, 77)
    changes = comparison.changes
    assert (changes.new_clips, changes.gone_clips) == (30, 1)
    assert (changes.changed_recordings, changes.changed_captions) == (1, 1)
    assert found.notes[1] == (
        "The evaluation set changed since 2026-11-26.json: clips that are new 30, gone 1, with "
        "another recording 1; other captions 1. Compared are the 39 clips and 77 captions that "
        "both have."
    )
    one = comparison.differences["text_to_audio_median_rank"]
    full = found.metrics["text_to_audio_median_rank"]["value"]
    assert one.first < full, "ranked among the common clips alone"


def test_a_set_without_anything_in_common_needs_a_hand(world: PublishedWorld) -> None:
    evaluation = world.evaluation
    for name in list(evaluation.texts):
        evaluation.drop(name)
    for number in range(12):
        evaluation.put(f"new {number}")
    evaluation.build()
    found = again(world)
    verdict = found.result.verdict
    assert (verdict.outcome, verdict.accepted, verdict.failed) == ("incomparable", False, True)
    assert found.notes[0] == (
        "No clip is in common with promotion 1: nothing can be compared. `e2i reevaluate --accept` "
        "takes the result for later ones."
    )
    again(world, accept=True, date="2026-11-27T02:00:00Z")
    after = again(world, date="2026-11-28T02:00:00Z")
    assert after.notes == ("Unchanged since 2026-11-27.json.",)


def test_several_records_a_day_and_a_run_that_is_repeated(world: PublishedWorld) -> None:
    first, second = again(world, "run 1"), again(world, "run 2")
    assert second.url.endswith("/2026-11-26-2.json")
    repeated = again(world, "run 1")
    assert repeated.url == first.url
    assert repeated.result.reference.name == "promotion 1", (
        "not compared with itself, or later ones"
    )
    reports = world.store.folder("reports")
    assert [one.run_id for one in read_index(reports).entries] == ["run 1", "run 2"]
    world.store.write("reports/2026-11-27.json", b"something else")
    other = again(world, "run 3", date="2026-11-27T02:00:00Z")
    assert other.url.endswith("/2026-11-27-2.json")
    assert world.store.read("reports/2026-11-27.json") == b"something else"


def test_a_former_result_that_is_gone_is_named(world: PublishedWorld) -> None:
    promotion = read_published(world.store).current
    name = f"{promotion.folder}/scored.parquet"
    world.store.write(name, b"no table")
    with pytest.raises(ReportError, match="what was scored before cannot be read: got"):
        again(world)
    world.store.delete(name)
    with pytest.raises(ReportNotFoundError, match="what was scored before is gone: got no memory"):
        again(world)


@dataclass
class _Busy:
    """A folder in which somebody else always writes first, so many times."""

    folder: Folder
    times: int

    def replace(self, name: str, data: bytes, version: str | None) -> str:
        if self.times:
            self.times -= 1
            raise StaleWriteError("somebody was first")
        return self.folder.replace(name, data, version)

    def __getattr__(self, name: str) -> object:
        return getattr(self.folder, name)


def test_entries_are_added_beside_those_of_others_and_the_index_is_named_where_it_is_broken(
    world: PublishedWorld,
) -> None:
    reports = world.store.folder("reports")
    again(world, "run 1")
    entry: IndexEntry = read_index(reports).entries[0].model_copy(update={"run_id": "run 2"})
    add_to_index(_Busy(reports, 3), entry)  # type: ignore[arg-type]
    assert [one.run_id for one in read_index(reports).entries] == ["run 1", "run 2"]
    with pytest.raises(StaleWriteError, match=r"reevaluations\.json keeps changing: got 20 writes"):
        add_to_index(_Busy(reports, 100), entry)  # type: ignore[arg-type]
    reports.write("reevaluations.json", json.dumps({"entries": [{}]}).encode())
    with pytest.raises(ReportError, match=r"reevaluations\.json cannot be read: got entries"):
        read_index(reports)
