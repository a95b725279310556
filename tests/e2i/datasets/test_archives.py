"""Unpacking: what comes out, and what is refused before anything is written."""

from __future__ import annotations

import stat
from pathlib import Path

import py7zr
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from py7zr.helpers import calculate_crc32

from e2i.datasets.archives import Member, holds_all, move_into, read_members, unpack
from e2i.errors import DatasetError, StorageNotFoundError

CONTENT = {"rain & wind [1].wav": b"rain" * 500, "#2 100%.wav": b"", "bell.wav": b"bell"}


def write_archive(path: Path, files: dict[str, bytes]) -> Path:
    with py7zr.SevenZipFile(
        path, "w", filters=[{"id": py7zr.FILTER_LZMA2, "preset": 1}]
    ) as archive:
        for name, data in files.items():
            archive.writestr(data, name)
    return path


def rename_members(path: Path, names: dict[str, str]) -> Path:
    """Give members names that py7zr would not write."""
    with py7zr.SevenZipFile(path, "a") as archive:
        for file in archive.files:
            new = names.get(file.filename, file.filename)
            archive.header.files_info.files[file.id]["filename"] = new
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("top", ["", "development/", "other name/"])
def test_recordings_come_out_with_or_without_a_folder_around_them(tmp_path: Path, top: str) -> None:
    archive = write_archive(
        tmp_path / "a.7z", {f"{top}{name}": data for name, data in CONTENT.items()}
    )
    members = read_members(archive)
    reported: list[int] = []
    unpack(archive, members, tmp_path / "out", reported.append)
    assert contents(tmp_path / "out") == CONTENT
    assert sum(reported) == sum(map(len, CONTENT.values()))
    assert {m.name: m.size_bytes for m in members} == {n: len(d) for n, d in CONTENT.items()}


def test_an_archive_made_of_a_folder_with_an_entry_for_the_folder(tmp_path: Path) -> None:
    (tmp_path / "evaluation").mkdir()
    for name, data in CONTENT.items():
        (tmp_path / "evaluation" / name).write_bytes(data)
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w") as archive:
        archive.writeall(tmp_path / "evaluation", "evaluation")
    members = read_members(tmp_path / "a.7z")
    assert sorted(m.name for m in members) == sorted(CONTENT)
    unpack(tmp_path / "a.7z", members, tmp_path / "out", lambda _: None)
    assert contents(tmp_path / "out") == CONTENT


def test_only_a_folder_that_all_share_is_left_out(tmp_path: Path) -> None:
    files = {"x/a.wav": b"1", "x/y/a.wav": b"2"}
    members = read_members(write_archive(tmp_path / "a.7z", files))
    assert [m.name for m in members] == ["a.wav", "y/a.wav"]
    files = {"x/a.wav": b"1", "y/a.wav": b"2"}
    members = read_members(write_archive(tmp_path / "b.7z", files))
    assert [m.name for m in members] == ["x/a.wav", "y/a.wav"]


@settings(max_examples=20)
@given(
    st.dictionaries(
        st.text(st.sampled_from("aB #[]%&;'~é"), min_size=1, max_size=6).map(lambda n: f"{n}.wav"),
        st.binary(max_size=40),
        min_size=1,
        max_size=4,
    )
)
def test_unpacking_gives_back_what_was_packed(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("packed")
    archive = write_archive(folder / "a.7z", files)
    members = read_members(archive)
    unpack(archive, members, folder / "out", lambda _: None)
    assert contents(folder / "out") == files
    assert holds_all(folder / "out", members)


@pytest.mark.parametrize(
    "name",
    ["../evil.wav", "a/../../evil.wav", "/evil.wav", "C:\\evil.wav", "..\\evil.wav", "\\evil.wav"],
)
def test_a_member_that_leads_out_of_the_folder_is_named_and_refused(
    tmp_path: Path, name: str
) -> None:
    archive = write_archive(tmp_path / "a.7z", {"good.wav": b"1", "bad.wav": b"2"})
    rename_members(archive, {"bad.wav": name})
    stored = name.replace("\\", "/")  # as the format has it
    with pytest.raises(DatasetError) as caught:
        read_members(archive)
    assert str(caught.value) == (
        f"a.7z reaches out of its folder: got member {stored!r}, expected relative names without "
        "'..'. Nothing of it was unpacked; use the published archive."
    )


def test_a_link_is_named_and_refused(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "good.wav").write_bytes(b"1")
    (tmp_path / "x" / "link.wav").symlink_to("good.wav")
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w") as archive:
        archive.writeall(tmp_path / "x", "x")
    with pytest.raises(
        DatasetError, match=r"got a link, member 'x/link.wav', expected plain files only"
    ):
        read_members(tmp_path / "a.7z")


def test_a_device_is_named_and_refused(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "a.7z", {"good.wav": b"1", "null": b"2"})
    with py7zr.SevenZipFile(archive, "a") as content:
        info = content.header.files_info.files[1]
        info["attributes"] = info["attributes"] & 0xFFFF | 0x8000 | (stat.S_IFCHR | 0o644) << 16
    with pytest.raises(DatasetError, match=r"got a special file, member 'null'"):
        read_members(archive)


def test_one_name_twice_is_refused(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "a.7z", {"a.wav": b"1", "b.wav": b"2"})
    rename_members(archive, {"b.wav": "a.wav"})
    with pytest.raises(DatasetError, match=r"got members 'a.wav' and 'a.wav', expected each name"):
        read_members(archive)


def test_an_archive_without_recordings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w") as archive:
        archive.writeall(tmp_path / "empty", "empty")
    with pytest.raises(DatasetError, match=r"holds no files: got 1 members that are folders"):
        read_members(tmp_path / "a.7z")


@pytest.mark.parametrize(
    "data", [b"", b"text that is no archive", b"7z\xbc\xaf\x27\x1c" + bytes(40)]
)
def test_what_is_no_archive_says_so(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.7z").write_bytes(data)
    with pytest.raises(DatasetError, match=r"expected a sound 7z archive without a password"):
        read_members(tmp_path / "a.7z")


def test_a_missing_archive_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageNotFoundError, match=r"a\.7z"):
        read_members(tmp_path / "a.7z")


def test_an_encrypted_archive_says_so(tmp_path: Path) -> None:
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w", password="secret") as archive:
        archive.writestr(b"1", "a.wav")
    with pytest.raises(DatasetError, match=r"without a password"):
        unpack(tmp_path / "a.7z", read_members(tmp_path / "a.7z"), tmp_path / "out", print)


def test_broken_bytes_inside_are_noticed(tmp_path: Path) -> None:
    archive = tmp_path / "a.7z"
    with py7zr.SevenZipFile(archive, "w", filters=[{"id": py7zr.FILTER_COPY}]) as content:
        content.writestr(b"a sound of rain" * 10, "a.wav")
    data = bytearray(archive.read_bytes())
    data[40] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(DatasetError, match=r"CrcError"):
        unpack(archive, read_members(archive), tmp_path / "out", lambda _: None)


def test_a_whole_folder_is_known_by_sizes_and_sums(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"rain")
    right = Member("x/a.wav", "a.wav", 4, calculate_crc32(b"rain"))
    assert holds_all(tmp_path, [right])
    assert not holds_all(tmp_path, [Member("x/a.wav", "a.wav", 5, right.crc32)])
    assert not holds_all(tmp_path, [Member("x/a.wav", "a.wav", 4, right.crc32 ^ 1)])
    assert not holds_all(tmp_path, [Member("x/a.wav", "a.wav", 4, None)])
    assert not holds_all(tmp_path, [right, Member("x/b.wav", "b.wav", 4, 0)])


def test_moving_into_a_folder_keeps_what_others_put_there(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    for folder, names in ((new, ["a.wav", "sub/b.wav"]), (old, ["a.wav", "mine.txt"])):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(folder.name)
    move_into(new, old)
    assert contents(old) == {"a.wav": b"new", "sub/b.wav": b"new", "mine.txt": b"old"}
    assert not new.exists()
