from __future__ import annotations

import json
from dataclasses import replace

import pytest
from cache_world import memory_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from e2i.cache.header import CacheHeader, SideHeader, SideSettings, ensure_header, read_header
from e2i.cache.layout import HEADER_NAME, parse_document
from e2i.encoders.protocols import fingerprint
from e2i.errors import (
    CacheCorruptError,
    CacheError,
    CacheNotFoundError,
    FingerprintMismatchError,
    SchemaVersionError,
    StaleWriteError,
)
from e2i.storage import Folder

AUDIO = SideSettings({"encoder": "logmel", "mels": 64, "power": 2.0, "norm": True}, 128)
TEXT = SideSettings({"encoder": "hashing", "buckets": 512}, 512)


def ensure(folder: Folder, audio: SideSettings = AUDIO, text: SideSettings = TEXT, **options):
    return ensure_header(folder, "data", "development", {"audio": audio, "text": text}, **options)


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8)
        | st.floats(allow_nan=False, allow_infinity=False),
        max_size=6,
    )
)  # fmt: skip
@settings(deadline=None, max_examples=50)
def test_settings_survive_storing_to_the_type(values: dict) -> None:
    side = SideHeader(fingerprint=fingerprint(values), dim=3, settings=values)
    header = CacheHeader(dataset="d", split="s", audio=side, text=side)
    stored = parse_document(CacheHeader, header.as_bytes(), "cache.json")
    assert stored == header
    assert fingerprint(stored.audio.settings) == fingerprint(values)


def test_the_first_header_stays() -> None:
    folder = memory_folder()
    first = ensure(folder)
    assert read_header(folder) == first == ensure(folder)
    assert (first.audio.generation, first.text.generation) == (0, 0)


def test_other_settings_are_refused_by_name_and_value() -> None:
    folder = memory_folder()
    ensure(folder)
    audio = SideSettings({"encoder": "logmel", "mels": 32, "power": 2.0, "hop": 10}, 64)
    text = SideSettings({"encoder": "hashing", "buckets": 256}, 512)
    with pytest.raises(FingerprintMismatchError) as caught:
        ensure(folder, audio, text)
    assert str(caught.value) == (
        "the cache was made with other encoder settings: got audio hop = 10, mels = 32, "
        "norm = none, dim = 64; text buckets = 256, expected audio hop = none, mels = 64, "
        f"norm = True, dim = 128; text buckets = 512 as stored in {folder.url}. Use --force to "
        "embed the audio and text side again, or another --cache-dir."
    )


def test_an_integer_is_not_the_float_of_its_value() -> None:
    folder = memory_folder()
    ensure(folder)
    with pytest.raises(FingerprintMismatchError, match=r"got audio power = 2, expected .* 2\.0"):
        ensure(folder, replace(AUDIO, settings={**AUDIO.settings, "power": 2}))


def test_force_replaces_the_differing_side_only() -> None:
    folder = memory_folder()
    ensure(folder)
    text = SideSettings({"encoder": "hashing", "buckets": 64}, 64)
    forced = ensure(folder, text=text, force=True)
    assert (forced.audio.generation, forced.text.generation) == (0, 1)
    assert forced.text.dim == 64
    assert read_header(folder) == forced == ensure(folder, text=text)


def test_force_replaces_both_sides_where_none_differs() -> None:
    folder = memory_folder()
    ensure(folder)
    forced = ensure(folder, force=True)
    assert (forced.audio.generation, forced.text.generation) == (1, 1)


def test_going_back_to_earlier_settings_is_another_generation() -> None:
    folder = memory_folder()
    ensure(folder)
    ensure(folder, text=SideSettings({"encoder": "other"}, 2), force=True)
    assert ensure(folder, force=True).text.generation == 2


def test_one_run_forces_once() -> None:
    folder = memory_folder()
    ensure(folder)
    for _ in range(3):
        assert ensure(folder, force=True, force_token="run 1").audio.generation == 1
    assert ensure(folder, force=True, force_token="run 2").audio.generation == 2
    assert ensure(memory_folder(), force=True, force_token="run 1").audio.generation == 0


def test_another_data_set_or_split_is_refused_even_by_force() -> None:
    folder = memory_folder()
    ensure(folder)
    for dataset, split in (("data", "evaluation"), ("other", "development")):
        with pytest.raises(CacheError, match="holds another data set or split") as caught:
            ensure_header(folder, dataset, split, {"audio": AUDIO, "text": TEXT}, force=True)
        assert f"got '{dataset}', '{split}', expected 'data', 'development'" in str(caught.value)


def test_embeddings_of_others_are_not_touched() -> None:
    folder = memory_folder()
    folder.write("audio_embeddings.pt", b"the original's")
    with pytest.raises(CacheError, match=r"that e2i did not write: got audio_embeddings\.pt"):
        ensure(folder)
    assert [file.name for file in folder.files()] == ["audio_embeddings.pt"]


def test_no_cache() -> None:
    folder = memory_folder()
    with pytest.raises(CacheNotFoundError, match=r"expected a folder with cache\.json\. Make one"):
        read_header(folder)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'{"dataset": 3}', b"[" * 100_000])
def test_a_damaged_header_is_named(data: bytes) -> None:
    folder = memory_folder()
    folder.write(HEADER_NAME, data)
    with pytest.raises(CacheCorruptError, match=r"cache\.json cannot be read: got "):
        ensure(folder)


def test_another_schema_version_is_named() -> None:
    folder = memory_folder()
    ensure(folder)
    document = json.loads(folder.read(HEADER_NAME)) | {"schema_version": 2, "new": 1}
    folder.write(HEADER_NAME, json.dumps(document).encode())
    with pytest.raises(SchemaVersionError, match="got 2, expected 1"):
        ensure(folder)


def test_two_first_runs_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    folder, create = memory_folder(), Folder.create

    def create_second(self: Folder, name: str, data: bytes) -> bool:
        monkeypatch.setattr(Folder, "create", create)
        ensure(folder)
        return create(self, name, data)

    monkeypatch.setattr(Folder, "create", create_second)
    assert ensure(folder) == read_header(folder)


def test_two_that_force_at_once_both_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    folder, write = memory_folder(), Folder.replace
    ensure(folder)

    def replace_second(self: Folder, name: str, data: bytes, version: str | None) -> str:
        monkeypatch.setattr(Folder, "replace", write)
        ensure(folder, force=True, force_token="other run")
        return write(self, name, data, version)

    monkeypatch.setattr(Folder, "replace", replace_second)
    assert ensure(folder, force=True, force_token="this run").audio.generation == 2


def test_a_header_that_never_rests_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = memory_folder()
    ensure(folder)

    def refuse(*_: object) -> str:
        raise StaleWriteError("somebody was faster")

    monkeypatch.setattr(Folder, "replace", refuse)
    with pytest.raises(StaleWriteError, match=r"cache\.json keeps changing"):
        ensure(folder, force=True)
