"""Calls of the program on tiny data, and what can be seen of each: the ground of the option table.

Conventions: words of a call are a mapping from option to value, None for a flag; `{world}` is the
folder of the shared data, `{run}` the call's own working directory, `{repo}` its own data set on
the Hub. A call is made once a session, however many options are compared with it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from safetensors.numpy import load_file

from e2i.cache.embeddings import CachedEmbeddings
from e2i.cache.reader import open_cache
from e2i.encoders.passt_architectures import ARCHITECTURES
from e2i.heads.build import ProjectionHeads
from e2i.heads.checkpoint import Checkpoint, load_checkpoint
from e2i.images.png import decode_png
from e2i.retrieval.similarity import CosineSimilarity
from e2i.storage import Folder
from hub_server import HubServer
from passt_weights import save_weights
from plain_program import Said, e2i
from tiny_models import make_roberta

Words = Mapping[str, str | None]

RATE = 8_000
NUM_CLIPS, NUM_OTHERS = 12, 5
PUBLISHED = ("passt_s_kd_p16_128_ap486", "passt_l_kd_p16_128_ap47")
"""Architectures whose published weights lie in `{world}/weights`, with random numbers in them."""

SMALL_ARCHS = ("passt_s_p16_s16_128_ap468", "passt_u600_f128_p16_s16_ap_460")
"""Architectures that the program takes with one and two blocks; their weights lie there too."""

CHECKPOINT_NAME = "projection_heads.safetensors"
# Raw embeddings exceed [-1, 1], so that clamping shows.
EMBED: Words = {
    "--metadata": "{world}/others.json",
    "--cache-dir": "{run}/cache",
    "--audio-encoder": "logmel",
    "--text-encoder": "hashing",
    "--no-normalize": None,
}
TRAIN: Words = {
    "--cache-dir": "{world}/embeddings/clips",
    "--epochs": "1",
    "--hidden-dim": "8",
    "--out-dim": "4",
    "--device": "cpu",
    "--wandb-mode": "disabled",
}
BASE: dict[str, Words] = {
    "cache-embeddings": EMBED,
    "cache-images": {"--cache-dir": "{run}/cache"},
    "download-embeddings": {
        "--cache-dir": "{run}/clips",
        "--repo-id": "file://{world}/embeddings",
    },
    "train-projection": TRAIN,
    "eval-projection": {
        "--cache-dir": "{world}/embeddings/clips",
        "--checkpoint": "{world}/checkpoints/" + CHECKPOINT_NAME,
        "--device": "cpu",
        "--bootstrap-resamples": "0",
        "--allow-seen": None,
        "--wandb-mode": "disabled",
    },
    "finetune": {
        "--metadata": "{world}/clips.json",
        "--weights-dir": "{world}/weights",
        "--audio-arch": SMALL_ARCHS[0],
        "--text-model": "{world}/roberta",
        "--freeze": "both",
        "--epochs": "1",
        "--batch-size": "4",
        "--device": "cpu",
        "--wandb-mode": "disabled",
    },
}


@dataclass
class Ran:
    """One call, and what it left in its working directory.

    Attributes:
        said: exit code, stdout and stderr.
        folder: working directory.
        forward_passes: calls of a head.
        blocks: blocks of similarities.
        mirrored: files of its data set on the Hub.
        asked_as: authorizations that the Hub was asked with for it.
    """

    said: Said
    folder: Path
    forward_passes: int
    blocks: int
    mirrored: set[str] = field(default_factory=set)
    asked_as: set[str | None] = field(default_factory=set)

    @property
    def code(self) -> int:
        return self.said.code

    @property
    def refusal(self) -> str:
        """What it says, where it fails."""
        return self.said.err if self.code else ""

    @cached_property
    def summary(self) -> dict[str, dict]:
        assert self.code == 0, self.said.err
        return json.loads(self.said.out)

    @property
    def counts(self) -> dict[str, int]:
        return self.summary["counts"]

    @cached_property
    def cache(self) -> CachedEmbeddings:
        assert self.code == 0, self.said.err
        return open_cache(Folder(self.summary["locations"]["cache"])).load()

    def images(self, folder: str = "pseudo_images") -> dict[str, NDArray[np.uint8]]:
        """Pixels (3, S, S) by file name, of both sides."""
        assert self.code == 0, self.said.err
        return {
            path.name: decode_png(path.read_bytes(), path.name).images.pixels[0]
            for path in sorted((self.folder / "cache" / folder).glob("*/*.png"))
        }

    @cached_property
    def checkpoint(self) -> Checkpoint:
        folder, _, name = self.summary["locations"]["checkpoint"].rpartition("/")
        return load_checkpoint(Folder(folder), name)

    @cached_property
    def tensors(self) -> dict[str, NDArray]:
        """All tensors of the checkpoint's file, encoders included."""
        return load_file(self.summary["locations"]["checkpoint"])

    @property
    def weights(self) -> dict[str, NDArray[np.float32]]:
        return {name: tensor.numpy() for name, tensor in self.checkpoint.weights.items()}

    @property
    def files(self) -> set[str]:
        """Paths of all files, relative to the working directory."""
        return {
            path.relative_to(self.folder).as_posix()
            for path in self.folder.rglob("*")
            if path.is_file()
        }


@dataclass
class World:
    """Recordings, two caches and a checkpoint; and the calls made on them so far."""

    root: Path
    hub: HubServer | None = None
    _ran: dict[tuple, Ran] = field(default_factory=dict)

    @classmethod
    def made_in(cls, root: Path, hub: HubServer) -> World:
        world = cls(root, hub)
        _write_metadata(root / "clips.json", NUM_CLIPS)
        _write_metadata(root / "others.json", NUM_OTHERS)
        make_roberta(root / "roberta")
        make_roberta(root / "another roberta", seed=1)
        for name in ("clips", "others"):
            cache = f"{root}/embeddings/{name}"
            changes = {"--metadata": f"{root}/{name}.json", "--cache-dir": cache, "--split": name}
            world.made("cache-embeddings", {**EMBED, **changes})
        drawn = {"--images-dir": "drawn", "--image-size": "native"}
        cache = {"--cache-dir": f"{root}/embeddings/clips"}
        world.made("cache-images", {**cache, **drawn})
        (root / "weights").mkdir()
        for name in PUBLISHED:
            architecture = ARCHITECTURES[name]
            save_weights(root / "weights" / architecture.published.name, architecture)
        for number, name in enumerate(SMALL_ARCHS, start=1):
            architecture = replace(ARCHITECTURES[name], depth=number)
            save_weights(root / "weights" / architecture.published.name, architecture)
        for seed, folder in (("13", "checkpoints"), ("14", "checkpoints/other")):
            changes = {"--seed": seed, "--output-dir": f"{root}/{folder}"}
            world.made("train-projection", {**TRAIN, **changes})
        for name in ("clips", "others"):  # the second in the place of the first
            cache = Folder(f"{root}/embeddings/{name}")
            files = {f"clips/{file.name}": cache.read(file.name) for file in cache.files()}
            hub.put_files("me/kept", {"clips": None, **files})
            hub.tag("me/kept", "first" if name == "clips" else "second")
        return world

    def made(self, command: str, words: Words) -> None:
        """Make a part of the world."""
        ran = self.run(command, words)
        assert ran.code == 0, ran.said.err

    def run(self, command: str, words: Words, *, again: bool = False, json: bool = True) -> Ran:
        """Call a command in a folder of its own.

        Args:
            command: which.
            words: option to value.
            again: call it once before, without `--force`.
            json: print the summary as JSON.
        """
        key = (command, tuple(words.items()), again, json)
        if key not in self._ran:
            folder = self.root / "runs" / str(len(self._ran))
            folder.mkdir(parents=True)
            if command == "cache-images":
                shutil.copytree(self.root / "embeddings" / "others", folder / "cache")
                shutil.copytree(self.root / "embeddings" / "clips", folder / "clips")
            if command == "download-embeddings":
                shutil.copytree(self.root / "embeddings" / "others", folder / "held")
            if again:
                first = {o: v for o, v in words.items() if o != "--force"}
                _called(folder, [command, *self.arguments(first, folder)])
            arguments = [command, *self.arguments(words, folder), *(["--json"] if json else [])]
            self._ran[key] = ran = _called(folder, arguments)
            self._look_at_hub(ran)
        return self._ran[key]

    def arguments(self, words: Words, folder: Path) -> list[str]:
        """What stands on the command line."""
        typed = [word for pair in words.items() for word in pair if word is not None]
        places = {"{world}": str(self.root), "{run}": str(folder), "{repo}": _repo(folder)}
        for place, value in places.items():
            typed = [word.replace(place, value) for word in typed]
        return typed

    def _look_at_hub(self, ran: Ran) -> None:
        repo = _repo(ran.folder)
        asked = [r for r in self.hub.requests if f"/datasets/{repo}/" in f"{r.path}/"]
        if asked:
            ran.mirrored = set(self.hub.files(repo))
            ran.asked_as = {request.authorization for request in asked}


def _repo(folder: Path) -> str:
    """The data set of a call."""
    return f"me/{folder.name}"


def _called(folder: Path, arguments: list[str]) -> Ran:
    counts = {"forward_passes": 0, "blocks": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HOME", str(folder))
        for number, name in enumerate(SMALL_ARCHS, start=1):
            patch.setitem(ARCHITECTURES, name, replace(ARCHITECTURES[name], depth=number))
        for side in ("project_audio", "project_text"):
            patch.setattr(ProjectionHeads, side, _counting(ProjectionHeads, side, counts))
        for direction in ("text_to_audio", "audio_to_text"):
            patch.setattr(
                CosineSimilarity, direction, _counting_blocks(CosineSimilarity, direction, counts)
            )
        return Ran(e2i(*arguments), folder, **counts)


def _counting(owner: type, name: str, counts: dict[str, int]):
    function = getattr(owner, name)

    def counted(*arguments):
        counts["forward_passes"] += 1
        return function(*arguments)

    return counted


def _counting_blocks(owner: type, name: str, counts: dict[str, int]):
    function = getattr(owner, name)

    def counted(*arguments):
        for block in function(*arguments):
            counts["blocks"] += 1
            yield block

    return counted


def _write_metadata(path: Path, count: int) -> None:
    """Recordings that differ, and entries with a second key for everything."""
    rng = np.random.default_rng(count)
    names = [f"{path.stem} {number}.wav" for number in range(count)]
    for number, name in enumerate(names):
        hum = np.sin(2 * np.pi * 200 * (number + 1) * np.arange(RATE // 4) / RATE)
        soundfile.write(path.parent / name, 0.1 * hum + 0.02 * rng.standard_normal(len(hum)), RATE)
    entries = [
        {
            **{"id": f"id {n}", "audio": names[n], "text": [f"hum {n}", f"tone {n} of a machine"]},
            **{"name": f"name {n}", "file": names[n - 1], "words": [f"buzz {n}", f"drone {n}"]},
            **{"sample_rate": RATE, "rate": "fast"},
        }
        for n in range(count)
    ]
    path.write_text(json.dumps(entries))
