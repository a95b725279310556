"""Writes the generated data set, in Clotho's form, and only what is not there yet.

Conventions: below the folder lie `clotho_audio_files/<split>/*.wav`,
`clotho_csv_files/clotho_captions_<split>.csv` and `soundscapes.json`, which says which generator,
seed and sizes made them. It is created first and marked complete last, so that a run that was
killed is resumed under the same seed and no other. A clip depends on (seed, split, index) alone:
growing a data set keeps what is there, and clips of a larger one stay, unlisted, in a smaller one.

Equal bytes need the same generator version, and numpy's promise for its streams: the same numpy.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from e2i.datasets.soundscapes.config import SPLITS, SoundscapesConfig
from e2i.datasets.soundscapes.grammar import NUM_CAPTIONS, write_captions
from e2i.datasets.soundscapes.names import file_name
from e2i.datasets.soundscapes.rendering import render_wav, wav_size_bytes
from e2i.datasets.soundscapes.scenes import (
    CAPTION_STREAM,
    SOUND_STREAM,
    Scene,
    compose,
    random_stream,
)
from e2i.errors import ConfigError, StorageNotFoundError
from e2i.storage import Folder

GENERATOR_VERSION = 1
STAMP_NAME = "soundscapes.json"
AUDIO_FOLDER = "clotho_audio_files"
CSV_FOLDER = "clotho_csv_files"
_WORKERS = 4
_Stamp = dict[str, object]


@dataclass(frozen=True, slots=True)
class GenerationCounts:
    """What a call did.

    Attributes:
        generated: clips made now.
        reused: clips that were there.
        clips: clips of each split.
    """

    generated: int
    reused: int
    clips: Mapping[str, int]

    def as_counts(self) -> dict[str, int]:
        """The counts of a run summary: how many clips were made, how many were there."""
        return {"generated": self.generated, "already_generated": self.reused}


def describe(config: SoundscapesConfig, split: str) -> list[Scene]:
    """The clips of one split, without a sound being made.

    Raises:
        ConfigError: there is no such split.
    """
    seed = config.dataset_seed
    scenes: list[Scene] = []
    for index in range(config.num_clips(split)):
        composition = compose(seed, split, index)
        captions = write_captions(composition, random_stream(seed, split, index, CAPTION_STREAM))
        scenes.append(Scene(split, index, file_name(seed, split, index), composition, captions))
    return scenes


def captions_csv(scenes: Sequence[Scene]) -> bytes:
    """The caption file of a split, as Clotho writes it: ASCII, commas, CR LF."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(["file_name", *(f"caption_{n}" for n in range(1, NUM_CAPTIONS + 1))])
    writer.writerows([scene.file_name, *scene.captions] for scene in scenes)
    return text.getvalue().encode("ascii")


def generate_soundscapes(
    folder: Folder,
    config: SoundscapesConfig,
    *,
    progress: Callable[[int], None] | None = None,
) -> GenerationCounts:
    """Generate the clips and caption files that the folder lacks.

    Args:
        folder: root of the data set; empty, or holding soundscapes of the same seed.
        config: sizes and seed.
        progress: told from the calling thread how many more clips are there; first, in one go,
            those that need no work. The numbers add up to all clips.

    Raises:
        ConfigError: the folder holds soundscapes of another seed or generator, or other data.
        StorageError: the store refused; what is written stays, and the next call goes on there.
    """
    splits = {split: describe(config, split) for split in SPLITS}
    csvs = {split: captions_csv(scenes) for split, scenes in splits.items()}
    unfinished = _stamp(config, csvs, complete=False)
    finished = _stamp(config, csvs, complete=True)
    found = _claim(folder, unfinished)

    stored = {info.name: info.size_bytes for info in folder.files(AUDIO_FOLDER)}
    scenes = [scene for listed in splits.values() for scene in listed]
    missing = [
        scene for scene in scenes if stored.get(_name(scene)) != wav_size_bytes(scene.composition)
    ]
    outdated = {
        split: data for split, data in csvs.items() if _bytes(folder, _csv_name(split)) != data
    }
    if found == finished and (missing or outdated):
        folder.write(STAMP_NAME, _encoded(unfinished))
        found = unfinished
    report = progress or _unheard
    if len(missing) < len(scenes):
        report(len(scenes) - len(missing))
    _render_all(folder, config.dataset_seed, missing, report)
    for split, data in outdated.items():
        folder.write(_csv_name(split), data)
    if found != finished:
        folder.write(STAMP_NAME, _encoded(finished))
    return GenerationCounts(
        generated=len(missing),
        reused=len(scenes) - len(missing),
        clips={split: len(listed) for split, listed in splits.items()},
    )


def _render_all(
    folder: Folder, seed: int, scenes: Sequence[Scene], report: Callable[[int], None]
) -> None:
    """Render and store clips; on the first fault, or an interrupt, no further ones are begun."""

    def store(scene: Scene) -> None:
        rng = random_stream(seed, scene.split, scene.index, SOUND_STREAM)
        folder.write(_name(scene), render_wav(scene.composition, rng))

    pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="soundscapes")
    try:
        for done in as_completed([pool.submit(store, scene) for scene in scenes]):
            done.result()
            report(1)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _claim(folder: Folder, unfinished: _Stamp) -> _Stamp:
    """The stamp of the folder, put there if it was free; refuses what another run made."""
    found = _read_stamp(folder)
    if found is None:
        _refuse_other_data(folder)
        if folder.create(STAMP_NAME, _encoded(unfinished)):
            return unfinished
        found = _read_stamp(folder) or unfinished
    fixed = ("generator_version", "dataset_seed")
    differing = [field for field in fixed if found.get(field) != unfinished[field]]
    if differing:
        asked = ", ".join(f"{field} {unfinished[field]}" for field in differing)
        there = ", ".join(f"{field} {found.get(field)}" for field in differing)
        raise ConfigError(
            f"the folder holds other soundscapes: got {asked}, expected {there} as in "
            f"{folder.url}/{STAMP_NAME}. Choose another --store-url, or delete that folder."
        )
    if found.get("clips") != unfinished["clips"]:
        folder.write(STAMP_NAME, _encoded(unfinished))
        return unfinished
    return found


def _refuse_other_data(folder: Folder) -> None:
    """Never write over recordings or captions that were not generated here."""
    for below in (CSV_FOLDER, AUDIO_FOLDER):
        present = folder.files(below)
        if present:
            raise ConfigError(
                f"the folder holds data that was not generated: got {present[0].name!r} and no "
                f"{STAMP_NAME} in {folder.url}, expected an empty folder. Choose another "
                "--store-url, or delete that folder."
            )


def _read_stamp(folder: Folder) -> _Stamp | None:
    """What the folder's stamp says; None without one."""
    data = _bytes(folder, STAMP_NAME)
    if data is None:
        return None
    try:
        stamp = json.loads(data)
    except ValueError:
        stamp = None
    if not isinstance(stamp, dict):
        raise ConfigError(
            f"cannot read what generated the folder's soundscapes: got {len(data)} bytes in "
            f"{folder.url}/{STAMP_NAME}, expected a JSON object. Delete that folder, or choose "
            "another --store-url."
        )
    return stamp


def _stamp(config: SoundscapesConfig, csvs: Mapping[str, bytes], *, complete: bool) -> _Stamp:
    return {
        "generator_version": GENERATOR_VERSION,
        "dataset_seed": config.dataset_seed,
        "clips": {split: config.num_clips(split) for split in SPLITS},
        "captions_sha256": {
            split: hashlib.sha256(data).hexdigest() for split, data in csvs.items()
        },
        "complete": complete,
    }


def _encoded(stamp: _Stamp) -> bytes:
    return (json.dumps(stamp, indent=2) + "\n").encode("ascii")


def _bytes(folder: Folder, name: str) -> bytes | None:
    try:
        return folder.read(name)
    except StorageNotFoundError:
        return None


def _name(scene: Scene) -> str:
    return f"{AUDIO_FOLDER}/{scene.split}/{scene.file_name}"


def _csv_name(split: str) -> str:
    return f"{CSV_FOLDER}/clotho_captions_{split}.csv"


def _unheard(count: int) -> None:
    """Stands in where nobody wants to know."""
