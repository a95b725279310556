"""Reading Clotho's form: what comes out, where the recordings are, and what is refused."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from e2i.clips import Caption, Clip
from e2i.datasets.clotho import read_clotho
from e2i.datasets.config import MetadataConfig
from e2i.datasets.metadata_file import split_named_in
from e2i.errors import DatasetError, DatasetNotFoundError
from e2i.storage import Folder

HEADER = b"file_name,caption_1,caption_2\n"


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    return tmp_path / "sounds" / "captions.csv"


def write(path: Path, data: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def test_clips_and_captions_in_the_order_of_the_rows(metadata: Path) -> None:
    rows = b'b.wav,"Rain, then a ""bell""",Two\nlines/a #1.wav, spaced ,\n'
    clips = read_clotho(write(metadata, HEADER + rows))
    assert clips.clips == (
        Clip(
            "b.wav",
            "b.wav",
            (
                Caption("b.wav#1", "b.wav", 'Rain, then a "bell"'),
                Caption("b.wav#2", "b.wav", "Two"),
            ),
            1,
        ),
        Clip(
            "lines/a #1.wav",
            "lines/a #1.wav",
            (Caption("lines/a #1.wav#1", "lines/a #1.wav", " spaced "),),
            2,
        ),
    )
    assert (clips.dataset, clips.split) == ("sounds", "all")
    assert clips.audio_root_url == str(metadata.parent)
    assert clips.source == str(metadata)


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbffile_name,caption_1\na.wav,caf\xc3\xa9\n",
        b"file_name,caption_1\r\na.wav,caf\xc3\xa9\r\n",
        b"file_name,caption_1\ra.wav,caf\xc3\xa9",
        b"\n file_name , caption_1 \n\na.wav,caf\xc3\xa9\n  \n\n",
        b'"file_name","caption_1"\n"a.wav","caf\xc3\xa9"\n',
        b"keywords,caption_1,file_name\nx;y,caf\xc3\xa9,a.wav\n",
    ],
)
def test_ways_to_write_the_same(metadata: Path, data: bytes) -> None:
    (clip,) = read_clotho(write(metadata, data)).clips
    assert clip == Clip("a.wav", "a.wav", (Caption("a.wav#1", "a.wav", "café"),), 1)


def test_a_caption_keeps_the_number_of_its_column(metadata: Path) -> None:
    data = b"caption_10,file_name,caption_2,caption_7\nten,a.wav,two,\n"
    (clip,) = read_clotho(write(metadata, data)).clips
    assert [(c.caption_id, c.text) for c in clip.captions] == [
        ("a.wav#2", "two"),
        ("a.wav#10", "ten"),
    ]


def test_long_captions_and_captions_of_several_lines(metadata: Path) -> None:
    long = "a dog barks " * 8_334
    data = f'file_name,caption_1\na.wav,{long}\nb.wav,"one\ntwo"\nb.wav,x\n'
    with pytest.raises(
        DatasetError, match=r"row 3 \(line 5\).*'b.wav' here and in row 2 \(line 3\)"
    ):
        read_clotho(write(metadata, data.encode()))
    clips = read_clotho(write(metadata, data.encode()[: -len("b.wav,x\n")]))
    assert [caption.text for caption in clips.captions] == [long, "one\ntwo"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(
            st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=3, max_size=3
        ),
        min_size=1,
        max_size=5,
    )
)
def test_what_csv_writes_is_read_back(rows: list[list[str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerow(["file_name", "caption_1", "caption_2", "caption_3"])
    writer.writerows([f"{n}.wav", "x" + row[0], *row[1:]] for n, row in enumerate(rows))
    Folder("memory://written").write("all.csv", text.getvalue().encode())
    clips = read_clotho("memory://written/all.csv").clips
    assert [clip.captions[0].text for clip in clips] == ["x" + row[0] for row in rows]
    assert [len(clip.captions) for clip in clips] == [
        1 + sum(bool(cell.strip()) for cell in row[1:]) for row in rows
    ]


WRONG = [
    (b"", "is empty: got no text, expected a header and rows. Fetch the file again."),
    (b"\n \n\n", "is empty: got no text"),
    (HEADER, "holds no clips: got a header and 0 rows, expected at least 1. Fetch"),
    (
        b"file_name\na.wav\n",
        "got no caption column (columns: 'file_name'), expected file_name, capt",
    ),
    (b"name,caption_1\na.wav,x\n", "got no column file_name (columns: 'name', 'caption_1')"),
    (b"file_name;caption_1\na.wav;x\n", "columns: 'file_name;caption_1'"),
    (b"file_name,caption_1,caption_1\na,b,c\n", "got column caption_1 twice"),
    (b"file_name,file_name,caption_1\na,b,c\n", "got column file_name twice"),
    (b"file_name,caption_1,captions_2\na,b,c\n", "got caption column 'captions_2'"),
    (b"file_name,caption_1,caption_0\na,b,c\n", "got caption column 'caption_0'"),
    (b"a.wav,A dog barks\n", "got no column file_name (columns: 'a.wav', 'A dog barks')"),
    (
        HEADER + b"a.wav,x,caf\xe9\n",
        "is not UTF-8: got byte 0xe9 in line 2 (byte 41), expected UTF",
    ),
    ("file_name,caption_1\n".encode("utf-16"), "is not UTF-8: got UTF-16, expected UTF-8. Save it"),
    ("file_name,caption_1\n".encode("utf-16-le"), "is not text: got a NUL byte in line 1 (byte 1)"),
    (HEADER + b"a.wav,x\0,y\n", "is not text: got a NUL byte in line 2 (byte 37), expected CSV"),
    (b"PK\x03\x04\x14\x00\x06\x00", "is not text: got a NUL byte in line 1 (byte 5)"),
    (b"\x89PNG\r\n\x1a\n", "is not UTF-8: got byte 0x89 in line 1 (byte 0)"),
    (
        HEADER + b'a.wav,"x,y\nb.wav,x,y\n',
        "cannot be read at row 1 (line 2): got an unbalanced quote",
    ),
    (HEADER + b'a.wav,"x" z,y\n', "at row 1 (line 2): got an unbalanced quote"),
    (b'"file_name,caption_1\n', "cannot be read at the header (line 1): got an unbalanced quote"),
    (HEADER + b"a,b,c\nb,c," + b"x" * 131_073, "at row 2 (line 3): got a cell longer than 131,072"),
    (HEADER + b"a.wav,x\n", "row 1 (line 2): wrong number of cells: got 2, expected 3 as in the"),
    (
        HEADER + b"a.wav,x,y\nb.wav,Rain, wind, hail\n",
        "row 2 (line 3): wrong number of cells: got 4",
    ),
    (HEADER + b"a.wav, ,\n", "row 1 (line 2): no caption: got only empty cells for 'a.wav'"),
    (HEADER + b",x,y\n", "row 1 (line 2): audio name names no recording: got ''"),
    (HEADER + b"b/,x,y\n", "row 1 (line 2): audio name names no recording: got 'b/'"),
    (
        HEADER + b"a.wav,x,y\n\nb.wav,x,y\na.wav,x,y\n",
        "row 3 (line 5): file_name stands twice: got 'a.wav' here and in row 1 (line 2), expected",
    ),
]


@pytest.mark.parametrize(("data", "message"), WRONG)
def test_what_is_wrong_is_named(metadata: Path, data: bytes, message: str) -> None:
    with pytest.raises(DatasetError) as raised:
        read_clotho(write(metadata, data))
    assert message in str(raised.value)
    assert f"metadata {metadata} " in str(raised.value)
    assert len(str(raised.value)) < 600
    assert not isinstance(raised.value, DatasetNotFoundError)


def test_faults_of_rows_come_together_the_first_ten() -> None:
    rows = b"".join(b"%d.wav,x\n" % number for number in range(12))
    Folder("memory://wrong").write("all.csv", HEADER + b"ok.wav,x,y\n" + rows + b",x,y\n")
    with pytest.raises(DatasetError) as raised:
        read_clotho("memory://wrong/all.csv")
    lines = str(raised.value).splitlines()
    assert lines[0] == "metadata memory://wrong/all.csv has 13 wrong rows:"
    assert [line.split(":")[0].strip() for line in lines[1:11]] == [
        f"row {number} (line {number + 1})" for number in range(2, 12)
    ]
    assert lines[11:] == ["  ... and 3 more."]


def test_a_name_that_leads_out_of_the_root_is_kept_for_reading_to_refuse(metadata: Path) -> None:
    data = HEADER + b"../a.wav,x,y\n/etc/b.wav,x,y\n"
    clips = read_clotho(write(metadata, data)).clips
    assert [clip.audio_name for clip in clips] == ["../a.wav", "/etc/b.wav"]


def test_a_folder_is_no_metadata(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=f"metadata is a folder: got '{tmp_path}', expected a"):
        read_clotho(str(tmp_path))


def test_no_such_file(metadata: Path) -> None:
    write(metadata, HEADER)
    location = metadata.parents[1] / "missing.csv"
    with pytest.raises(DatasetNotFoundError) as raised:
        read_clotho(str(location))
    assert str(raised.value) == (
        f"metadata not found: got {location}, expected a caption file. Correct --metadata."
    )
    assert isinstance(raised.value, FileNotFoundError)


def test_a_url_of_a_folder() -> None:
    with pytest.raises(DatasetError, match="metadata is a folder: got 'memory://sounds/'"):
        read_clotho("memory://sounds/")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("clotho_captions_development.csv", "development"),
        ("clotho_captions_validation.csv", "validation"),
        ("Evaluation.csv", "evaluation"),
        ("evaluation2.csv", "evaluation"),
        ("captions.csv", "all"),
        ("redevelopment.csv", "all"),
        ("validations.csv", "all"),
        ("development_and_validation.csv", "all"),
    ],
)
def test_the_split_is_named_in_the_file(name: str, split: str) -> None:
    assert split_named_in(name) == split


LAYOUT = "CLOTHO_v2.1/clotho_csv_files/clotho_captions_validation.csv"


@pytest.mark.parametrize("base", ["local", "memory://base"])
def test_clothos_layout(tmp_path: Path, base: str) -> None:
    base = str(tmp_path) if base == "local" else base
    Folder(f"{base}/{LAYOUT.rpartition('/')[0]}").write(Path(LAYOUT).name, HEADER + b"a.wav,x,y\n")
    clips = read_clotho(f"{base}/{LAYOUT}")
    assert (clips.dataset, clips.split) == ("CLOTHO_v2.1", "validation")
    assert clips.audio_root_url == f"{base}/CLOTHO_v2.1/clotho_audio_files/validation"
    assert clips.source == f"{base}/{LAYOUT}"

    named = read_clotho(f"{base}/{LAYOUT}", split="mine", dataset="soundscapes")
    assert (named.dataset, named.split) == ("soundscapes", "mine")
    assert named.audio_root_url == f"{base}/CLOTHO_v2.1/clotho_audio_files/mine"

    elsewhere = read_clotho(f"{base}/{LAYOUT}", audio_root="memory://audio")
    assert elsewhere.audio_root_url == "memory://audio"


def test_clothos_layout_without_a_split_has_no_folder_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "clotho_csv_files" / "captions.csv"
    clips = read_clotho(write(path, HEADER + b"a.wav,x,y\n"))
    assert (clips.split, clips.audio_root_url) == ("all", str(path.parent))


def test_paths_are_relative_to_the_working_directory(
    metadata: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(metadata, HEADER + b"%s/deep/a.wav,x,y\n" % os.fsencode(metadata.parent / "audio"))
    monkeypatch.chdir(metadata.parent)
    clips = read_clotho("captions.csv", audio_root="audio")
    assert clips.audio_root_url == str(metadata.parent / "audio")
    assert (clips.dataset, clips.clips[0].audio_name) == ("sounds", "deep/a.wav")
    assert clips.clips[0].clip_id == f"{metadata.parent}/audio/deep/a.wav"


def test_no_credential_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Folder, "read", lambda self, name: HEADER + b"s3://k:sesame@b/a.wav,x,y\n")
    url = "s3://key:sesame@bucket/clotho_csv_files/development.csv"
    with pytest.raises(DatasetError, match="below s3://bucket/clotho_audio_files/dev") as raised:
        read_clotho(url)
    assert "sesame" not in str(raised.value)
    monkeypatch.setattr(Folder, "read", lambda self, name: HEADER + b"a.wav,x,y\n")
    clips = read_clotho(url)
    assert clips.source == "s3://bucket/clotho_csv_files/development.csv"
    # The recordings are read with them.
    assert clips.audio_root_url == "s3://key:sesame@bucket/clotho_audio_files/development"


@pytest.mark.skipif("E2I_CLOTHO_CAPTIONS" not in os.environ, reason="needs Clotho's captions")
@pytest.mark.parametrize(
    ("split", "clips"), [("development", 3839), ("validation", 1045), ("evaluation", 1045)]
)
def test_clothos_own_captions(split: str, clips: int) -> None:
    # Numbers of clips: Zenodo record 4783391, version 2.1.
    folder = os.environ["E2I_CLOTHO_CAPTIONS"]
    read = read_clotho(f"{folder}/clotho_captions_{split}.csv")
    assert (read.split, len(read.clips), len(read.captions)) == (split, clips, 5 * clips)
    assert len({caption.caption_id for caption in read.captions}) == 5 * clips
    assert all(clip.audio_name == clip.clip_id for clip in read.clips)


@pytest.mark.parametrize(
    "wrong", [{"metadata": ""}, {"split": "a/b"}, {"split": ""}, {"audio_root": ""}, {"spilt": "x"}]
)
def test_wrong_options_name_their_field(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        MetadataConfig.model_validate(wrong)
    assert MetadataConfig().metadata is None
