"""Audio names: below the root, however they are written, and nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2i.datasets.audio_root import audio_name_in, resolve_audio_name
from e2i.errors import DatasetError


@pytest.mark.parametrize(
    ("audio", "root", "name"),
    [
        ("a.wav", "/data/audio", "a.wav"),
        ("b/a.wav", "/data/audio", "b/a.wav"),
        ("./b//a.wav", "/data/audio", "b/a.wav"),
        ("/data/audio/a.wav", "/data/audio", "a.wav"),
        ("/data//audio/./b/a.wav", "/data/audio/", "b/a.wav"),
        ("file:///data/audio/a.wav", "/data/audio", "a.wav"),
        ("/data/a.wav", "/", "data/a.wav"),
        ("s3://bucket/audio/a.wav", "s3://bucket/audio", "a.wav"),
        ("S3://bucket/audio//b/a.wav", "s3://bucket/audio/", "b/a.wav"),
        ("memory://a.wav", "memory://", "a.wav"),
        ("what? 100% #3 [b] &#39;..wav", "s3://bucket/audio", "what? 100% #3 [b] &#39;..wav"),
        ("KOOKABURRA..WAV.wav", "/data/audio", "KOOKABURRA..WAV.wav"),
        ("%2e%2e/a.wav", "/data/audio", "%2e%2e/a.wav"),
        (" a.wav", "/data/audio", " a.wav"),
        ("~/a.wav", "/data/audio", "~/a.wav"),
        ("note: s3://x.wav", "/data/audio", "note: s3:/x.wav"),
    ],
)
def test_names_below_the_root(audio: str, root: str, name: str) -> None:
    assert resolve_audio_name(audio, root) == name


@pytest.mark.parametrize(
    ("audio", "root", "message"),
    [
        ("../a.wav", "/data/audio", "has '..' in it: got '../a.wav', expected a name below /data"),
        ("b/../a.wav", "/data/audio", "has '..' in it"),
        ("/data/audio/../secret.wav", "/data/audio", "has '..' in it"),
        ("s3://bucket/audio/../secret", "s3://bucket/audio", "has '..' in it"),
        ("/etc/passwd", "/data/audio", "outside the audio root: got '/etc/passwd', expected one"),
        ("/data/audiobook.wav", "/data/audio", "outside the audio root"),
        ("/data/audio/a.wav", "s3://data/audio", "outside the audio root"),
        ("s3://other/a.wav", "s3://bucket/audio", "outside the audio root"),
        ("https://example.org/a.wav", "/data/audio", "outside the audio root"),
        ("file:///etc/passwd", "/data/audio", "outside the audio root"),
        ("", "/data/audio", "names no recording: got ''"),
        ("  ", "/data/audio", "names no recording"),
        ("./ ", "/data/audio", "names no recording"),
        ("b/", "/data/audio", "names no recording"),
        (".", "/data/audio", "names no recording"),
        ("/data/audio", "/data/audio", "outside the audio root"),
        ("a\0.wav", "/data/audio", "holds a NUL character"),
    ],
)
def test_all_else_is_refused(audio: str, root: str, message: str) -> None:
    with pytest.raises(DatasetError) as raised:
        resolve_audio_name(audio, root)
    assert message in str(raised.value)
    assert str(raised.value).endswith("give the folder of the recordings as --audio-root.")


@given(st.text("ab./~:\\ ", max_size=12), st.sampled_from(["/a/b", "s3://a/b", "memory://"]))
def test_no_name_leaves_the_root(audio: str, root: str) -> None:
    try:
        name = resolve_audio_name(audio, root)
    except DatasetError:
        return
    assert name
    assert all(part not in {"", ".", ".."} for part in name.split("/"))
    assert resolve_audio_name(name, root) == name


@pytest.mark.parametrize("audio", ["../a.wav", "/etc/a.wav", "s3://other/a.wav", "a/../b.wav"])
def test_what_leads_out_is_kept_as_it_stands(audio: str) -> None:
    assert audio_name_in(audio, "s3://bucket/audio") == audio


@pytest.mark.parametrize("audio", ["", " ", "b/", "../b/", "a\0.wav", "../a\0.wav", "."])
def test_what_names_no_recording_is_not_kept(audio: str) -> None:
    with pytest.raises(DatasetError):
        audio_name_in(audio, "/data/audio")


def test_credentials_are_neither_kept_nor_shown() -> None:
    with pytest.raises(DatasetError, match=r"got 's3://\*\*\*@bucket/a.wav'") as raised:
        audio_name_in("s3://key:sesame@bucket/a.wav", "s3://bucket/audio")
    assert "sesame" not in str(raised.value)
