"""The demo as a user runs it: once, and again at once; and that its score comes from learning."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import PROGRAM
from e2i.cache.embeddings import CachedEmbeddings
from e2i.cache.reader import open_cache
from e2i.datasets.soundscapes.config import SoundscapesConfig
from e2i.datasets.soundscapes.generate import describe
from e2i.datasets.soundscapes.scenes import event_set_oracle
from e2i.heads.config import HeadsConfig
from e2i.retrieval.config import EvaluationConfig
from e2i.storage import Folder
from e2i.training.config import TrainingConfig
from e2i.training.evaluate import evaluate_checkpoint
from e2i.training.train import train_heads

COUNTED = str(Path(__file__).with_name("counted_program.py"))
CHANCE_AT_10 = 0.1


@dataclass(frozen=True)
class Demo:
    """One demo store, and what the two runs printed."""

    store: Path
    first: dict[str, Any]
    again: dict[str, Any]
    embedded_first: int
    embedded_again: int

    def load(self, split: str) -> CachedEmbeddings:
        return open_cache(Folder(self.store / "embeddings" / split)).load()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    root = tmp_path_factory.mktemp("demo")
    log = root / "embedded.log"

    def run() -> tuple[dict[str, Any], int]:
        done = subprocess.run(
            [
                *(sys.executable, COUNTED, str(log), "0", "demo"),
                *("--store-url", str(root / "store"), "--json"),
            ],
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 1
        return json.loads(done.stdout), len(log.read_text().split())

    (first, embedded), (again, embedded_in_all) = run(), run()
    return Demo(root / "store", first, again, embedded, embedded_in_all - embedded)


def test_the_demo_scores_far_above_chance(demo: Demo) -> None:
    score = demo.first["metrics"]["text_to_audio_R@10"]
    assert score["chance"] == pytest.approx(CHANCE_AT_10)
    assert score["value"] >= 0.5
    assert CHANCE_AT_10 < score["low"] <= score["value"] <= score["high"]
    assert Path(demo.first["locations"]["report"]).exists()


def test_nothing_is_done_twice(demo: Demo) -> None:
    assert demo.embedded_first == 520
    assert demo.embedded_again == 0
    for name in ("generated", "embedded", "captions_embedded", "images_rendered"):
        assert demo.first["counts"][name] > 0, name
        assert demo.again["counts"][name] == 0, name
    assert demo.again["counts"]["reused"] == 520
    assert demo.again["metrics"] == demo.first["metrics"]


def _recall_at_10(
    demo: Demo, train: CachedEmbeddings, validation: CachedEmbeddings, epochs: int, lr: float
) -> float:
    training = TrainingConfig(epochs=epochs, lr=lr, device="cpu")
    trained = train_heads([train], validation, HeadsConfig(), training)
    evaluation = evaluate_checkpoint(
        trained.checkpoint, demo.load("evaluation"), EvaluationConfig(bootstrap_resamples=0)
    )
    return evaluation.retrieval.scores["text_to_audio_R@10"].value


def test_captions_shuffled_among_training_clips_give_chance(demo: Demo) -> None:
    rng = np.random.default_rng(5)

    def shuffled(cache: CachedEmbeddings) -> CachedEmbeddings:
        return replace(cache, caption_clip=rng.permutation(len(cache.clip_ids))[cache.caption_clip])

    recall = _recall_at_10(
        demo, shuffled(demo.load("development")), shuffled(demo.load("validation")), 10, 5e-4
    )
    assert abs(recall - CHANCE_AT_10) < 0.08


def test_untrained_heads_give_chance(demo: Demo) -> None:
    recall = _recall_at_10(demo, demo.load("development"), demo.load("validation"), 1, 1e-12)
    assert abs(recall - CHANCE_AT_10) < 0.08


def test_the_set_of_events_alone_does_not_give_it_away() -> None:
    assert event_set_oracle(describe(SoundscapesConfig(), "evaluation")) < 0.5


def test_the_quick_commands_need_no_prefect(demo: Demo) -> None:
    cache = str(demo.store / "embeddings" / "evaluation")
    done = subprocess.run(
        [PROGRAM, "cache", "info", "--cache-dir", cache, "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    info = json.loads(done.stdout)
    assert info["counts"]["clips"] == 100
    assert info["details"]["complete"] is True
