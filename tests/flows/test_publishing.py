"""`publish` and `reevaluate` as they are typed, and what they tell Prefect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import tasks.reevaluating
from plain_program import Said, e2i, plain_program

RATE = 8_000


@pytest.fixture(scope="module", autouse=True)
def _plain() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with plain_program():
        yield
    torch.set_num_threads(threads)


def record(folder: Path, number: int) -> dict[str, object]:
    """A hum, and what is said of it."""
    noise = np.random.default_rng(number).standard_normal(RATE // 4)
    hum = np.sin(2 * np.pi * 100 * (number + 1) * np.arange(RATE // 4) / RATE)
    soundfile.write(folder / f"hum {number}.wav", 0.1 * hum + 0.02 * noise, RATE)
    return {"id": f"id {number}", "audio": f"hum {number}.wav", "text": [f"hum {number}", "a hum"]}


class Store:
    """A store with two caches and a checkpoint, and the calls made on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = str(folder / "store")
        for split, numbers in (("development", range(20)), ("evaluation", range(20, 32))):
            self.describe(split, [record(folder, number) for number in numbers])
            self.say(
                *("cache-embeddings", "--metadata", self.metadata(split), "--split", split),
                *("--cache-dir", f"{self.url}/embeddings/{split}", "--snapshot", "never"),
                *("--audio-encoder", "logmel", "--text-encoder", "hashing", "--no-progress"),
            )
        self.train("heads")

    def metadata(self, split: str) -> str:
        return str(self.folder / f"{split}.json")

    def describe(self, split: str, clips: list[dict[str, object]]) -> None:
        (self.folder / f"{split}.json").write_text(json.dumps(clips))

    def train(self, name: str, *options: str) -> str:
        self.say(
            *("train-projection", "--cache-dir", f"{self.url}/embeddings/development"),
            *("--output-dir", f"{self.folder}/{name}", "--epochs", "2", "--hidden-dim", "8"),
            *("--device", "cpu", "--wandb-mode", "disabled", "--log-dir", f"{self.folder}/logs"),
            *options,
        )
        return f"{self.folder}/{name}/projection_heads.safetensors"

    def say(self, *words: str, code: int = 0) -> Said:
        said = e2i(*words)
        assert said.code == code, said.err
        return said

    def publish(self, *words: str, code: int = 0) -> Said:
        return self.say("publish", "--store-url", self.url, "--device", "cpu", *words, code=code)

    def reevaluate(self, *words: str, code: int = 0) -> Said:
        return self.say(
            *("reevaluate", "--store-url", self.url, "--device", "cpu", "--wandb-mode", "disabled"),
            *("--resamples", "100", "--flips", "99", "--bootstrap-resamples", "50", "--json"),
            *words,
            code=code,
        )

    def record(self, said: Said) -> dict:
        return json.loads(Path(json.loads(said.out)["locations"]["report"]).read_text())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_publish_show_and_roll_back(store: Store) -> None:
    assert "nothing is published: got no published.json" in store.publish("--show", code=1).err
    first = json.loads(store.publish("--checkpoint", store.train("a"), "--json").out)
    assert first["notes"][0] == "In use is promotion 1, the first one."
    assert first["counts"] == {"promotions": 1, "changed": 1}
    assert first["details"]["current"]["checkpoint"]["sha256"]
    assert first["metrics"]["text_to_audio_R@1"]["chance"] == pytest.approx(1 / 12)
    store.publish("--checkpoint", store.train("b", "--seed", "14"))
    shown = json.loads(store.publish("--show", "--json").out)
    assert shown["notes"] == ["In use is promotion 2."]
    assert shown["locations"]["published"] == f"{store.url}/published.json"
    back = store.publish("--rollback")
    assert "In use is promotion 1, again, rolled back from 2." in back.out
    assert "exclude each other" in store.publish("--rollback", "--show", code=2).err
    assert "there is no checkpoint" in store.publish("--checkpoint", "none.pt", code=1).err


def test_a_re_evaluation_brings_the_cache_up_to_date_and_is_on_record(store: Store) -> None:
    assert "nothing is published" in store.reevaluate(code=1).err
    store.publish("--checkpoint", f"{store.folder}/heads/projection_heads.safetensors")
    first = store.reevaluate()
    told = json.loads(first.out)
    assert told["details"]["outcome"] == "unchanged"
    assert told["notes"][0] == "Unchanged since promotion 1."
    assert (told["counts"]["drawn"], told["counts"]["moved"]) == (12, 0)
    assert told["counts"]["embedded"] == 0
    # A new clip, one that is gone, one that changed.
    clips = json.loads(Path(store.metadata("evaluation")).read_text())
    soundfile.write(store.folder / "hum 21.wav", np.full(4000, 0.1), RATE)
    store.describe("evaluation", [*clips[1:], record(store.folder, 40)])
    part = store.record(store.reevaluate())["reevaluation"]
    assert part["cache_update"]["embedded"] == 2
    assert part["evaluation_set"] == {
        "new_clips": 1,
        "gone_clips": 1,
        "changed_recordings": 1,
        "changed_captions": 0,
    }
    assert part["common"] == {"clips": 11, "captions": 22}
    assert part["drift"]["moved"] == []
    index = json.loads((Path(store.url) / "reports" / "reevaluations.json").read_text())
    assert len(index["entries"]) == 2
    assert "does not replace what is stored: got force" in store.reevaluate("--force", code=2).err


def test_what_is_damaged_fails_the_run_and_is_an_event(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[dict] = []
    monkeypatch.setattr(tasks.reevaluating, "emit_event", lambda **event: events.append(event))
    store.publish("--checkpoint", f"{store.folder}/heads/projection_heads.safetensors")
    store.reevaluate()
    assert events == []
    (copy,) = Path(store.url).glob("published/*/checkpoint.safetensors")
    copy.write_bytes(Path(store.train("other", "--seed", "14")).read_bytes())
    said = store.reevaluate(code=1)
    assert said.out == ""
    assert "The checkpoint is not what was published: got sha256" in said.err
    assert f"The record is {store.url}/reports/" in said.err
    (event,) = [one for one in events if one["event"] == "e2i.reevaluation.damaged"]
    assert event["resource"]["prefect.resource.id"].startswith("prefect.flow-run.")
    assert event["payload"]["outcome"] == "damaged"
    assert "not what was published" in event["payload"]["message"]
    events.clear()
    copy.unlink()
    assert "the published checkpoint cannot be read: got no " in store.reevaluate(code=1).err
    (event,) = [one for one in events if one["event"].startswith("e2i.reevaluation.")]
    assert event["event"] == "e2i.reevaluation.damaged"
    assert event["payload"]["message"].endswith("or run `e2i publish --rollback`.")


def test_drift_is_an_event_and_fails_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[dict] = []
    monkeypatch.setattr(tasks.reevaluating, "emit_event", lambda **event: events.append(event))
    store.publish("--checkpoint", f"{store.folder}/heads/projection_heads.safetensors")
    (store.folder / "hum 25.wav").unlink()
    told = json.loads(store.reevaluate("--drift-seed", "3").out)
    assert told["details"]["outcome"] == "drifted"
    assert told["details"]["accepted"] is False
    assert told["details"]["moved"] == ["id 25"]
    assert [event["event"] for event in events] == ["e2i.reevaluation.drifted"]
    assert events[0]["payload"]["moved"] == ["id 25"]
