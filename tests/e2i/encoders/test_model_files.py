"""From what names a model to its files: folders, URLs, and the Hub's cache."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from e2i.encoders import hub_files, model_files, unfinished
from e2i.encoders.config import EncodersConfig
from e2i.encoders.hf_settings import hf_settings
from e2i.encoders.model_files import model_files as found
from e2i.errors import EncoderUnavailableError
from e2i.storage import Folder

COMMIT = hashlib.sha1(b"tiny", usedforsecurity=False).hexdigest()
NAME = "somebody/tiny"


@pytest.fixture(autouse=True)
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(model_files, "COPIES", tmp_path / "copies")
    return tmp_path / "copies"


def test_a_folder_is_pinned_by_its_files_wherever_it_lies(roberta: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(roberta, moved)
    (moved / "README.md").write_text("not part of the model")
    assert found(str(moved), "--x").pins == found(str(roberta), "--x").pins
    assert found(f"file://{moved}", "--x").pins == found(str(roberta), "--x").pins
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))
    assert found(str(moved), "--x").pins != found(str(roberta), "--x").pins


def test_a_pytorch_file_beside_safetensors_does_not_count(roberta: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    shutil.copytree(roberta, both)
    (both / "pytorch_model.bin").write_bytes(b"never read")
    assert found(str(both), "--x").pins == found(str(roberta), "--x").pins


def test_copies_go_where_they_are_asked_for(roberta: Path, tmp_path: Path, copies: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    for path in roberta.iterdir():
        Folder(url).write(path.name, path.read_bytes())
    config = EncodersConfig(text_model=url, models_dir=str(tmp_path / "mine"))
    assert hf_settings(config)["dim"] == 32
    assert len(list((tmp_path / "mine").iterdir())) == 1
    assert not copies.exists()


@pytest.mark.parametrize(
    ("number", "reason"), [(28, "No space left on device"), (30, "Read-only file system")]
)
def test_no_room_for_a_copy_is_said(
    roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    for path in roberta.iterdir():
        Folder(url).write(path.name, path.read_bytes())

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, reason)

    monkeypatch.setattr(unfinished.tempfile, "mkdtemp", refuse)
    with pytest.raises(EncoderUnavailableError) as refused:
        found(url, "--text-model", str(tmp_path / "mine"))
    assert str(refused.value) == (
        f"a copy of the model cannot be kept: got {reason} for {tmp_path}/mine, expected a folder "
        "of this machine with room that can be written to. Name one with --models-dir, or give a "
        "local folder as --text-model."
    )


@pytest.mark.parametrize(
    ("number", "reason"), [(28, "No space left on device"), (30, "Read-only file system")]
)
def test_a_hub_cache_without_room_is_not_an_absent_hub(
    monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, reason)

    monkeypatch.setattr(hub_files, "_answers", lambda: True)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(EncoderUnavailableError) as refused:
        found("somebody/else", "--text-model")
    assert str(refused.value) == (
        f"the model cannot be kept on this machine: got {reason} for somebody/else in "
        f"{constants.HF_HUB_CACHE}, expected a folder with room that can be written to. Set "
        "HF_HOME to one, or give a local folder as --text-model."
    )


def test_the_hubs_client_is_silent_until_the_last_has_left() -> None:
    from huggingface_hub.utils import logging as hub_logging

    before = hub_logging.get_verbosity()
    first, second = hub_files.quiet_hub(), hub_files.quiet_hub()
    first.__enter__()
    second.__enter__()
    assert hub_logging.get_verbosity() == logging.CRITICAL
    first.__exit__(None, None, None)
    assert hub_logging.get_verbosity() == logging.CRITICAL, "the other is still at it"
    second.__exit__(None, None, None)
    assert hub_logging.get_verbosity() == before


def test_weights_in_several_files_are_all_looked_for(roberta: Path, tmp_path: Path) -> None:
    split = tmp_path / "split"
    shutil.copytree(roberta, split)
    (split / "model.safetensors").rename(split / "model-00001-of-00002.safetensors")
    index = {
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002.safetensors"}
    }
    (split / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(EncoderUnavailableError, match=r"without model-00002\.safetensors, exp"):
        found(str(split), "--x")
    (split / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(EncoderUnavailableError, match="without weights that its index names"):
        found(str(split), "--x")


@pytest.mark.parametrize("protocol", ["memory", "s3"])
def test_a_model_below_a_url_is_copied_once(
    roberta: Path, copies: Path, protocol: str, request: pytest.FixtureRequest
) -> None:
    if protocol == "s3":
        server = request.getfixturevalue("s3_server")
        monkeypatch = request.getfixturevalue("monkeypatch")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        url = f"{server.url}/{uuid.uuid4().hex}"
    else:
        url = f"memory://{uuid.uuid4().hex}"
    remote = Folder(url)
    for path in roberta.iterdir():
        remote.write(path.name, path.read_bytes())
    files = found(url, "--x")
    assert files.pins == found(str(roberta), "--x").pins
    assert files.config["hidden_size"] == 32
    assert [copy.is_dir() for copy in copies.iterdir()] == [True]
    assert found(url, "--x").path == files.path
    remote.write("config.json", remote.read("config.json") + b"\n")
    assert found(url, "--x").pins != files.pins
    remote.delete("model.safetensors")
    with pytest.raises(EncoderUnavailableError, match=f"got {url} without weights"):
        found(url, "--x")


@pytest.mark.parametrize(
    "name", ["./there", "/no/such/folder", "../up", "a/b/c", "~/x y", ".hidden"]
)
def test_what_is_no_name_has_to_be_a_folder(name: str) -> None:
    with pytest.raises(EncoderUnavailableError) as refused:
        found(name, "--text-model")
    assert str(refused.value) == (
        f"there is no model folder: got {name!r}, expected a folder, a URL, or the name of a "
        "published model (owner/name). Correct --text-model."
    )


def test_without_a_network_the_missing_model_is_named() -> None:
    with pytest.raises(EncoderUnavailableError) as refused:
        found("somebody/else", "--text-model")
    assert str(refused.value) == (
        "the model is not on this machine and the Hugging Face Hub cannot be asked: got "
        f"'somebody/else', neither a folder here nor in {constants.HF_HUB_CACHE}, expected "
        "config.json, tokenizer.json and model.safetensors of it. Put them into a folder and give "
        "that as --text-model, or run once with a network."
    )


def test_a_network_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(hub_files, "LIMIT_S", 0.2)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(EncoderUnavailableError, match="cannot be asked"):
            found("somebody/else", "--text-model")


@contextmanager
def hub_of(model: Path) -> Iterator[tuple[str, list[str]]]:
    """A server that has one model at one commit, as the Hub's client asks for it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path}")
            parts = self.path.strip("/").split("/")
            path = model / parts[-1]
            known = parts[:2] == NAME.split("/") and parts[2:4] in (
                ["resolve", "main"],
                ["resolve", COMMIT],
            )
            if self.path == "/":
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if not known or not path.is_file():
                self.send_response(404)
                code = "EntryNotFound" if known else "RepoNotFound"
                self.send_header("X-Error-Code", code)
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            data = path.read_bytes()
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


ASK = """
import json, sys
from e2i.encoders.model_files import WEIGHTS, model_files
from e2i.encoders.hub_files import fetch_weights
said = []
for name in sys.argv[1:]:
    try:
        files = model_files(name, "--text-model")
        before = (files.path / "model.safetensors").is_file()
        fetch_weights(files.repository, files.revision, "--text-model", WEIGHTS)
        after = (files.path / "model.safetensors").is_file()
        said.append([files.pins, files.config["hidden_size"], before, after])
    except Exception as error:
        said.append(str(error))
print(json.dumps(said))
"""


def test_a_published_model_is_fetched_once_and_pinned(roberta: Path, tmp_path: Path) -> None:
    def ask(endpoint: str, *names: str) -> list:
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hub")}
        environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        ran = subprocess.run(
            [sys.executable, "-c", ASK, *names],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert ran.stderr == ""
        return json.loads(ran.stdout)

    with hub_of(roberta) as (endpoint, asked):
        fetched, unknown = ask(endpoint, NAME, "somebody/unknown")
        assert fetched == [{"model": NAME, "revision": COMMIT}, 32, False, True]
        assert unknown == (
            "the Hugging Face Hub does not give this model: got 'somebody/unknown', no such model "
            "or revision, expected the name of a published transformers model, or a folder. "
            "Correct --text-model."
        )
        asked.clear()
        names = (NAME, f"{NAME}@{COMMIT}", f"hf://{NAME}")
        again = ask(endpoint, *names)
        assert again == [[{"model": NAME, "revision": COMMIT}, 32, True, True]] * len(names)
        assert asked == []
        (folder,) = (tmp_path / "hub").rglob(f"snapshots/{COMMIT}")
        names = {path.name for path in folder.iterdir()}
        for name in names - {"config.json", "model.safetensors"}:
            (folder / name).unlink()
        assert ask(endpoint, NAME) == again[:1]
        assert {path.name for path in folder.iterdir()} == names, "what somebody left is completed"
    assert ask(endpoint, NAME) == again[:1]
