"""Promotion and roll-back: what is named, what is verified, and that of two at once one loses."""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from e2i.errors import (
    CacheError,
    CheckpointError,
    CheckpointNotFoundError,
    NothingPublishedError,
    PublishError,
    SeenClipsError,
    StaleWriteError,
)
from e2i.heads.checkpoint import checkpoint_bytes
from e2i.publishing import promote as promoting
from e2i.publishing.promote import promote, roll_back
from e2i.publishing.published import read_published
from e2i.report.score_records import read_scores
from e2i.store_layout import join_url
from published_world import DATE, QUICK, NamedText, PublishedWorld, make_world
from s3_server import S3Server


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def world() -> PublishedWorld:
    return make_world(f"memory://published-tests/{uuid.uuid4().hex}")


def test_what_is_published_is_named_with_its_digests(world: PublishedWorld) -> None:
    done = world.publish()
    assert done.changed
    assert done.former is None
    content = json.loads(world.store.read("published.json"))
    current = content["current"]
    data = world.store.read(f"published/{current['key']}/checkpoint.safetensors")
    assert data == checkpoint_bytes(world.trained)
    assert current["checkpoint"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert current["checkpoint"]["url"].endswith(f"{current['key']}/checkpoint.safetensors")
    assert current["checkpoint"]["source"] == join_url(
        world.store_url, "checkpoints", "heads.safetensors"
    )
    roles = {cache["role"]: cache for cache in current["caches"]}
    assert set(roles) == {"evaluation", "train", "validation"}
    assert roles["evaluation"]["manifest_sha256"] == world.cache.manifest_sha256
    assert roles["train"]["split"] == "development"
    assert {cache["audio_fingerprint"] for cache in current["caches"]} == {
        world.trained.record.audio_fingerprint
    }
    assert current["date"] == DATE
    assert len(current["code_sha256"]) == 64
    score = current["scores"]["text_to_audio_R@1"]
    assert score["chance"] < score["low"] <= score["value"] <= score["high"]
    assert (current["number"], current["former"], content["earlier"]) == (1, None, [])


def test_its_scores_lie_beside_the_copy(world: PublishedWorld) -> None:
    promotion = world.publish().promotion
    folder = world.store.folder(promotion.folder)
    scores = read_scores(folder, "scores.json")
    assert scores.content["checkpoints"][0]["sha256"] == promotion.checkpoint.sha256
    assert folder.info("scores/text_to_audio.parquet") is not None


def test_training_anew_does_not_touch_what_is_published(world: PublishedWorld) -> None:
    promotion = world.publish().promotion
    world.save("heads", world.spoiled())
    assert promoting.checkpoint_fault(world.store, promotion) == ""


def test_the_same_again_changes_nothing(world: PublishedWorld) -> None:
    world.publish()
    before = world.store.read("published.json")
    again = world.publish()
    assert not again.changed
    assert again.notes == ("It is published already.",)
    assert world.store.read("published.json") == before


def test_a_damaged_copy_is_mended_by_publishing_again(world: PublishedWorld) -> None:
    promotion = world.publish().promotion
    world.store.write(f"{promotion.folder}/checkpoint.safetensors", b"spoiled")
    again = world.publish()
    assert again.notes == (
        "Its copy in the store was not what was published, and is written anew.",
    )
    assert again.promotion == promotion
    assert promoting.checkpoint_fault(world.store, promotion) == ""


def test_a_roll_back_leads_to_what_was_before_and_no_further(world: PublishedWorld) -> None:
    with pytest.raises(PublishError, match="nothing to roll back to: got nothing published in"):
        roll_back(world.store_url, date=DATE)
    first = world.publish().promotion
    second = world.publish(world.spoiled(0.1)).promotion
    third = world.publish(world.spoiled(0.2)).promotion
    assert (second.former, third.former) == (1, 2)
    assert roll_back(world.store_url, date=DATE).promotion == second
    assert roll_back(world.store_url, date=DATE).promotion == first
    with pytest.raises(PublishError, match="nothing to roll back to: got promotion 1 in"):
        roll_back(world.store_url, date=DATE)
    published = read_published(world.store)
    assert [one.number for one in published.earlier] == [2, 3]
    assert [(one.kind, one.number) for one in published.changes] == [
        ("promoted", 1), ("promoted", 2), ("promoted", 3), ("rolled back", 2), ("rolled back", 1),
    ]  # fmt: skip
    fourth = world.publish(world.spoiled(0.3)).promotion
    assert (fourth.number, fourth.former) == (4, 1)
    assert roll_back(world.store_url, date=DATE).promotion == first


def test_a_roll_back_checks_what_it_leads_to(world: PublishedWorld) -> None:
    first = world.publish().promotion
    world.publish(world.spoiled(0.1))
    name = f"{first.folder}/checkpoint.safetensors"
    kept = world.store.read(name)
    world.store.write(name, kept[:-1])
    with pytest.raises(PublishError, match="former checkpoint is not what was published: got sha"):
        roll_back(world.store_url, date=DATE)
    world.store.delete(name)
    with pytest.raises(PublishError, match="not what was published: got no memory"):
        roll_back(world.store_url, date=DATE)
    world.store.write(name, kept)
    world.evaluation.text.salt = 1
    world.evaluation.build(force=True)
    with pytest.raises(PublishError, match="embedded by other encoders since: got"):
        roll_back(world.store_url, date=DATE)
    assert read_published(world.store).current.number == 2


def test_nothing_is_published_before(world: PublishedWorld) -> None:
    with pytest.raises(NothingPublishedError, match=r"nothing is published: got no published\.js"):
        read_published(world.store)
    world.store.write("published.json", b"{}")
    with pytest.raises(PublishError, match=r"published\.json cannot be read: got current: Field"):
        read_published(world.store)


def test_what_is_not_sound_is_not_promoted(world: PublishedWorld) -> None:
    good = world.save("heads", world.trained)

    def publish(url: str = good, cache_url: str = world.cache_url) -> None:
        promote(world.store_url, url, cache_url, QUICK, device="cpu", date=DATE)

    with pytest.raises(CheckpointNotFoundError, match="there is no checkpoint: got"):
        publish(join_url(world.store_url, "checkpoints", "none.safetensors"))
    world.store.write("checkpoints/cut.safetensors", checkpoint_bytes(world.trained)[:-3])
    with pytest.raises(CheckpointError, match="truncated or no safetensors file"):
        publish(join_url(world.store_url, "checkpoints", "cut.safetensors"))
    seen = join_url(world.store_url, "embeddings", "validation")
    with pytest.raises(SeenClipsError) as refused:
        publish(cache_url=seen)
    assert str(refused.value) == (
        "nothing is published by scores on clips that were trained or selected on: got "
        f"{seen} for {good}, expected a cache that it has not seen. Give another one as "
        "--cache-dir."
    )
    shard = world.store.files("embeddings/development/audio")[0]
    data = bytearray(world.store.read(shard.name))
    data[len(data) // 2] ^= 1
    world.store.write(shard.name, bytes(data))
    with pytest.raises(CacheError, match=r"not as it was written: got 1 faults in .*development"):
        publish()
    assert world.store.info("published.json") is None


def test_a_training_cache_that_is_elsewhere_is_said(world: PublishedWorld) -> None:
    for file in world.store.files("embeddings/development"):
        world.store.delete(file.name)
    done = world.publish()
    assert [cache.role for cache in done.promotion.caches] == ["evaluation", "validation"]
    assert done.notes[-1] == "The cache of data/development is not beside the other one."


def test_a_training_cache_by_other_encoders_is_not_named(world: PublishedWorld) -> None:
    folder = world.store.folder("embeddings/validation")
    other = replace(
        world.evaluation,
        folder=folder,
        audio_root=world.store.folder("data/validation"),
        split="validation",
        texts={},
        contents={},
        text=NamedText(salt=1),
    )
    other.put("validation 000 #odd%20&.wav")
    other.build(force=True)
    done = world.publish()
    assert [cache.role for cache in done.promotion.caches] == ["evaluation", "train"]
    assert done.notes[-1] == (
        "The cache of data/validation was embedded by other encoders since, so it is not named."
    )


@pytest.fixture(params=["memory", "disk", "s3"])
def store_url(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """A store of each kind."""
    if request.param == "disk":
        return str(tmp_path)
    if request.param == "memory":
        return f"memory://published-tests/{uuid.uuid4().hex}"
    server: S3Server = request.getfixturevalue("s3_server")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return f"{server.url}/{uuid.uuid4().hex}"


def test_one_of_two_at_once_loses(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(store_url, clips=12)
    world.publish()
    urls = [world.save(name, world.spoiled(noise)) for name, noise in (("a", 0.1), ("b", 0.2))]
    both_have_read = threading.Barrier(2, timeout=60)
    replace_published = promoting.replace_published

    def replace_together(*arguments: object) -> None:
        both_have_read.wait()
        replace_published(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(promoting, "replace_published", replace_together)
    outcomes: list[object] = [None, None]

    def publish(place: int) -> None:
        try:
            outcomes[place] = promote(
                store_url, urls[place], world.cache_url, QUICK, device="cpu", date=DATE
            ).promotion
        except StaleWriteError as error:
            outcomes[place] = error

    threads = [threading.Thread(target=publish, args=(place,)) for place in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (lost,) = [one for one in outcomes if isinstance(one, StaleWriteError)]
    (won,) = [one for one in outcomes if not isinstance(one, StaleWriteError)]
    assert str(lost).startswith("somebody else published in the meantime: got another ")
    assert "Look at `e2i publish --show`" in str(lost)
    published = read_published(world.store)
    assert published.current == won
    assert [one.number for one in published.earlier] == [1]
    monkeypatch.setattr(promoting, "replace_published", replace_published)
    assert world.publish(world.spoiled(0.3)).promotion.number == 3
