"""From what names a model to its files on the local disk, and to what pins them.

A model is named by a local folder, by a URL that storage reads, or by its published name on the
Hugging Face Hub (`roberta-base`, `owner/name`, either with `@revision`; `hf://owner/name` is the
same). A folder that exists goes before a name.

Decides: a published model is pinned by its commit, and the commit that is in the Hub's own cache is
taken without asking whether there is a newer one, so that a run neither waits for the network nor
changes its values by itself. Everything else is pinned by a digest over configuration, tokenizer
and weights: the same files in another place are the same model. Only the weights file that is read
counts: safetensors before a PyTorch file.

Files below a URL are copied once, to a folder named after the URL and the versions found there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2i.encoders.hub_files import hub_model
from e2i.encoders.unfinished import unfinished
from e2i.errors import E2IError, EncoderUnavailableError, is_transient
from e2i.storage import FileInfo, Folder

COPIES = Path("~/.cache/e2i/models")
"""Where copies of models below URLs are kept, unless another folder is named."""

CONFIG = "config.json"
SIDE_FILES = (
    CONFIG,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "bpe.codes",
    "spm.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "preprocessor_config.json",
    "processor_config.json",
)
"""All files beside the weights that a model, its tokenizer and its extractor are made from."""

TOKENIZERS = SIDE_FILES[1:2] + SIDE_FILES[5:13]
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Weights, the first that is there; an index names further files."""

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")
_BLOCK_BYTES = 2**20
_lock = threading.RLock()
_digests: dict[tuple[str, int, int], str] = {}


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of one model.

    Attributes:
        name: as it was given, without credentials.
        path: local folder with at least the configuration and the tokenizer.
        pins: what names exactly these files, for the fingerprint.
        repository: for a published model, its name on the Hub; its weights may still be there only.
        revision: for a published model, the commit.
    """

    name: str
    path: Path
    pins: dict[str, str]
    repository: str = ""
    revision: str = ""

    @property
    def config(self) -> dict[str, Any]:
        """`config.json`."""
        return self.read(CONFIG)

    def read(self, name: str) -> dict[str, Any]:
        """One of its JSON files; empty where it is not there.

        Raises:
            EncoderUnavailableError: it is no JSON object.
        """
        path = self.path / name
        if not path.is_file():
            return {}
        try:
            content = json.loads(path.read_bytes())
        except ValueError as error:
            raise self.unusable(f"{name} is no JSON: {error}") from error
        if not isinstance(content, dict):
            raise self.unusable(f"{name} is no JSON object")
        return content

    def unusable(self, why: str) -> EncoderUnavailableError:
        """The error for files that cannot be used."""
        return EncoderUnavailableError(
            f"the model cannot be used: got {self.name!r}, of which {why}, expected a transformers "
            "model with its tokenizer. Choose another model."
        )


def model_files(reference: str, option: str, copies: str = "") -> ModelFiles:
    """Find a model; its weights are not read, but for a digest.

    Args:
        reference: local folder, URL, or published name.
        option: the option that named it, for messages.
        copies: local folder for copies of models below URLs; empty: `COPIES`.

    Raises:
        EncoderUnavailableError: it is not there, files are missing, or the Hub does not answer.
        StorageUnavailableError: the store of a URL does not answer.
    """
    local = Path(reference).expanduser()
    if "://" not in reference and local.is_dir():
        return _below(Folder(local), local, option)
    hub = re.fullmatch(r"hf://([\w.-]+/[\w.-]+(@[\w.-]+)?)/?", reference)
    if hub is not None and not reference.startswith(("hf://datasets/", "hf://spaces/")):
        reference = hub[1]
    if "://" in reference:
        return _below_url(reference, option, (Path(copies) if copies else COPIES).expanduser())
    if not _NAME.fullmatch(reference) or reference.startswith("."):
        raise EncoderUnavailableError(
            f"there is no model folder: got {reference!r}, expected a folder, a URL, or the name "
            f"of a published model (owner/name). Correct {option}."
        )
    with _lock:
        path, repository, revision = hub_model(reference, option, SIDE_FILES, TOKENIZERS, WEIGHTS)
    return ModelFiles(
        reference, path, {"model": repository, "revision": revision}, repository, revision
    )


def _below_url(url: str, option: str, copies: Path) -> ModelFiles:
    folder = Folder(url)
    if folder.local_path is not None:
        return _below(folder, folder.local_path, option)
    with _lock:
        return _below(folder, _copied(folder, option, copies), option)


def _below(folder: Folder, path: Path, option: str) -> ModelFiles:
    """The model in a local folder, pinned by the digest of its files."""
    local = Folder(path)
    digest = hashlib.sha256()
    for file in _needed(local, folder.url, option):
        digest.update(f"{file.name}\0{_digest(path / file.name)}\n".encode())
    return ModelFiles(folder.url, path, {"model_sha256": digest.hexdigest()})


def _needed(folder: Folder, shown: str, option: str) -> list[FileInfo]:
    """The files that the model is made from, of those in a folder, in a fixed order.

    Raises:
        EncoderUnavailableError: there is no configuration, no tokenizer or no weights.
    """
    found = list(_present(folder, SIDE_FILES))
    names = {file.name for file in found}
    weights = next(_present(folder, WEIGHTS), None)
    parts: list[FileInfo] = []
    missing = [] if CONFIG in names else [CONFIG]
    missing += [] if names & set(TOKENIZERS) else ["a tokenizer (tokenizer.json)"]
    missing += [] if weights else ["weights (model.safetensors)"]
    if weights and weights.name.endswith(".index.json"):
        wanted = _indexed(folder.read(weights.name))
        parts = list(_present(folder, wanted))
        missing += sorted({*wanted} - {part.name for part in parts})
    if missing or weights is None:
        raise EncoderUnavailableError(
            f"the model is not whole: got {shown} without {', '.join(missing)}, expected a folder "
            "with config.json, tokenizer.json and model.safetensors, as save_pretrained writes "
            f"them. Put them there, or correct {option}."
        )
    return [*found, weights, *parts]


def _present(folder: Folder, names: Iterable[str]) -> Iterator[FileInfo]:
    for name in names:
        info = folder.info(name)
        if info is not None:
            yield info


def _indexed(data: bytes) -> list[str]:
    """The files that an index of weights names."""
    try:
        names = {str(name) for name in json.loads(data)["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return ["weights that its index names"]
    return sorted(name for name in names if "/" not in name)


def _digest(path: Path) -> str:
    """The sha256 of a file, hashed once a process while its size and time stay."""
    stat = path.stat()
    key = (str(path.absolute()), stat.st_size, stat.st_mtime_ns)
    with _lock:
        if key not in _digests:
            with path.open("rb") as file:
                _digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return _digests[key]


def _copied(folder: Folder, option: str, copies: Path) -> Path:
    """A local copy of the model below a URL, made where there is none of these versions."""
    try:
        files = _needed(folder, folder.url, option)
        versions = [(file.name, file.size_bytes, file.version) for file in files]
        key = hashlib.sha256(json.dumps([folder.url, versions]).encode()).hexdigest()[:32]
        copy = copies / key
        if not copy.is_dir():
            _copy(folder, files, copy)
    except EncoderUnavailableError:
        raise
    except E2IError as error:
        if is_transient(error):
            raise
        raise EncoderUnavailableError(
            f"the model cannot be read: got {folder.url} ({error}), expected a readable folder. "
            f"Correct {option}, or give a local folder."
        ) from error
    except OSError as error:
        raise EncoderUnavailableError(
            f"a copy of the model cannot be kept: got {error.strerror or error} for {copies}, "
            "expected a folder of this machine with room that can be written to. Name one with "
            f"--models-dir, or give a local folder as {option}."
        ) from error
    return copy


def _copy(folder: Folder, files: Iterable[FileInfo], copy: Path) -> None:
    """Copy files to a folder that shows up whole or not at all."""
    with unfinished(copy.parent) as scratch:
        whole = scratch / "model"
        whole.mkdir()
        for file in files:
            with folder.open(file.name) as source, (whole / file.name).open("wb") as target:
                shutil.copyfileobj(source, target, _BLOCK_BYTES)
        try:
            os.replace(whole, copy)  # noqa: PTH105 - fails where another was quicker
        except OSError:
            if not copy.is_dir():
                raise
