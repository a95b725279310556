"""The commands on the original's own three files, as on a cache."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from e2i.storage import Folder
from original_files import CLIPS, OriginalFiles
from plain_program import Said, e2i, plain_program

QUIET = ("--device", "cpu", "--wandb-mode", "disabled", "--json")


@pytest.fixture(scope="module", autouse=True)
def _program() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with plain_program():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(name: str, **dims: int) -> OriginalFiles:
    files = OriginalFiles(**dims)
    files.metadata["metadata_source"] = f"/sounds/{name}.json"
    files.written(Folder(name))
    return files


def summary(said: Said) -> dict:
    assert said.code == 0, said.err
    return json.loads(said.out)


def test_without_a_checkpoint_equal_dimensions_are_scored() -> None:
    files = written("evaluation", audio_dim=6, text_dim=6)
    files.text = files.audio + 0.01 * files.text
    files.written(Folder("evaluation"))
    call = ("eval-projection", "--cache-dir", "evaluation", "--checkpoint", "none", *QUIET)
    scored = summary(e2i(*call))
    assert scored["counts"] == {"clips": len(CLIPS), "captions": 15}
    assert scored["metrics"]["text_to_audio_R@1"]["value"] == 1.0
    assert scored["metrics"]["text_to_audio_R@1"]["chance"] == pytest.approx(1 / 3)
    assert scored["metrics"]["audio_to_text_R@5"]["value"] == 1.0


def test_without_a_checkpoint_different_dimensions_are_refused() -> None:
    written("evaluation", audio_dim=8, text_dim=6)
    refused = e2i("eval-projection", "--cache-dir", "evaluation", "--checkpoint", "none", *QUIET)
    assert (refused.code, refused.out) == (1, "")
    assert "have to lie in one space: got 8 audio and 6 text dimensions" in refused.err
    assert "Traceback" not in refused.err


def test_heads_are_trained_on_one_split_and_scored_on_another() -> None:
    for split in ("development", "validation", "evaluation"):
        written(split)
    train = ("train-projection", "--cache-dir", "development", "--epochs", "1", *QUIET)
    trained = summary(e2i(*train))
    assert "chosen by text_to_audio_mAP@3 on the cache sounds/validation" in trained["notes"][-1]
    checkpoint = trained["locations"]["checkpoint"]
    score = ("eval-projection", "--checkpoint", checkpoint, *QUIET)
    scored = summary(e2i(*score, "--cache-dir", "evaluation"))
    assert scored["counts"] == {"clips": 3, "captions": 15}
    refused = e2i(*score, "--cache-dir", "development")
    assert (refused.code, refused.out) == (1, "")
    assert "the checkpoint has seen clips of sounds/development" in refused.err


def test_pseudo_images_are_made_of_them(tmp_path: Path) -> None:
    written("development")
    made = summary(e2i("cache-images", "--cache-dir", "development", "--json"))
    assert made["counts"]["images_rendered"] == len(CLIPS) + 15
    assert (tmp_path / "development" / "pseudo_images" / "sheet.png").stat().st_size > 1000


def test_what_they_hold_is_told() -> None:
    written("development")
    told = e2i("cache", "info", "--cache-dir", "development")
    assert told.code == 0, told.err
    assert "sounds development. The cache is whole." in told.out
    assert "audio: AudioEncoder, 8 dimensions" in told.out
