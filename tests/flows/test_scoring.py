"""The options of an evaluation and `compare`, as they are typed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from option_outcomes import CHECKPOINT_NAME, NUM_CLIPS, World

from plain_program import e2i


def evaluated(world: World, folder: Path, *options: str) -> dict[str, dict]:
    said = e2i(
        *("eval-projection", "--cache-dir", f"{world.root}/embeddings/clips", "--device", "cpu"),
        *("--wandb-mode", "disabled", "--bootstrap-resamples", "20", "--json"),
        *("--log-dir", f"{folder}/logs", "--reports-dir", f"{folder}/reports", *options),
    )
    assert said.code == 0, said.err
    return json.loads(said.out)


def heads(world: World, other: str = "") -> str:
    return f"{world.root}/checkpoints/{other}{CHECKPOINT_NAME}"


def test_everything_is_written_and_says_seen(world: World, tmp_path: Path) -> None:
    relevance = tmp_path / "relevance.csv"
    relevance.write_text("query,audio_filenames\nhum 0,\"['id 0', 'id 3']\"\nhum 1,['id 1']\n")
    result = evaluated(
        world,
        tmp_path,
        *("--ensemble", heads(world), heads(world, "other/"), "--allow-seen", "--run-name", "both"),
        *("--relevance", str(relevance), "--embeddings-out", f"{tmp_path}/e.parquet"),
        *("--distractors", f"{world.root}/embeddings/others"),
    )
    assert result["counts"] == {"clips": NUM_CLIPS, "captions": 2 * NUM_CLIPS}
    assert result["details"] == {"seen": True}
    assert result["notes"][0].startswith("Seen: ")
    assert "text_to_audio_multi_mAP@16" in result["metrics"]
    assert result["locations"]["checkpoint_2"] == heads(world, "other/")
    assert result["locations"]["scores"] == f"{tmp_path}/reports/both.json"
    record = json.loads((tmp_path / "reports" / "both.json").read_text())
    assert record["seen"] is True
    assert len(record["checkpoints"]) == 2
    for table in record["queries"].values():
        assert (tmp_path / "reports" / table).exists()
    log = (tmp_path / "logs" / "eval" / "both.jsonl").read_text()
    assert "clips_seen_text_to_audio_R@1" in log
    assert "clips_text_to_audio_R@1" not in log


def test_two_checkpoints_are_compared_by_record_and_by_file(world: World, tmp_path: Path) -> None:
    for name, path in (("a", heads(world)), ("b", heads(world, "other/"))):
        evaluated(world, tmp_path, "--checkpoint", path, "--allow-seen", "--run-name", name)
    reports = f"{tmp_path}/reports"
    said = e2i("compare", f"{reports}/a.json", f"{reports}/b.json", "--json", "--flips", "199")
    assert said.code == 0, said.err
    result = json.loads(said.out)
    score = result["metrics"]["text_to_audio_mAP@10"]
    assert score["value"] == pytest.approx(score["first"] - score["second"])
    assert 0 < score["p"] <= 1
    assert result["details"] == {"seen": True}
    typed = ("compare", heads(world), heads(world, "other/"), "--reports-dir", reports)
    said = e2i(*typed, "--flips", "199")
    assert said.code == 0, said.err
    assert "p (Holm)" in said.out
    assert "Seen: " in said.out


def test_hubs_are_corrected_by_the_training_cache(world: World, tmp_path: Path) -> None:
    """One cache: its test part is scored, the bank is what was trained on."""
    options = ("--checkpoint", heads(world), "--predictions", f"{tmp_path}/p.csv")
    result = evaluated(world, tmp_path, "--qb-norm", *options)
    assert "as the bank" in result["notes"][-1]
    assert result["details"] == {"seen": False}
    rows = (tmp_path / "p.csv").read_text().splitlines()
    assert len(rows) == 1 + result["counts"]["captions"]
    assert rows[0].startswith("index,id ")
