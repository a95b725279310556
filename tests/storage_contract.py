"""What every back end of `e2i.storage` has to do; each is a subclass with a `folder` fixture.

Where `Folder` cannot write, a `put` fixture places what is to be read.
"""

from __future__ import annotations

import copy
import io
import pickle
import re
import threading
import uuid
import zipfile
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2i.errors import ConfigError, StaleWriteError, StorageNotFoundError
from e2i.storage import Folder

ODD_NAMES = [
    "Wind & rain #2 [100%].wav",
    "a+b=c?d*e!.wav",
    "It&#39;s %20 a %2F trap.wav",
    "Vögel, 鳥, 🐦.wav",
    "folder with space/~tilde/{braces}.wav",
    ".hidden",
    " leading and trailing ",
    "semi;colon, comma'quote\"double`tick$HOME",
    "back\\slash|pipe<angle>",
    "s3:one.wav",
    "a?versionId=3",
    "**/**",
    "ends.with.dots...",
]
NO_NAMES = ["", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a\0b", ".e2i-x.tmp"]

_PART = st.text(
    st.characters(categories=["L", "N", "P", "S", "Zs"], exclude_characters="/\\"),
    min_size=1,
    max_size=12,
).filter(lambda part: part not in {".", ".."} and not part.startswith(".e2i-"))
NAMES = st.lists(_PART, min_size=1, max_size=3).map("/".join)


class ReadingContract:
    """Promised by every back end."""

    @pytest.fixture
    def folder(self) -> Folder:
        raise NotImplementedError

    @pytest.fixture
    def put(self, folder) -> Callable[[str, bytes], None]:
        return folder.write

    def test_what_is_placed_is_read(self, folder, put):
        put("a/b.bin", b"one")
        assert folder.read("a/b.bin") == b"one"
        put("a/b.bin", b"two, longer")
        assert folder.read("a/b.bin") == b"two, longer"
        data, version = folder.read_versioned("a/b.bin")
        assert (data, version) == (b"two, longer", folder.info("a/b.bin").version)
        with folder.open("a/b.bin") as file:
            assert file.read() == b"two, longer"

    @pytest.mark.parametrize(
        "name", ["Wind & rain #2 [100%].wav", "It&#39;s %20 a trap.wav", "V\u00f6gel, \u9ce5.wav"]
    )
    def test_odd_names_are_read(self, folder, put, name):
        put(name, b"odd")
        put("other", b"")
        assert folder.read(name) == b"odd"
        assert folder.info(name).name == name
        assert {file.name for file in folder.files()} == {name, "other"}

    def test_missing_objects(self, folder, put):
        put("there/x", b"")
        for name in ("missing", "there", "there/y", "ther"):
            for call in (folder.read, folder.read_versioned, folder.open):
                with pytest.raises(StorageNotFoundError, match="nothing is stored there") as caught:
                    call(name)
                assert f"{folder.url}/{name}" in str(caught.value)
                assert isinstance(caught.value, FileNotFoundError)
            assert folder.info(name) is None
        assert [file.name for file in folder.files()] == ["there/x"]

    def test_listing(self, folder, put):
        assert folder.files() == []
        assert folder.files("a") == []
        for name in ("b", "a/z", "a/b/c", "ab/x", "a.b", "A"):
            put(name, name.encode())
        names = [file.name for file in folder.files()]
        assert names == sorted(["b", "a/z", "a/b/c", "ab/x", "a.b", "A"])
        assert all(file.size_bytes == len(file.name) for file in folder.files())
        assert [file.name for file in folder.files("a")] == ["a/b/c", "a/z"]
        assert [file.name for file in folder.files("a/b")] == ["a/b/c"]
        assert folder.files("b") == []
        assert folder.files("missing") == []
        below = folder.folder("a")
        assert [file.name for file in below.files()] == ["b/c", "z"]
        assert below.read("b/c") == b"a/b/c"

    def test_a_large_object(self, folder, put):
        data = array("I", range(5 * 2**20)).tobytes()  # 20 MiB
        put("large", data)
        assert folder.read("large") == data
        assert folder.info("large").size_bytes == len(data)
        with folder.open("large") as file:
            assert file.seekable()
            for start, count in [(0, 10), (9_999_999, 7), (4_194_300, 9), (2, 5_000_000)]:
                assert file.seek(start) == start
                assert file.read(count) == data[start : start + count]
            file.seek(-5, io.SEEK_END)
            assert file.tell() == len(data) - 5
            assert file.read() == data[-5:]
            assert file.read(1) == b""
            file.seek(0)
            assert file.read() == data

    def test_a_reader_that_other_libraries_take(self, folder, put):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("inside", b"x" * 5_000_000)
        put("z.zip", buffer.getvalue())
        with folder.open("z.zip") as file, zipfile.ZipFile(file) as archive:
            assert archive.read("inside") == b"x" * 5_000_000


class StorageContract(ReadingContract):
    """Promised by every back end that can be written to."""

    names_that_the_server_changes: frozenset[str] = frozenset()

    @pytest.mark.parametrize("durable", [True, False])
    def test_what_is_written_is_read(self, folder, durable):
        folder.write("a/b.bin", b"one", durable=durable)
        assert folder.read("a/b.bin") == b"one"
        folder.write("a/b.bin", b"two, longer", durable=durable)
        folder.flush()
        assert folder.read("a/b.bin") == b"two, longer"
        assert folder.read_versioned("a/b.bin")[0] == b"two, longer"

    def test_any_name_and_any_bytes(self, folder):
        @settings(max_examples=15, deadline=None)
        @given(name=NAMES, data=st.binary(max_size=2000))
        def check(name, data):
            fresh = folder.folder(uuid.uuid4().hex)
            assert fresh.create(name, data)
            assert fresh.read(name) == data
            assert [(file.name, file.size_bytes) for file in fresh.files()] == [(name, len(data))]
            fresh.delete(name)
            assert fresh.files() == []

        check()

    def test_many_are_asked_for_at_once(self, folder):
        folder.write("a/b", b"1")
        folder.write("c #?%", b"22")
        found = folder.infos(["a/b", "c #?%", "a", "a/b/c", "missing"])
        assert found == {name: folder.info(name) for name in ("a/b", "c #?%")}
        for name in ("", "..", "/a", "a/../b", "a\0b"):
            with pytest.raises(ConfigError, match="not a name in a folder"):
                folder.infos(["a/b", name])

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_odd_names_mean_their_characters(self, folder, name):
        if name in self.names_that_the_server_changes:
            name = "instead"
        folder.write(name, b"odd")
        folder.write("other", b"")
        assert folder.read(name) == b"odd"
        with folder.open(name) as file:
            assert file.read() == b"odd"
        assert folder.info(name).name == name
        assert {file.name for file in folder.files()} == {name, "other"}
        assert folder.create(name, b"again") is False
        folder.delete(name)
        assert [file.name for file in folder.files()] == ["other"]

    @pytest.mark.parametrize("name", NO_NAMES)
    def test_what_is_no_name_is_refused_everywhere(self, folder, name):
        calls: list[Callable[[], object]] = [
            lambda: folder.folder(name),
            lambda: folder.read(name),
            lambda: folder.read_versioned(name),
            lambda: folder.open(name),
            lambda: folder.write(name, b""),
            lambda: folder.create(name, b""),
            lambda: folder.replace(name, b"", None),
            lambda: folder.delete(name),
            lambda: folder.info(name),
        ]
        for call in calls:
            with pytest.raises(ConfigError, match=re.escape(f"got {name!r}")):
                call()
        if name:
            with pytest.raises(ConfigError):
                folder.files(name)
        assert folder.files() == []

    def test_a_name_is_created_once(self, folder):
        assert folder.create("a/b", b"first") is True
        assert folder.create("a/b", b"second") is False
        assert folder.read("a/b") == b"first"
        folder.delete("a/b")
        assert folder.create("a/b", b"third") is True
        assert folder.read("a/b") == b"third"

    def test_replace_wants_the_version_that_is_there(self, folder):
        first = folder.replace("m", b"1", None)
        assert folder.read_versioned("m") == (b"1", first)
        second = folder.replace("m", b"2", first)
        assert second != first
        with pytest.raises(StaleWriteError, match=r"wrote first: got .*m at version"):
            folder.replace("m", b"3", first)
        with pytest.raises(StaleWriteError, match="expected none"):
            folder.replace("m", b"3", None)
        assert folder.read_versioned("m") == (b"2", second)
        folder.delete("m")
        with pytest.raises(StaleWriteError, match="at version none"):
            folder.replace("m", b"3", second)
        assert folder.info("m") is None
        third = folder.replace("m", b"4", None)
        with pytest.raises(StaleWriteError):
            folder.replace("m", b"5", second)
        assert folder.read_versioned("m") == (b"4", third)

    def test_versions_agree_and_change_with_the_bytes(self, folder):
        seen = set()
        for number in range(8):
            folder.write("m", b"%d" % number)
            version = folder.read_versioned("m")[1]
            assert folder.info("m").version == version
            assert folder.files()[0].version == version
            seen.add(version)
        assert len(seen) == 8

    def test_a_folder_below(self, folder):
        below = folder.folder("x/y z")
        assert below.url == f"{folder.url}/x/y z"
        below.write("a", b"1")
        assert folder.read("x/y z/a") == b"1"
        assert below == folder.folder("x").folder("y z")
        assert hash(below) == hash(folder.folder("x").folder("y z"))
        assert below != folder
        assert repr(below) == f"Folder({below.url!r})"

    def test_copies_work(self, folder):
        folder.write("a", b"1")
        for twin in (pickle.loads(pickle.dumps(folder)), copy.deepcopy(folder)):
            assert twin == folder
            assert twin.read("a") == b"1"
            twin.write("a", b"1")

    def test_deleting_what_is_missing_is_no_error(self, folder):
        folder.write("there/x", b"")
        for name in ("missing", "there", "there/y", "ther"):
            folder.delete(name)
        assert [file.name for file in folder.files()] == ["there/x"]

    def test_an_empty_object(self, folder):
        assert folder.create("e", b"")
        assert folder.read("e") == b""
        assert folder.info("e").size_bytes == 0
        with folder.open("e") as file:
            assert file.read() == b""
        assert folder.create("e", b"x") is False


class SharedStorageContract(StorageContract):
    """Promised where several writers may meet: the local disk, memory, S3."""

    creators = 12
    rounds = 3

    def test_of_many_creators_one_wins(self, folder):
        for round_number in range(self.rounds):
            name = f"shard-{round_number}"
            together = threading.Barrier(self.creators)

            def create(number: int, name: str = name, together: threading.Barrier = together):
                together.wait()
                return folder.create(name, b"%d" % number)

            with ThreadPoolExecutor(self.creators) as pool:
                won = list(pool.map(create, range(self.creators)))
            assert won.count(True) == 1
            assert folder.read(name) == b"%d" % won.index(True)
        assert len(folder.files()) == self.rounds

    def test_of_many_creators_of_the_same_bytes_one_wins(self, folder):
        with ThreadPoolExecutor(self.creators) as pool:
            won = list(pool.map(lambda _: folder.create("same", b"same"), range(self.creators)))
        assert won.count(True) == 1

    def test_no_update_is_lost(self, folder):
        folder.write("counter", b"0")

        def add_five(_: int) -> None:
            for _ in range(5):
                while True:
                    value, version = folder.read_versioned("counter")
                    try:
                        folder.replace("counter", b"%d" % (int(value) + 1), version)
                    except StaleWriteError:
                        continue
                    break

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(add_five, range(4)))
        assert folder.read("counter") == b"20"

    def test_a_reader_never_sees_a_part(self, folder):
        blocks = [bytes([letter]) * (100_000 + letter) for letter in range(65, 73)]
        folder.write("m", blocks[0])
        done = threading.Event()
        seen: list[bytes] = []

        def look() -> None:
            while not done.is_set():
                seen.append(folder.read("m"))
                with folder.open("m") as file:
                    seen.append(file.read())
                assert [file.name for file in folder.files()] == ["m"]

        with ThreadPoolExecutor(2) as pool:
            readers = [pool.submit(look) for _ in range(2)]
            try:
                for turn in range(24):
                    folder.write("m", blocks[turn % len(blocks)])
            finally:
                done.set()
            for reader in readers:
                reader.result()
        assert len(seen) >= 4
        assert set(seen) <= set(blocks)
