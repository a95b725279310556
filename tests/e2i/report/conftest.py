"""A small evaluated world: captions that find their clips, but for those made to miss."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
import torch

from e2i.cache.embeddings import CachedEmbeddings
from e2i.heads.config import HeadsConfig
from e2i.report.config import ReportConfig
from e2i.report.content import ReportOrigin, ScoredModel, report_content
from e2i.retrieval.config import EvaluationConfig
from e2i.training.config import TrainingConfig
from e2i.training.evaluate import evaluate_checkpoint
from e2i.training.train import train_heads

EVALUATION = EvaluationConfig(bootstrap_resamples=50)
CLIPS, CAPTIONS_A_CLIP, DIM = 30, 2, 12


def _cache(split="evaluation", clips=CLIPS, seed=0, **changes):
    """Captions near their clips; caption n of a clip has 4 + n words."""
    generator = np.random.default_rng(seed)
    audio = generator.normal(size=(clips, DIM))
    caption_clip = np.repeat(np.arange(clips), CAPTIONS_A_CLIP)
    text = audio[caption_clip] + 0.4 * generator.normal(size=(len(caption_clip), DIM))
    clip_ids = tuple(f"{split} {clip} <b>&amp;.wav" for clip in range(clips))
    content = {
        "dataset": "synthetic",
        "split": split,
        "clip_ids": clip_ids,
        "audio": audio.astype(np.float32),
        "duration_s": np.linspace(1.0, 9.0, clips),
        "caption_ids": tuple(f"{clip_ids[c]}#{n % 2 + 1}" for n, c in enumerate(caption_clip)),
        "captions": tuple(
            f"clip {c} is heard" + " far" * (n % 2) for n, c in enumerate(caption_clip)
        ),
        "caption_clip": caption_clip.astype(np.int64),
        "text": text.astype(np.float32),
        "audio_fingerprint": "a0" * 8,
        "text_fingerprint": "b0" * 8,
        "url": f"memory://{split}",
    }
    return CachedEmbeddings(**{**content, **changes})


@pytest.fixture(scope="session")
def make_cache():
    return _cache


@pytest.fixture(scope="package", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoint():
    config = TrainingConfig(epochs=3, batch_size=30, lr=0.02, device="cpu")
    heads = HeadsConfig(hidden_dim=16, out_dim=8)
    return train_heads(
        [_cache("development")], _cache("validation", seed=1), heads, config
    ).checkpoint


@pytest.fixture(scope="session")
def scored(checkpoint):
    """Two models on one cache: trained heads, and the embeddings as they are."""

    def score(cache, *, allow_seen=False):
        found = {
            "MLP": evaluate_checkpoint(
                checkpoint, cache, EVALUATION, device="cpu", allow_seen=allow_seen
            ),
            "as they are": evaluate_checkpoint(None, cache, EVALUATION, device="cpu"),
        }
        return (
            ScoredModel(
                "MLP",
                found["MLP"],
                checkpoint,
                "memory://checkpoints/heads.safetensors",
                checkpoint_sha256="ab" * 32,
            ),
            ScoredModel("as they are", found["as they are"]),
        )

    return score


@pytest.fixture(scope="session")
def make_content(scored):
    """A report's content, of both models unless told."""

    def make(cache=None, *, models=2, load_recording=None, allow_seen=False, **sizes):
        cache = cache or _cache()
        return report_content(
            scored(cache, allow_seen=allow_seen)[:models],
            cache,
            EVALUATION,
            ReportConfig(**{"examples": 2, "sheet_clips": 3, **sizes}),
            origin=ReportOrigin("2026-11-23", {"audio": {"encoder": "logmel", "n_fft": 1024}}),
            load_recording=load_recording,
            device="cpu",
        )

    return make


@pytest.fixture(scope="session")
def wav():
    """One second of a tone, 16-bit at 8 kHz: 16,044 bytes."""
    file = io.BytesIO()
    tone = 0.3 * np.sin(np.arange(8000) * 0.3)
    soundfile.write(file, tone, 8000, format="WAV", subtype="PCM_16")
    return file.getvalue()
