"""Lists of clips to leave out of training."""

from __future__ import annotations

import pytest

from e2i.clips import ClipKey
from e2i.errors import ConfigError
from e2i.heads.clip_roles import clip_digest
from e2i.heads.config import HeadsConfig
from e2i.training.config import TrainingConfig
from e2i.training.exclusion import read_exclusions
from e2i.training.train import train_heads

KEYS = (
    ClipKey("wavcaps", "all", "freesound/1001.flac"),
    ClipKey("wavcaps", "all", "1002.flac"),
    ClipKey("clotho", "development", "1002.wav"),
    ClipKey("clotho", "development", "Dog #2, far [away].wav"),
    ClipKey("clotho", "validation", "Dog #2, far [away].wav"),
)


def kept(tmp_path, text, name="list.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_exclusions(str(path)).kept(KEYS).tolist()


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("clip_id\n1002.wav\n", [0, 1, 3, 4]),
        ('file_name\n"Dog #2, far [away].wav"\n', [0, 1, 2]),
        ('dataset,split,clip_id\nclotho,validation,"Dog #2, far [away].wav"\n', [0, 1, 2, 3]),
        ('split,clip_id\nvalidation,"Dog #2, far [away].wav"\n,1002.wav\n', [0, 1, 3]),
        # The published form of the DCASE lists: Freesound ids, which are names without endings.
        ("sound_id\r\n1001\r\n1002\r\n", [3, 4]),
        ("dataset,sound_id\nwavcaps,1002\n", [0, 2, 3, 4]),
        ("\ufeffclip_id\n1002.wav\n", [0, 1, 3, 4]),
        ("clip_id\n", [0, 1, 2, 3, 4]),
        ("clip_id\nanother.wav\n", [0, 1, 2, 3, 4]),
    ],
)
def test_what_a_list_names_is_left_out(tmp_path, text, left):
    assert kept(tmp_path, text) == left


def test_a_plain_list_names_clips(tmp_path):
    assert kept(tmp_path, "1002.wav\n\nDog #2, far [away].wav\n", "list.txt") == [0, 1]


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_exclusions(str(tmp_path / "none.csv"))
    assert str(caught.value) == (
        f"the list of clips to leave out is not there: got {tmp_path}/none.csv, expected a CSV "
        "with a column clip_id or file_name or sound_id. Correct --exclude-ids."
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"1001\n1002\n", "does not name clips: got columns ['1001'] in "),
        (b"", "does not name clips: got columns [] in "),
        (b"clip_id,split\none.wav,x\n,y\n", "names none: got an empty clip_id in line 3 of "),
        (b"clip_id\n\xff\n", "is no text: got byte 0xff at 8 in "),
        (b'clip_id\n"one.wav\ntwo.wav\n', "is no CSV: got unexpected end of data in "),
        (b'clip_id\n"' + b"x" * 200_000, "is no CSV: got field larger than field limit (131072)"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path, data, words):
    (tmp_path / "list.csv").write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read_exclusions(str(tmp_path / "list.csv"))
    assert words in str(caught.value)
    assert str(tmp_path / "list.csv") in str(caught.value)


def test_excluded_clips_are_neither_trained_nor_selected_nor_tested_on(tmp_path, make_cache):
    cache = make_cache(40)
    gone = cache.clip_ids[::4]
    (tmp_path / "list.csv").write_text("clip_id\n" + "\n".join(gone) + "\n")

    trained = train_heads(
        [cache],
        None,
        training=TrainingConfig(epochs=1, device="cpu"),
        heads=HeadsConfig(hidden_dim=8, out_dim=4),
        exclude=read_exclusions(str(tmp_path / "list.csv")),
    )

    roles = trained.checkpoint.clips
    digests = {clip_digest(ClipKey(cache.dataset, cache.split, one)) for one in gone}
    assert digests.isdisjoint(roles.train | roles.validation | roles.test)
    assert len(roles.train | roles.validation | roles.test) == 30
    assert trained.num_excluded == 10
    assert (
        "10 of 40 clips are left out of training, as the list of excluded clips asks."
        in trained.notes
    )
