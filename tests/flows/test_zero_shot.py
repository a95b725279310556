"""Search without training: CLAP on both sides, scored without a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from e2i.cache.reader import open_cache
from e2i.encoders.config import EncodersConfig
from e2i.encoders.load import load_text_encoder
from e2i.storage import Folder
from plain_program import Said, e2i, plain_program
from tiny_models import make_clap, make_roberta

QUIET = ("--device", "cpu", "--json")
CAPTIONS = [f"{what} {where}" for what in ("a dog", "rain", "a bird") for where in ("near", "far")]


@pytest.fixture(scope="module")
def clap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clap(tmp_path_factory.mktemp("models") / "clap")


@pytest.fixture(autouse=True)
def _program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    rng = np.random.default_rng(0)
    entries = []
    for number, caption in enumerate(CAPTIONS):
        samples = np.sin(np.arange(4000) * (number + 1) / 9) * 0.3 + rng.normal(0, 0.02, 4000)
        soundfile.write(tmp_path / f"{number}.wav", samples, 8_000)
        entries.append({"id": f"clip {number}", "audio": f"{number}.wav", "text": [caption]})
    (tmp_path / "evaluation.json").write_text(json.dumps(entries))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with plain_program():
        yield
    torch.set_num_threads(threads)


def embed(*options: str) -> Said:
    call = ("cache-embeddings", "--metadata", "evaluation.json", "--cache-dir", "evaluation")
    return e2i(*call, *options, *QUIET)


def score() -> Said:
    call = ("eval-projection", "--cache-dir", "evaluation", "--checkpoint", "none")
    return e2i(*call, "--bootstrap-resamples", "0", "--wandb-mode", "disabled", *QUIET)


def test_claps_embeddings_are_scored_without_training(clap: Path) -> None:
    sides = ("--audio-encoder", "clap", "--text-encoder", "clap", "--audio-weights", str(clap))
    embedded = embed(*sides)
    assert embedded.code == 0, embedded.err
    assert json.loads(embedded.out)["counts"]["embedded"] == len(CAPTIONS)
    scored = score()
    assert scored.code == 0, scored.err
    summary = json.loads(scored.out)
    cache = open_cache(Folder("evaluation")).load()
    assert cache.audio.shape == cache.text.shape == (len(CAPTIONS), 16)
    similarity = cache.text @ cache.audio[cache.caption_clip].T
    rank = 1 + (similarity > similarity.diagonal()[:, None]).sum(axis=1)
    metrics = summary["metrics"]
    assert metrics["text_to_audio_R@1"]["value"] == pytest.approx((rank == 1).mean())
    assert metrics["text_to_audio_R@5"]["value"] == pytest.approx((rank <= 5).mean())
    assert metrics["text_to_audio_median_rank"]["value"] == pytest.approx(np.median(rank))
    assert summary["notes"][0].startswith("Zero-shot: the embeddings themselves are compared")


def test_a_cache_goes_on_with_the_same_model_wherever_it_lies(clap: Path, tmp_path: Path) -> None:
    sides = ("--audio-encoder", "clap", "--text-encoder", "clap")
    assert embed(*sides, "--audio-weights", str(clap)).code == 0
    (tmp_path / "moved").symlink_to(clap)
    again = embed(*sides, "--text-model", "moved")
    assert again.code == 0, again.err
    assert json.loads(again.out)["counts"]["reused"] == len(CAPTIONS)


def test_two_sides_of_different_dimensions_need_a_checkpoint(clap: Path, tmp_path: Path) -> None:
    make_roberta(tmp_path / "roberta")
    sides = ("--audio-encoder", "clap", "--audio-weights", str(clap))
    assert embed(*sides, "--text-encoder", "hf", "--text-model", "roberta").code == 0
    refused = score()
    assert (refused.code, refused.out) == (1, "")
    assert "got 16 audio and 32 text dimensions" in refused.err
    assert "Give --checkpoint." in refused.err


def test_a_model_that_is_nowhere_is_one_sentence_and_exit_code_2() -> None:
    for options in (
        ("--audio-encoder", "logmel", "--text-encoder", "hf"),
        ("--audio-encoder", "clap", "--text-encoder", "hashing"),
    ):
        refused = embed(*options)
        assert (refused.code, refused.out) == (2, "")
        name, option = (
            ("roberta-base", "--text-model")
            if "hf" in options
            else ("laion/clap-htsat-unfused", "--audio-weights")
        )
        assert f"got '{name}', neither a folder here nor in" in refused.err
        assert f"give that as {option}, or run once with a network." in refused.err
        assert len(refused.err.splitlines()) == 1


def test_a_folder_that_lacks_files_is_named(tmp_path: Path) -> None:
    make_roberta(tmp_path / "roberta")
    (tmp_path / "roberta" / "model.safetensors").unlink()
    refused = embed("--audio-encoder", "logmel", "--text-model", "./roberta")
    assert refused.code == 2
    assert (
        "the model is not whole: got " + str(tmp_path / "roberta") + " without weights "
        "(model.safetensors), expected a folder with config.json, tokenizer.json and "
        "model.safetensors, as save_pretrained writes them. Put them there, or correct "
        "--text-model." in refused.err
    )
    missing = embed("--audio-encoder", "logmel", "--text-model", "./robin")
    assert missing.code == 2
    assert (
        "there is no model folder: got './robin', expected a folder, a URL, or the name of a "
        "published model (owner/name). Correct --text-model." in missing.err
    )


def test_nothing_of_transformers_is_seen(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_roberta(tmp_path / "roberta")
    capfd.readouterr()
    ran = embed("--audio-encoder", "logmel", "--text-model", "./roberta", "--no-progress")
    assert (ran.code, ran.err) == (0, "")
    assert capfd.readouterr() == ("", "")
    config = EncodersConfig(text_model=str(tmp_path / "roberta"), device="cpu")
    expected = load_text_encoder(config).encode(CAPTIONS)
    cache = open_cache(Folder("evaluation")).load()
    assert np.allclose(cache.text, expected, atol=1e-6)
