from __future__ import annotations

import csv
import hashlib
import io
import json
import uuid

import numpy as np
import pytest
import soundfile

from e2i.datasets.soundscapes import generate
from e2i.datasets.soundscapes.config import SPLITS, SoundscapesConfig
from e2i.datasets.soundscapes.generate import captions_csv, describe, generate_soundscapes
from e2i.datasets.soundscapes.rendering import render
from e2i.datasets.soundscapes.scenes import SOUND_STREAM, random_stream
from e2i.errors import ConfigError, StorageUnavailableError
from e2i.storage import Folder

SMALL = SoundscapesConfig(num_development=5, num_validation=2, num_evaluation=4)
LARGER = SoundscapesConfig(num_development=7, num_validation=2, num_evaluation=5)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "my data #1" / "soundscapes")


@pytest.fixture(scope="module")
def whole():
    """What one uninterrupted run stores: name → bytes."""
    made = Folder(f"memory://{uuid.uuid4().hex}")
    generate_soundscapes(made, SMALL)
    return _contents(made)


@pytest.fixture
def written(monkeypatch):
    """Names that are written, in order."""
    names = []
    write, create = Folder.write, Folder.create
    monkeypatch.setattr(
        Folder, "write", lambda self, name, data: (names.append(name), write(self, name, data))[1]
    )
    monkeypatch.setattr(
        Folder, "create", lambda self, name, data: (names.append(name), create(self, name, data))[1]
    )
    return names


def _contents(folder):
    return {info.name: folder.read(info.name) for info in folder.files()}


def _recordings(names):
    return [name for name in names if name.endswith(".wav")]


def test_clothos_form(whole):
    wanted = {"soundscapes.json"}
    for split in SPLITS:
        data = whole[f"clotho_csv_files/clotho_captions_{split}.csv"]
        assert data.count(b"\r\n") == data.count(b"\n") == SMALL.num_clips(split) + 1
        rows = list(csv.DictReader(io.StringIO(data.decode("ascii"), newline="")))
        assert list(rows[0]) == ["file_name", *(f"caption_{n}" for n in range(1, 6))]
        scenes = describe(SMALL, split)
        assert [row["file_name"] for row in rows] == [scene.file_name for scene in scenes]
        for row, scene in zip(rows, scenes, strict=True):
            assert tuple(row[f"caption_{n}"] for n in range(1, 6)) == scene.captions
            name = f"clotho_audio_files/{split}/{scene.file_name}"
            info = soundfile.info(io.BytesIO(whole[name]))
            assert info.samplerate == 44_100
            assert info.frames == scene.composition.num_samples
            wanted.add(name)
        wanted.add(f"clotho_csv_files/clotho_captions_{split}.csv")
    assert set(whole) == wanted


def test_two_runs_give_the_same_bytes_whatever_the_global_state(folder, whole):
    np.random.seed(5)
    counts = generate_soundscapes(folder, SMALL)
    assert (counts.generated, counts.reused) == (11, 0)
    assert counts.clips == {"development": 5, "validation": 2, "evaluation": 4}
    assert counts.as_counts() == {"generated": 11, "already_generated": 0}
    assert _contents(folder) == whole


def test_no_two_recordings_are_equal(whole):
    digests = {hashlib.sha256(data).hexdigest() for data in whole.values()}
    assert len(digests) == len(whole)


def test_the_same_again_writes_nothing_and_says_so(folder, written):
    generate_soundscapes(folder, SMALL)
    assert len(_recordings(written)) == 11
    assert written[0] == written[-1] == "soundscapes.json"
    written.clear()
    counts = generate_soundscapes(folder, SMALL)
    assert (counts.generated, counts.reused) == (0, 11)
    assert written == []


def test_growing_generates_the_new_clips_only(folder, whole, written):
    generate_soundscapes(folder, SMALL)
    written.clear()
    counts = generate_soundscapes(folder, LARGER)
    assert (counts.generated, counts.reused) == (3, 11)
    assert len(_recordings(written)) == 3
    grown = _contents(folder)
    for name in _recordings(whole):
        assert grown[name] == whole[name]
    for split in SPLITS:
        name = f"clotho_csv_files/clotho_captions_{split}.csv"
        assert grown[name].startswith(whole[name])


def test_shrinking_lists_fewer_and_keeps_the_rest(folder, whole):
    generate_soundscapes(folder, LARGER)
    counts = generate_soundscapes(folder, SMALL)
    assert (counts.generated, counts.reused) == (0, 11)
    shrunk = _contents(folder)
    assert {name: shrunk[name] for name in whole} == whole
    assert len(shrunk) == len(whole) + 3


def test_a_run_that_broke_off_is_resumed(folder, whole, monkeypatch):
    write, stored = Folder.write, []

    def break_off(self, name, data):
        if len(stored) >= 4:
            raise StorageUnavailableError("the store is away")
        write(self, name, data)
        stored.append(name)

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "write", break_off)
        with pytest.raises(StorageUnavailableError, match="the store is away"):
            generate_soundscapes(folder, SMALL)
    assert not json.loads(folder.read("soundscapes.json"))["complete"]
    there = len(_recordings(_contents(folder)))
    assert 4 <= there < 11
    counts = generate_soundscapes(folder, SMALL)
    assert (counts.generated, counts.reused) == (11 - there, there)
    assert _contents(folder) == whole


def test_a_run_that_broke_off_keeps_its_seed(folder):
    generate_soundscapes(folder, SMALL)
    stamp = json.loads(folder.read("soundscapes.json"))
    folder.write("soundscapes.json", json.dumps({**stamp, "complete": False}).encode())
    with pytest.raises(ConfigError, match="dataset_seed 14"):
        generate_soundscapes(folder, SMALL.model_copy(update={"dataset_seed": 14}))


@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_a_recording_that_is_lost_or_cut_is_generated_again(folder, whole, damage):
    generate_soundscapes(folder, SMALL)
    name = _recordings(whole)[3]
    if damage == "lost":
        folder.delete(name)
    else:
        folder.write(name, whole[name][:1000])
    counts = generate_soundscapes(folder, SMALL)
    assert (counts.generated, counts.reused) == (1, 10)
    assert _contents(folder) == whole


def test_a_caption_file_that_was_changed_is_written_again(folder, whole):
    generate_soundscapes(folder, SMALL)
    name = "clotho_csv_files/clotho_captions_validation.csv"
    folder.write(name, whole[name].replace(b"file_name", b"filename_"))
    counts = generate_soundscapes(folder, SMALL)
    assert counts.generated == 0
    assert _contents(folder) == whole


def test_another_seed_is_refused(folder, whole):
    generate_soundscapes(folder, SMALL)
    with pytest.raises(ConfigError) as caught:
        generate_soundscapes(folder, SMALL.model_copy(update={"dataset_seed": 14}))
    assert str(caught.value) == (
        "the folder holds other soundscapes: got dataset_seed 14, expected dataset_seed 13 as in "
        f"{folder.url}/soundscapes.json. Choose another --store-url, or delete that folder."
    )
    assert _contents(folder) == whole


def test_another_generator_is_refused(folder, monkeypatch):
    generate_soundscapes(folder, SMALL)
    monkeypatch.setattr(generate, "GENERATOR_VERSION", generate.GENERATOR_VERSION + 1)
    with pytest.raises(ConfigError, match=r"got generator_version \d+, dataset_seed 14, expected"):
        generate_soundscapes(folder, SMALL.model_copy(update={"dataset_seed": 14}))


@pytest.mark.parametrize(
    "name", ["clotho_csv_files/clotho_captions_development.csv", "clotho_audio_files/x/a.wav"]
)
def test_other_data_is_never_written_over(folder, name):
    folder.write(name, b"not ours")
    with pytest.raises(ConfigError) as caught:
        generate_soundscapes(folder, SMALL)
    message = str(caught.value)
    assert message.startswith("the folder holds data that was not generated: got ")
    assert message.endswith("Choose another --store-url, or delete that folder.")
    assert name.rsplit("/", 1)[1] in message
    assert list(_contents(folder)) == [name]


def test_an_unreadable_stamp_is_refused(folder):
    folder.write("soundscapes.json", b'{"generator')
    with pytest.raises(ConfigError) as caught:
        generate_soundscapes(folder, SMALL)
    assert str(caught.value) == (
        "cannot read what generated the folder's soundscapes: got 11 bytes in "
        f"{folder.url}/soundscapes.json, expected a JSON object. Delete that folder, or choose "
        "another --store-url."
    )


def test_progress_adds_up(folder):
    heard = []
    generate_soundscapes(folder, SMALL, progress=heard.append)
    assert heard == [1] * 11
    heard.clear()
    generate_soundscapes(folder, LARGER, progress=heard.append)
    assert heard == [11, 1, 1, 1]


def test_on_an_object_store(s3_folder, whole):
    counts = generate_soundscapes(s3_folder, SMALL)
    assert counts.generated == 11
    assert _contents(s3_folder) == whole
    assert generate_soundscapes(s3_folder, SMALL).generated == 0


def test_what_the_generator_makes_changes_only_with_its_version():
    # Written down from generator version 1 itself (numpy 2.4): whoever changes words, scenes or
    # names raises GENERATOR_VERSION, so that no folder mixes two generators, and then this line.
    digests = [
        hashlib.sha256(captions_csv(describe(SoundscapesConfig(), split))).hexdigest()[:16]
        for split in SPLITS
    ]
    assert (generate.GENERATOR_VERSION, digests) == (
        1,
        ["d9af4815ac88c26d", "20e2c8d4c500c120", "d1b007ae8a0ae4d8"],
    )


def test_what_is_heard_changes_only_with_the_version():
    # Root mean squares of version 1 (numpy 2.4), to three digits: the last bits are the machine's.
    levels = []
    for scene in describe(SoundscapesConfig(), "evaluation")[:6]:
        rng = random_stream(13, scene.split, scene.index, SOUND_STREAM)
        samples = render(scene.composition, rng).astype(np.float64)
        levels.append(float(np.sqrt(np.mean(samples**2))))
    assert generate.GENERATOR_VERSION == 1
    assert levels == pytest.approx([1668.1, 2595.7, 2223.3, 2629.0, 1768.8, 1716.0], rel=1e-3)
