"""What tasks log, by which names."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from e2i.cache.header import CacheHeader, SideHeader
from e2i.code_version import code_version
from e2i.storage import Folder
from e2i.tracking.config import TrackingConfig
from e2i.training.epochs import EpochRecord
from tasks import artifacts, tracking
from tasks.tracking import (
    cache_artifact,
    epoch_values,
    labelled,
    run_facts,
    score_values,
    tags_of,
)


def test_an_epoch() -> None:
    metrics = {"text_to_audio_R@10": 0.5, "val_loss": 2.0}
    epoch = EpochRecord(3, 10, 1e-3, 1.5, metrics, is_best=True, seconds=0.25, pairs_per_s=800.0)
    assert epoch_values(epoch) == {
        "train_loss": 1.5,
        "lr": 1e-3,
        "seconds": 0.25,
        "pairs_per_s": 800.0,
        "validation_text_to_audio_R@10": 0.5,
        "val_loss": 2.0,
    }


def test_scores() -> None:
    metrics = {
        "text_to_audio_R@1": {"value": 0.2, "low": 0.1, "high": 0.3, "chance": 0.01},
        "text_to_audio_median_rank": {"value": 4.0, "low": None, "high": None, "chance": 50.0},
    }
    assert score_values(metrics, "evaluation", seen=False) == {
        "evaluation_text_to_audio_R@1": 0.2,
        "evaluation_text_to_audio_R@1_low": 0.1,
        "evaluation_text_to_audio_R@1_high": 0.3,
        "evaluation_text_to_audio_median_rank": 4.0,
    }


def test_a_log_says_which_code_made_it() -> None:
    code = run_facts()["code"]
    assert code == code_version()
    assert len(code["code_sha256"]) == 64


def test_a_run_is_tagged_with_and_refers_to_its_cache(tmp_path: Path) -> None:
    names = ("logmel", "hashing")
    sides = [SideHeader(fingerprint=f * 16, dim=4, settings={"encoder": n})
             for f, n in zip("ab", names, strict=True)]  # fmt: skip
    header = CacheHeader(dataset="sounds", split="all", audio=sides[0], text=sides[1])
    cache = SimpleNamespace(header=header, folder=Folder(tmp_path), manifest_sha256="0f")
    assert tags_of([cache]) == ["sounds", "all", *names]  # type: ignore[list-item]
    artifact = cache_artifact(cache)  # type: ignore[arg-type]
    assert (artifact.name, artifact.kind) == ("cache-sounds-all", "cache")
    assert (artifact.url, artifact.sha256) == (str(tmp_path), "0f")
    assert artifact.facts == {"audio_fingerprint": "a" * 16, "text_fingerprint": "b" * 16}


def test_the_artifact_of_links_is_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, str]] = []
    monkeypatch.setattr(artifacts, "create_markdown_artifact", lambda **values: made.append(values))
    links = {"wandb": "https://w/1", "log": "/logs/a.jsonl"}
    artifacts.links_artifact("eval evaluation vision", links, {"code_sha256": "0f"})
    assert made[0]["key"] == "provenance-eval-evaluation-vision"
    assert made[0]["markdown"].splitlines()[2:] == [
        "| wandb | <https://w/1> |",
        "| log | `/logs/a.jsonl` |",
        "| code sha256 | `0f` |",
    ]


def test_the_arms_of_one_run_do_not_overwrite_each_other() -> None:
    assert labelled({"lr": 1.0}, "") == {"lr": 1.0}
    assert labelled({"lr": 2.0}, "vision") == {"vision_lr": 2.0}


def test_scores_of_seen_clips_have_names_of_their_own() -> None:
    metrics = {"text_to_audio_R@1": {"value": 0.5, "low": 0.4, "high": 0.6, "chance": 0.1}}
    assert score_values(metrics, "evaluation", seen=True) == {
        "evaluation_seen_text_to_audio_R@1": 0.5,
        "evaluation_seen_text_to_audio_R@1_low": 0.4,
        "evaluation_seen_text_to_audio_R@1_high": 0.6,
    }


def test_runs_of_a_sweep_are_runs_of_their_own_in_one_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr(tracking, "get_run_logger", lambda: SimpleNamespace(warning=print))
    monkeypatch.setattr(tracking, "open_tracker", lambda *given: opened.append(given))
    config = TrackingConfig(log_dir=str(tmp_path), run_name="mine", wandb_mode="offline")
    for name, fingerprint in (("mlp-1000-trial-01", "ab" * 16), ("mlp-1000-trial-02", "cd" * 16)):
        tracking.sweep_run_tracker(config, name, fingerprint)
    assert [given[0] for given in opened] == ["sweep", "sweep"]
    assert [given[1].run_name for given in opened] == [
        "mine-mlp-1000-trial-01",
        "mine-mlp-1000-trial-02",
    ]
    assert [given[2].id[-12:] for given in opened] == ["ab" * 6, "cd" * 6]
    assert {(given[2].labels.group, given[2].labels.job_type) for given in opened} == {
        ("mine", "sweep")
    }
