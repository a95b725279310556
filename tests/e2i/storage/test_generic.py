"""File systems that e2i knows only through fsspec: a foreign one for both, the web for reading."""

from __future__ import annotations

import base64
import http.server
import threading
import traceback
import uuid
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from e2i.errors import (
    ConfigError,
    StorageError,
    StorageNotFoundError,
    StoragePermissionError,
    StorageUnavailableError,
)
from e2i.storage import Folder
from storage_contract import StorageContract


class ForeignFileSystem(MemoryFileSystem):
    """In memory, under a protocol that e2i has no module for."""

    protocol = "foreign"
    store: ClassVar[dict[str, object]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.removeprefix("foreign://"))


@pytest.fixture(autouse=True)
def foreign():
    fsspec.register_implementation("foreign", ForeignFileSystem, clobber=True)
    fsspec.register_implementation(
        "uninstalled", "no_such_package.FileSystem", clobber=True, errtxt="install it"
    )


class TestForeign(StorageContract):
    @pytest.fixture
    def folder(self):
        return Folder(f"foreign://{uuid.uuid4().hex}/my data #1")


def test_a_library_that_fails_in_its_own_way(monkeypatch):
    class LibraryError(Exception):
        status_code = 503

    def fail(*_: object, **__: object) -> None:
        raise LibraryError("password=hunter2-very-secret")

    monkeypatch.setattr(ForeignFileSystem, "cat_file", fail)
    folder = Folder("foreign://x", {"password": "hunter2-very-secret"})
    with pytest.raises(StorageUnavailableError, match=r"LibraryError 'password=\*\*\*'") as caught:
        folder.read("a")
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    monkeypatch.setattr(LibraryError, "status_code", 403)
    with pytest.raises(StoragePermissionError):
        folder.read("a")
    monkeypatch.setattr(LibraryError, "status_code", None)
    with pytest.raises(StorageError, match="cannot read"):
        folder.read("a")


def test_an_option_that_the_file_system_does_not_take(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise TypeError("unexpected keyword argument 'colour'")

    monkeypatch.setattr(fsspec, "filesystem", refuse)
    with pytest.raises(ConfigError, match="unexpected keyword argument 'colour'"):
        Folder("foreign://x", {"colour": "red"}).read("a")


def test_unknown_protocols_and_missing_packages():
    with pytest.raises(ConfigError, match="unknown protocol: got 'nosuch', expected one of: local"):
        Folder("nosuch://x")
    with pytest.raises(ConfigError, match=r"for uninstalled:// .* `pip install no_such_pac"):
        Folder("uninstalled://x")


@pytest.fixture(scope="module")
def website(tmp_path_factory):
    """A folder on the web: `/open`, `/closed` (user, a password), `/broken` (503)."""
    root = tmp_path_factory.mktemp("website")
    expected = "Basic " + base64.b64encode(b"user:pass/word@1").decode()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(root))

        def log_message(self, *_):
            pass

        def send_head(self):
            if self.path.startswith("/broken"):
                return self.send_error(503)
            if self.path.startswith("/closed") and self.headers.get("Authorization") != expected:
                return self.send_error(401)
            return super().send_head()

    for name in ("open", "closed"):
        (root / name).mkdir()
        (root / name / "a b #1 100%?.wav").write_bytes(b"123")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_web_is_read(website):
    folder = Folder(f"http://{website}/open/")
    assert folder.url == f"http://{website}/open"
    name = "a b #1 100%?.wav"
    assert folder.read(name) == b"123"
    with folder.open(name) as file:
        file.seek(1)
        assert file.read() == b"23"
    assert folder.info(name).size_bytes == 3
    assert folder.info("missing") is None
    assert [(file.name, file.size_bytes) for file in folder.files()] == [(name, 3)]
    with pytest.raises(StorageNotFoundError, match="nothing is stored there"):
        folder.read("missing")


def test_the_web_is_not_written(website):
    folder = Folder(f"http://{website}/open")
    for call in (folder.write, folder.create):
        with pytest.raises(ConfigError, match="http:// is for reading"):
            call("a", b"")
    with pytest.raises(ConfigError, match="http:// is for reading"):
        folder.replace("a", b"", None)
    with pytest.raises(ConfigError, match="http:// is for reading"):
        folder.delete("a")


def test_a_password_on_the_web_is_used_and_not_shown(website):
    folder = Folder(f"http://user:pass%2Fword%401@{website}/closed")
    assert folder.url == f"http://{website}/closed"
    assert folder.read("a b #1 100%?.wav") == b"123"
    wrong = Folder(f"http://user:wrong-word@{website}/closed")
    with pytest.raises(StoragePermissionError, match="401") as caught:
        wrong.read("a b #1 100%?.wav")
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.__cause__)
    assert "wrong-word" not in shown
    assert base64.b64encode(b"user:wrong-word").decode() not in shown
    assert "wrong-word" not in repr(wrong)


def test_an_outage_of_the_web(website):
    with pytest.raises(StorageUnavailableError, match="503"):
        Folder(f"http://{website}/broken").read("a")
    with pytest.raises(StorageUnavailableError, match="the store does not answer"):
        Folder("http://127.0.0.1:9").read("a")


def test_the_hub_is_not_written():
    pytest.importorskip("huggingface_hub")
    with pytest.raises(ConfigError, match=r"hf:// is for reading: .* --hf-dataset"):
        Folder("hf://datasets/nobody/nothing").write("a", b"")
