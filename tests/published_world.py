"""A store with caches of three splits and heads that find their clips, to publish from in tests."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent / "e2i" / "cache"))

from cache_world import (
    CountingAudioEncoder,
    CountingTextEncoder,
    World,
    load_waveform,
    vector,
)

from e2i.cache.reader import Cache, open_cache
from e2i.heads.checkpoint import Checkpoint, save_checkpoint
from e2i.heads.config import HeadsConfig
from e2i.publishing.promote import Promoted, promote
from e2i.retrieval.config import EvaluationConfig
from e2i.storage import Folder
from e2i.store_layout import join_url
from e2i.training.config import TrainingConfig
from e2i.training.train import train_heads

__all__ = ["load_waveform"]

DIM = 12
QUICK = EvaluationConfig(bootstrap_resamples=50)
DATE = "2026-11-26T02:00:00Z"


@dataclass
class NamedAudio(CountingAudioEncoder):
    """Hears which clip it is: recordings are `sound of <clip id>`."""

    def one(self, content: bytes) -> NDArray[np.float32]:
        return vector(content.removeprefix(b"sound of "), self.dim, 0)


@dataclass
class NamedText(CountingTextEncoder):
    """Reads which clip it is: near the clip's own vector, each caption somewhere else."""

    dim: int = DIM

    def one(self, caption: str) -> NDArray[np.float32]:
        name = caption.rpartition(" of ")[2].encode()
        return vector(name, self.dim, 0) + np.float32(0.4) * vector(caption.encode(), self.dim, 1)


@dataclass
class PublishedWorld:
    """A store and its evaluation split, which can change.

    Attributes:
        store_url: of the store.
        evaluation: the split's recordings and captions, and the cache of it.
        trained: heads that find their clips.
    """

    store_url: str
    evaluation: World
    trained: Checkpoint

    @property
    def store(self) -> Folder:
        return Folder(self.store_url)

    @property
    def cache_url(self) -> str:
        return self.evaluation.folder.url

    @property
    def cache(self) -> Cache:
        return open_cache(Folder(self.cache_url))

    def save(self, name: str, checkpoint: Checkpoint) -> str:
        """The location of a checkpoint under `checkpoints/`."""
        save_checkpoint(self.store.folder("checkpoints"), f"{name}.safetensors", checkpoint)
        return join_url(self.store_url, "checkpoints", f"{name}.safetensors")

    def spoiled(self, noise: float = 3.0) -> Checkpoint:
        """The same heads with noise on their weights."""
        generator = torch.Generator().manual_seed(0)
        weights = {
            name: tensor
            + noise * tensor.std(correction=0) * torch.randn(tensor.shape, generator=generator)
            for name, tensor in self.trained.weights.items()
        }
        return replace(self.trained, weights=weights)

    def publish(self, checkpoint: Checkpoint | None = None, name: str = "heads") -> Promoted:
        url = self.save(name, checkpoint or self.trained)
        return promote(self.store_url, url, self.cache_url, QUICK, device="cpu", date=DATE)


def make_world(store_url: str, clips: int = 40) -> PublishedWorld:
    """A store with caches of three splits, and heads trained on two of them."""
    worlds = {}
    for split, count in (("development", 60), ("validation", 20), ("evaluation", clips)):
        world = World(
            Folder(store_url).folder(f"embeddings/{split}"),
            Folder(store_url).folder(f"data/{split}"),
            audio=NamedAudio(dim=DIM),
            text=NamedText(),
            split=split,
        )
        for number in range(count):
            world.put(f"{split} {number:03d} #odd%20&.wav")
        world.build(chunk_size=32)
        worlds[split] = world
    caches = {split: open_cache(world.folder).load() for split, world in worlds.items()}
    trained = train_heads(
        [caches["development"]],
        caches["validation"],
        HeadsConfig(hidden_dim=16, out_dim=8),
        TrainingConfig(epochs=4, batch_size=30, lr=0.02, device="cpu"),
    )
    return PublishedWorld(store_url, worlds["evaluation"], trained.checkpoint)
