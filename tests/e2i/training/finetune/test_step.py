"""One step: loss and gradients as a plain reference has them, in parts and in processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from one_step import gradients_of, step
from small_world import ARCH, SmallWorld
from torch import Tensor
from torch.nn import functional

from e2i.encoders.passt_architectures import ARCHITECTURES
from e2i.encoders.windows import Windowing, cut
from e2i.heads.build import build_heads
from e2i.images.differentiable import fold_with_gradient
from e2i.storage import Folder
from e2i.training.finetune.encoders import load_encoders

PAIRS = list(range(0, 14, 2))  # one caption of each of seven clips
TESTS = Path(__file__).parents[3]


def waveforms(small: SmallWorld) -> Folder:
    return Folder(small.root / "waveforms")


def run(small: SmallWorld, pairs: list[int] = PAIRS, **changes: object):
    changes = {"dropout": 0.0, "text_dropout": 0.0, **changes}
    return step(small.config(**changes), small.examples(), waveforms(small), pairs)


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor], within: float = 1e-4) -> None:
    assert got.keys() == expected.keys()
    longest = max(gradient.norm() for gradient in expected.values())
    for name, gradient in expected.items():
        off = (got[name] - gradient).norm()
        assert off <= within * gradient.norm() + 1e-6 * longest, (name, off, gradient.norm())


def reference(small: SmallWorld, pairs: list[int], **changes: object):
    """Each clip alone, read by soundfile; the loss cell by cell."""
    config = small.config(dropout=0.0, text_dropout=0.0, **changes)
    encoders, reader = load_encoders(config)
    encoders.eval()
    heads = build_heads(config.heads(), 768, 32, seed=1, temperature=config.temperature)
    clips = small.clips().clips
    captions = [(clip, caption.text) for clip in clips for caption in clip.captions]
    architecture = ARCHITECTURES[ARCH]
    audio, text = [], []
    for pair in pairs:
        clip, caption = captions[pair]
        samples, _ = soundfile.read(small.root / clip.audio_name, dtype="float32")
        windowing = Windowing(
            config.windowing, 320_000, architecture.hop_samples, architecture.shortest_samples
        )
        windows = windowing.windows(len(samples))
        audio.append(
            sum(
                window.weight * encoders.audio(torch.from_numpy(cut(samples, window))[None])
                for window in windows
            )
        )
        tokens = torch.tensor([reader.tokenizer(caption)["input_ids"]])
        hidden = encoders.text(tokens).last_hidden_state
        text.append(hidden[:, 0] if config.text_pooling == "first" else hidden.mean(1))
    heard: Tensor = torch.cat(audio)
    if config.model_type == "vision":
        heard = fold_with_gradient(heard, config.heads().images())
    generator = torch.Generator().manual_seed(0)  # draws nothing: there is no dropout
    projected = functional.normalize(heads.audio(heard, generator), dim=1)
    read = functional.normalize(heads.text(torch.cat(text), generator), dim=1)
    scores = projected @ read.T / config.temperature
    owners = [captions[pair][0].clip_id for pair in pairs]
    cells = [
        scores[i].log_softmax(0)[j] + scores[:, j].log_softmax(0)[i]
        for i in range(len(pairs))
        for j in range(len(pairs))
        if owners[i] == owners[j]
    ]
    loss = -torch.stack(cells).mean() / 2
    loss.backward()
    return float(loss.detach()), gradients_of(encoders, heads)


@pytest.mark.parametrize(
    ("pairs", "changes"),
    [
        (PAIRS, {}),
        (PAIRS, {"model_type": "vision"}),
        ([0, 1, 6], {"windowing": "dcase2025", "text_pooling": "first"}),
        ([1, 4, 5], {"head_type": "linear", "freeze": "none", "gradient_checkpointing": True}),
    ],
    ids=["baseline", "vision", "dcase with repeated clips", "linear, computed again"],
)
def test_loss_and_gradients_are_those_of_a_plain_reference(
    small: SmallWorld, pairs: list[int], changes: dict[str, object]
) -> None:
    loss, gradients = run(small, pairs, **changes)
    expected_loss, expected = reference(small, pairs, **changes)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert {name.partition(".")[0] for name in gradients} == {"audio", "text", "heads"}
    assert_same(gradients, expected)


@pytest.mark.parametrize("model_type", ["baseline", "vision"])
def test_a_batch_in_parts_has_the_gradients_of_the_whole(
    small: SmallWorld, model_type: str
) -> None:
    """GradCache; patches are left out, bands moved, and units of the heads dropped alike."""
    noise = {"patchout_time": 5, "patchout_frequency": 2, "mel_jitter_high": 2000, "dropout": 0.3}
    loss, gradients = run(small, model_type=model_type, grad_cache=3, **noise)
    expected_loss, expected = run(small, model_type=model_type, **noise)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert_same(gradients, expected)


def test_dropout_within_the_text_encoder_is_the_same_when_it_is_encoded_again(
    small: SmallWorld,
) -> None:
    """The gradient of a cached batch belongs to the embeddings that its loss was made of."""
    whole = run(small, text_dropout=0.4)
    again = run(small, text_dropout=0.4, grad_cache=len(PAIRS))
    assert again[0] == pytest.approx(whole[0], rel=1e-5)
    assert_same(again[1], whole[1])
    assert run(small, text_dropout=0.0)[0] != pytest.approx(whole[0], rel=1e-3)


def test_half_precision_gives_about_the_same(small: SmallWorld) -> None:
    loss, gradients = run(small)
    short_loss, short = run(small, precision="bfloat16")
    assert short_loss == pytest.approx(loss, rel=0.05)
    assert all(gradient.dtype == torch.float32 for gradient in short.values())
    name = "audio.blocks.0.mlp.fc1.weight"
    cosine = functional.cosine_similarity(short[name].flatten(), gradients[name].flatten(), dim=0)
    assert cosine > 0.9


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(small: SmallWorld, tmp_path: Path) -> None:
    """Negatives and batch normalization over both; of seven pairs three and four, in twos."""
    small.examples()
    saved = tmp_path / "found.pt"
    here = Path(__file__).parent
    subprocess.run(
        [sys.executable, here / "one_step.py", small.root, saved, "2"],
        check=True,
        env={**os.environ, "PYTHONPATH": f"{here}:{TESTS}:{TESTS.parent}"},
        timeout=280,
    )
    loss, gradients = torch.load(saved, weights_only=True)
    expected_loss, expected = run(small, model_type="vision", dropout=0.3)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert_same(gradients, expected)
