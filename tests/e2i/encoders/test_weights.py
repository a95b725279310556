"""From what names weights to a checked file on the disk, fetched at most once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from archive_server import ArchiveServer, Cut, Status
from e2i.encoders.weights import PublishedFile, WeightsFile, find_weights, missing_file
from e2i.errors import ConfigError, EncoderUnavailableError
from e2i.storage import Folder
from s3_server import S3Server

CONTENT = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ArchiveServer]:
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "passt.pt").write_bytes(CONTENT)
    with ArchiveServer(folder) as running:
        yield running


def find(named: str, published: dict[str, PublishedFile], kept: Path) -> WeightsFile:
    return find_weights(named, published, str(kept), option="--audio-weights")


@pytest.mark.parametrize(
    "sha256", ["", SHA256[:8], SHA256], ids=["no sum known", "its beginning known", "sum known"]
)
def test_published_weights_are_fetched_once(
    server: ArchiveServer, tmp_path: Path, sha256: str
) -> None:
    published = {"passt": PublishedFile(f"{server.url}/passt.pt", sha256)}
    kept = tmp_path / "new" / "kept"
    missing = missing_file("passt", published, str(kept))
    assert missing is not None
    assert (missing.url, missing.path) == (f"{server.url}/passt.pt", kept / "passt.pt")
    for _ in range(2):
        found = find("passt", published, kept)
        assert (found.path, found.sha256) == (kept / "passt.pt", SHA256)
    assert found.path.read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert [file.name for file in kept.iterdir()] == ["passt.pt"]
    assert missing_file("passt", published, str(kept)) is None


def test_published_weights_that_lie_there_are_taken(tmp_path: Path) -> None:
    (tmp_path / "passt.pt").write_bytes(CONTENT)
    published = {"passt": PublishedFile("http://127.0.0.1:9/files/passt.pt", SHA256)}
    assert find("passt", published, tmp_path).sha256 == SHA256


def test_offline_it_says_which_file_where_from_and_where_to(tmp_path: Path) -> None:
    published = {"passt": PublishedFile("http://127.0.0.1:9/files/passt.pt")}
    with pytest.raises(EncoderUnavailableError) as raised:
        find("passt", published, tmp_path / "kept")
    said = str(raised.value)
    assert said.startswith("the weights are not here and cannot be fetched: got ")
    assert said.endswith(
        " for http://127.0.0.1:9/files/passt.pt, expected the file passt.pt. Put it into "
        f"{tmp_path}/kept, or name it with --audio-weights."
    )
    assert isinstance(raised.value, ConfigError)
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "words"), [(Cut(70_000), "got "), (Status(404), "got status 404 ")]
)
def test_a_fetch_that_fails_leaves_nothing(
    server: ArchiveServer, tmp_path: Path, fault, words: str
) -> None:
    server.faults["passt.pt"] = [fault]
    published = {"passt": PublishedFile(f"{server.url}/passt.pt")}
    kept = tmp_path / "kept"
    with pytest.raises(EncoderUnavailableError, match=words):
        find("passt", published, kept)
    assert list(kept.iterdir()) == []
    assert find("passt", published, kept).sha256 == SHA256


def test_published_weights_with_another_sum_are_refused(tmp_path: Path) -> None:
    (tmp_path / "passt.pt").write_bytes(b"others")
    published = {"passt": PublishedFile("https://somewhere.example/passt.pt", SHA256)}
    with pytest.raises(EncoderUnavailableError) as raised:
        find("passt", published, tmp_path)
    got = hashlib.sha256(b"others").hexdigest()
    assert str(raised.value) == (
        f"the weights are not the published ones: got sha256 {got} for "
        f"{tmp_path}/passt.pt, expected {SHA256} as of https://somewhere.example/passt.pt. "
        "Delete the file to have it fetched again, or name your own with --audio-weights."
    )


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_local_weights_are_read_where_they_lie(tmp_path: Path, form: str) -> None:
    path = tmp_path / "own weights.pt"
    path.write_bytes(CONTENT)
    found = find(form.format(path), {}, tmp_path / "kept")
    assert found == WeightsFile(path, SHA256, str(path))
    assert not (tmp_path / "kept").exists()


def test_a_relative_path_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.pt").write_bytes(CONTENT)
    assert find("own.pt", {}, tmp_path / "kept").path == tmp_path / "own.pt"


def test_a_changed_file_has_another_digest(tmp_path: Path) -> None:
    path = tmp_path / "own.pt"
    path.write_bytes(CONTENT)
    first = find(str(path), {}, tmp_path)
    path.write_bytes(CONTENT + b"more")
    assert find(str(path), {}, tmp_path).sha256 != first.sha256


def test_weights_in_a_store_are_copied_once_a_version(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{s3_server.url}/own-weights"
    folder = Folder(url, s3_server.storage_options)
    folder.write("own.pt", CONTENT)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    kept = tmp_path / "kept"
    for _ in range(2):
        found = find(f"{url}/own.pt", {}, kept)
        assert (found.sha256, found.name) == (SHA256, f"{url}/own.pt")
    assert len(list(kept.iterdir())) == 1
    folder.write("own.pt", CONTENT + b"more")
    assert find(f"{url}/own.pt", {}, kept).sha256 != SHA256
    assert len(list(kept.iterdir())) == 2


@pytest.mark.parametrize("named", ["none.pt", "memory://bucket/none.pt", "folder/"])
def test_weights_that_are_not_there_are_named(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EncoderUnavailableError) as raised:
        find(named, {"passt": PublishedFile("https://somewhere.example/passt.pt")}, tmp_path)
    assert "there are no weights here: got '" in str(raised.value)
    assert str(raised.value).endswith("or a published name (passt). Correct --audio-weights.")


def test_a_key_in_a_url_stays_out_of_messages(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        find("https://name:hunter2@127.0.0.1:9/w.pt?x=1", {}, tmp_path)
    assert "hunter2" not in str(raised.value)


def test_what_is_fetched_is_kept_on_the_local_disk(tmp_path: Path) -> None:
    published = {"passt": PublishedFile("https://somewhere.example/passt.pt")}
    with pytest.raises(EncoderUnavailableError, match="got 's3://bucket', expected a local"):
        find_weights("passt", published, "s3://bucket", option="--audio-weights")
