"""Reading JSON and JSONL: what comes out, in which forms it may come, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2i.clips import Caption, CaptionedClips, Clip
from e2i.datasets.clotho import read_clotho
from e2i.datasets.config import MetadataConfig
from e2i.datasets.tabular import read_metadata
from e2i.errors import ConfigError, DatasetError, DatasetNotFoundError
from e2i.storage import Folder


def read(
    tmp_path: Path, data: bytes | str | list[object], name: str = "pairs.json", **options
) -> CaptionedClips:
    if not isinstance(data, bytes):
        data = (data if isinstance(data, str) else json.dumps(data)).encode()
    (tmp_path / name).write_bytes(data)
    return read_metadata(MetadataConfig(metadata=str(tmp_path / name), **options))


def entry(clip_id: object = "a", **changes: object) -> dict[str, object]:
    return {"id": clip_id, "audio": f"{clip_id}.wav", "text": f"sound of {clip_id}", **changes}


def lines(*entries: object) -> str:
    return "".join(json.dumps(one) + "\n" for one in entries)


ENTRIES = [entry("b #1", audio="x/b #1.wav"), entry("a", text=["one", " ", "three"])]
CLIPS = (
    Clip("b #1", "x/b #1.wav", (Caption("b #1#1", "b #1", "sound of b #1"),), 1),
    Clip("a", "a.wav", (Caption("a#1", "a", "one"), Caption("a#3", "a", "three")), 2),
)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pairs.json", json.dumps(ENTRIES)),
        ("pairs.json", json.dumps(ENTRIES, indent=2)),
        ("pairs.json", "\ufeff \n" + json.dumps(ENTRIES)),
        ("pairs.jsonl", lines(*ENTRIES)),
        ("pairs.jsonl", lines(*ENTRIES).replace("\n", "\r\n").rstrip()),
        ("pairs.jsonl", "\ufeff\n\n" + lines(ENTRIES[0]) + " \n" + lines(ENTRIES[1])),
        # What `datasets` and pandas write under this name are lines, too.
        ("pairs.json", lines(*ENTRIES)),
        ("pairs.jsonl", json.dumps(ENTRIES)),
        ("PAIRS.NDJSON", lines(*ENTRIES)),
        ("pairs", lines(*ENTRIES)),
        ("pairs.txt", "\ufeff" + json.dumps(ENTRIES)),
    ],
)
def test_ways_to_write_the_same(tmp_path: Path, name: str, text: str) -> None:
    clips = read(tmp_path, text, name)
    assert clips.clips == CLIPS
    assert (clips.dataset, clips.split) == (tmp_path.name, "all")
    assert (clips.audio_root_url, clips.source) == (str(tmp_path), str(tmp_path / name))


@pytest.mark.parametrize("name", ["captions.csv", "captions", "captions.tsv"])
def test_clothos_form_is_read_as_ever(tmp_path: Path, name: str) -> None:
    clips = read(tmp_path, b"file_name,caption_1\na.wav,rain\n", name)
    assert clips == read_clotho(str(tmp_path / name))


def test_a_csv_stays_one_whatever_it_starts_with(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="columns of Clotho's form"):
        read(tmp_path, json.dumps(ENTRIES), "pairs.csv")


def test_a_single_entry_is_enough_as_a_list_and_as_a_line(tmp_path: Path) -> None:
    assert len(read(tmp_path, [entry()]).clips) == 1
    assert read(tmp_path, lines(entry()), "one.jsonl").clips == read(tmp_path, [entry()]).clips


def test_the_names_of_the_keys_can_be_set(tmp_path: Path) -> None:
    row = {"name": 7, "path": "x.flac", "sentences": ["hum"], "rate": 44_100, "text": 1, "id": []}
    options = {"id_key": "name", "audio_key": "path", "text_key": "sentences"}
    (clip,) = read(tmp_path, [row], **options).clips
    assert clip == Clip("7", "x.flac", (Caption("7#1", "7", "hum"),), 1)
    row["rate"] = "fast"
    read(tmp_path, [row], **options)
    with pytest.raises(DatasetError, match="wrong value under 'rate': got the string 'fast'"):
        read(tmp_path, [row], **options, sample_rate_key="rate")


def test_entries_of_one_recording_are_one_clip(tmp_path: Path) -> None:
    """The original wrote one entry a pair: five times the same recording."""
    clips = read(
        tmp_path,
        [
            entry("a.wav#1", audio="a.wav", text="one"),
            entry("b.wav#1", audio="b.wav", text="two"),
            entry("a.wav#2", audio="./a.wav", text=["three", "four"]),
            entry("a.wav#3", audio=str(tmp_path / "a.wav"), text="three"),
        ],
    ).clips
    assert [clip.clip_id for clip in clips] == ["a.wav#1", "b.wav#1"]
    assert [(c.caption_id, c.text) for c in clips[0].captions] == [
        ("a.wav#1#1", "one"),
        ("a.wav#1#2", "three"),
        ("a.wav#1#3", "four"),
        ("a.wav#1#4", "three"),
    ]


def test_the_root_and_what_lies_below_it(tmp_path: Path) -> None:
    root = tmp_path / "sounds"
    names = ["a.wav", str(root / "deep" / "b.wav"), {"path": "c.wav", "bytes": None}]
    rows = [entry(f"{n}", audio=name) for n, name in enumerate(names)]
    clips = read(tmp_path, rows, audio_root=str(root))
    assert [clip.audio_name for clip in clips.clips] == ["a.wav", "deep/b.wav", "c.wav"]
    assert clips.audio_root_url == str(root)


@pytest.mark.parametrize("name", ["../a.wav", "x/../../a.wav", "/etc/a.wav", "s3://else/a.wav"])
def test_a_name_that_leads_out_of_the_root_is_kept_for_reading_to_refuse(
    tmp_path: Path, name: str
) -> None:
    clips = read(tmp_path, [entry("a", audio=name), entry("b")]).clips
    assert [clip.audio_name for clip in clips] == [name, "b.wav"]


def test_metadata_and_recordings_by_url() -> None:
    folder = Folder("memory://tabular-tests/birds")
    row = entry("a", audio="memory://tabular-tests/sounds/x/a.wav")
    folder.write("evaluation.jsonl", lines(row).encode())
    clips = read_metadata(
        MetadataConfig(
            metadata="memory://tabular-tests/birds/evaluation.jsonl",
            audio_root="memory://tabular-tests/sounds",
        )
    )
    assert (clips.dataset, clips.split) == ("birds", "evaluation")
    assert clips.audio_root_url == "memory://tabular-tests/sounds"
    assert clips.clips[0].audio_name == "x/a.wav"


def test_clothos_layout_holds_for_json_too(tmp_path: Path) -> None:
    (tmp_path / "clotho_csv_files").mkdir()
    clips = read(tmp_path, [entry()], "clotho_csv_files/captions_validation.json")
    assert clips.split == "validation"
    assert clips.dataset == tmp_path.name
    assert clips.audio_root_url == f"{tmp_path}/clotho_audio_files/validation"
    named = read(tmp_path, [entry()], "pairs.json", split="extra")
    assert named.split == "extra"


def test_line_ends_of_unicode_stay_inside_captions(tmp_path: Path) -> None:
    text = "one\u2028two\u0085three\x0bfour"
    row = json.dumps(entry(text=text), ensure_ascii=False)
    (clip,) = read(tmp_path, row + "\n", "pairs.jsonl").clips
    assert clip.captions[0].text == text


VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(VALUES, min_size=1, max_size=3), min_size=1, max_size=4),
    st.booleans(),
    st.booleans(),
)
def test_what_json_writes_is_read_back(
    texts: list[list[str]], as_lines: bool, ascii_only: bool
) -> None:
    rows = [entry(n, text=["x" + several[0], *several[1:]]) for n, several in enumerate(texts)]
    written = (
        "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)
        if as_lines
        else json.dumps(rows, ensure_ascii=ascii_only)
    )
    Folder("memory://tabular-tests/written").write("all.jsonl", written.encode())
    clips = read_metadata(MetadataConfig(metadata="memory://tabular-tests/written/all.jsonl")).clips
    assert [clip.clip_id for clip in clips] == [str(n) for n in range(len(texts))]
    for clip, several in zip(clips, texts, strict=True):
        kept = {1: "x" + several[0]} | {
            n: text for n, text in enumerate(several, 1) if n > 1 and text.strip()
        }
        assert {c.caption_id: c.text for c in clip.captions} == {
            f"{clip.clip_id}#{n}": text for n, text in kept.items()
        }


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60) | st.text('[]{}":,0truenlidax \n\\u', max_size=60).map(str.encode))
def test_anything_else_is_refused_in_words(data: bytes) -> None:
    Folder("memory://tabular-tests/noise").write("all.json", data)
    with pytest.raises(DatasetError, match=r"Correct|Fetch|Save|Check"):
        read_metadata(MetadataConfig(metadata="memory://tabular-tests/noise/all.json"))


GOOD = '{"id": "z", "audio": "z.wav", "text": "fine"}\n'
DEEP = "[" * 100_000
WRONG_FILES = [
    (b"", "is empty: got no text, expected a list of objects, or one object a line. Fetch"),
    (b" \n\n", "is empty: got no text"),
    (b"\xef\xbb\xbf", "is empty: got no text"),
    (b"[]", "holds no clips: got 0 entries, expected at least 1. Fetch the file again."),
    (b"hello", "is not JSON: got 'Expecting value' in line 1, column 1, expected a list of"),
    (b"12", "is not a list: got the number 12, expected a list of objects"),
    (b"null", "is not a list: got null"),
    (b'"id"', "is not a list: got the string 'id'"),
    (
        b'{"data": [{"id": 1}], "x": 2}',
        "is not a list: got an object (keys: 'data', 'x'), expected",
    ),
    (b"{}", "is not a list: got an object (keys: none)"),
    (b'[{"id": "a",]\n', "is not JSON: got "),
    (b'[{"id": "a"}, {"id"', "in line 1, column"),
    (b'[{"id": "a"}] []', "is not JSON: got 'Extra data' in line 1, column 15"),
    (DEEP.encode(), "is nested too deeply: got more levels than can be read, expected a list"),
    (b"[1" + b"0" * 5000 + b"]", "cannot be read: got Exceeds the limit (4300 digits)"),
    ('[{"id": "é"}]'.encode("latin-1"), "is not UTF-8: got byte 0xe9 in line 1 (byte 9), expected"),
    ("[1]".encode("utf-16"), "is not UTF-8: got UTF-16, expected UTF-8. Save it as UTF-8"),
    (b"[\0\x01\x02", "is not text: got a NUL byte in line 1 (byte 1), expected JSON in UTF-8"),
]


@pytest.mark.parametrize(("data", "message"), WRONG_FILES)
def test_a_wrong_file_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(DatasetError) as raised:
        read(tmp_path, data)
    assert str(raised.value).startswith(f"metadata {tmp_path}/pairs.json ")
    assert message in str(raised.value)


WRONG_ENTRIES = [
    (
        [3],
        "entry 1: not an object: got the number 3, expected an object with the keys 'id', 'audio'",
    ),
    ([["a", "b"]], "entry 1: not an object: got a list"),
    ([entry(), None], "entry 2: not an object: got null"),
    (
        [{"id": "a", "audio": "a.wav", "caption": "x"}],
        "entry 1: no key 'text': got the keys 'id', ",
    ),
    ([{"id": "a", "text": "x"}], "expected 'audio' among them. Add it, or name the key that holds"),
    ([{"audio": "a.wav", "text": "x"}], "holds it with --id-key."),
    ([{}], "no key 'id': got the keys none"),
    ([entry(None)], "wrong value under 'id': got null, expected a string that is not blank, or a"),
    ([entry(" ")], "wrong value under 'id': got the string ' '"),
    ([entry(1.0)], "wrong value under 'id': got the number 1.0"),
    ([entry(True)], "wrong value under 'id': got true"),
    ([entry(audio=5)], "wrong value under 'audio': got the number 5, expected the path or URL of"),
    ([entry(audio=[0.1, 0.2])], "wrong value under 'audio': got a list"),
    ([entry(audio={"bytes": "UklG"})], "wrong value under 'audio': got null, expected the path"),
    ([entry(audio="")], "audio name names no recording"),
    ([entry(text=None)], "wrong value under 'text': got null, expected a string or a list of"),
    ([entry(text={"en": "x"})], "wrong value under 'text': got an object"),
    ([entry(text=["x", 2])], "wrong value under 'text': got the number 2"),
    ([entry(text=[["x"]])], "wrong value under 'text': got a list"),
    ([entry(text=" \n")], "no caption: got nothing but blanks under 'text', expected at least one"),
    ([entry(text=[])], "no caption: got nothing but blanks"),
    ([entry(text="\ud800")], r"no valid text under 'text': got half a surrogate pair (\ud800)"),
    ([entry("\udfff", audio="a.wav")], "no valid text under 'id'"),
    (
        [entry(sample_rate=0)],
        "wrong value under 'sample_rate': got the number 0, expected a sample",
    ),
    ([entry(sample_rate="44100")], "wrong value under 'sample_rate': got the string '44100'"),
    ([entry(sample_rate=float("nan"))], "wrong value under 'sample_rate': got the number nan"),
    ([entry(sample_rate=float("inf"))], "got the number inf"),
    ([entry(sample_rate=True)], "got true"),
    (
        [entry("a"), entry("b"), entry("a", audio="c.wav")],
        "entry 3: 'id' stands twice: got 'a' here ",
    ),
    (
        [entry(1), entry("1", audio="c.wav")],
        "entry 2: 'id' stands twice: got '1' here and in entry 1",
    ),
]


@pytest.mark.parametrize(("rows", "message"), WRONG_ENTRIES)
def test_a_wrong_entry_is_named(tmp_path: Path, rows: list[object], message: str) -> None:
    with pytest.raises(DatasetError) as raised:
        read(tmp_path, rows)
    first, fault = str(raised.value).split("\n")
    assert first == f"metadata {tmp_path}/pairs.json has 1 wrong entry:"
    assert message in fault
    assert fault.endswith(".")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "a", "audio": ', "entry 2 (line 3): not JSON: got 'Expecting value' at column "),
        (
            "id,audio,text",
            "entry 2 (line 3): not JSON: got 'Expecting value' at column 1, expected",
        ),
        ('{"id": 1} {"id": 2}', "not JSON: got 'Extra data' at column 11, expected one object a"),
        (DEEP, "entry 2 (line 3): nested too deeply: got more levels than can be read"),
        ('{"id": 1' + "0" * 5000 + "}", "entry 2 (line 3): cannot be read: got Exceeds the limit"),
        ('"a"', "entry 2 (line 3): not an object: got the string 'a'"),
        (
            '{"id": "a", "audio": "a.wav", "text": "x", "text": "y"}',
            "entry 2 (line 3): key 'text' stands twice: got it more than once in one object",
        ),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DatasetError) as raised:
        read(tmp_path, f"{GOOD}\n{line}\n", "pairs.jsonl")
    assert "has 1 wrong entry:" in str(raised.value)
    assert message in str(raised.value)
    assert len(str(raised.value)) < 1000


def test_a_first_line_that_is_cut_off_is_named_too(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"entry 1 \(line 1\): not JSON: got 'Unterminated"):
        read(tmp_path, '{"id": "a\n' + GOOD, "pairs.jsonl")


def test_a_repeated_key_that_nobody_reads_is_no_fault(tmp_path: Path) -> None:
    row = '{"id": "a", "audio": "a.wav", "text": "x", "tag": 1, "tag": 2, "deep": {"id": 1}}'
    assert len(read(tmp_path, row, "pairs.jsonl").clips) == 1


def test_faults_come_together_the_first_ten(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as raised:
        read(tmp_path, [entry(), *[3] * 12, entry()])
    message = str(raised.value)
    assert f"metadata {tmp_path}/pairs.json has 13 wrong entries:\n  entry 2: not an" in message
    assert "entry 11: not" in message
    assert "entry 12: not" not in message
    assert message.endswith("  ... and 3 more.")


def test_what_is_not_there(tmp_path: Path) -> None:
    def refused(metadata: str | None, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            read_metadata(MetadataConfig(metadata=metadata))

    refused(None, ConfigError, "no metadata: got nothing, expected a caption file. Give its path")
    refused(f"{tmp_path}/no.json", DatasetNotFoundError, r"metadata not found: got .*/no\.json, ")
    refused(str(tmp_path), DatasetError, "metadata is a folder: got .*, expected a caption file")
    refused("memory://x/", DatasetError, "metadata is a folder: got 'memory://x/'")
    refused("memory://x/no.jsonl", DatasetNotFoundError, "metadata not found: got memory://x/no")
    refused("gopher://x/a.json", ConfigError, "unknown protocol: got 'gopher'")
