"""One file of weights: from what names it to a checked file on the local disk.

Conventions: weights are named by a published name, a local path, or a URL that storage reads
(`file://`, `s3://`, `hf://`, ...). What is not local is copied once, to a folder that the caller
names; a copy is written under another name and renamed when it is whole, so whoever finds the name
finds the whole file. A published file that somebody else put there under its own name counts: the
default folder is the one that torch.hub, and so hear21passt, downloads to.

The sha256 of the file goes into the fingerprint of what is made with it. Where a sum is known, the
file must have it. Nothing here needs torch, so that a call can be refused at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from e2i.encoders.unfinished import unfinished
from e2i.errors import (
    E2IError,
    EncoderUnavailableError,
    StorageError,
    StorageNotFoundError,
    is_transient,
)
from e2i.storage import Folder, translation

_CONNECT_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 60.0
_BLOCK_BYTES = 2**20
_lock = threading.RLock()
_digests: dict[tuple[str, int, int], str] = {}


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """Weights that somebody published.

    Attributes:
        url: where they are fetched from.
        sha256: what they must have, or what it begins with; empty where it is not known.
    """

    url: str
    sha256: str = ""

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """Weights on the local disk.

    Attributes:
        path: of the file.
        sha256: of its bytes.
        name: what to call it in messages: path or URL as given, without credentials.
    """

    path: Path
    sha256: str
    name: str


@dataclass(frozen=True, slots=True)
class MissingFile:
    """Published weights that are not here yet.

    Attributes:
        url: where they would be fetched from.
        path: where they are looked for.
    """

    url: str
    path: Path


def missing_file(
    named: str, published: Mapping[str, PublishedFile], weights_dir: str
) -> MissingFile | None:
    """What would have to be fetched of the web; None where it is there, or is no published file."""
    if named not in published:
        return None
    path = _kept(weights_dir) / published[named].name
    return None if path.is_file() else MissingFile(published[named].url, path)


def find_weights(
    named: str, published: Mapping[str, PublishedFile], weights_dir: str, *, option: str
) -> WeightsFile:
    """The weights that are named, fetched if they have to be.

    Args:
        named: a published name, a local path or a URL.
        published: by name.
        weights_dir: local folder for what is fetched.
        option: option of the command line that names weights, for messages.

    Raises:
        EncoderUnavailableError: they are not there and cannot be fetched, or are not the ones that
            were published.
        StorageError: the disk refused, or a store is away.
    """
    with _lock:
        if named in published:
            file = published[named]
            return _published(file, _kept(weights_dir) / file.name, option)
        return _named(named, weights_dir, published, option)


def _kept(weights_dir: str) -> Path:
    """The folder for what is fetched."""
    path = Folder(weights_dir).local_path
    if path is None:
        raise EncoderUnavailableError(
            f"weights can be kept on the local disk only: got {weights_dir!r}, expected a local "
            "folder. Correct --weights-dir."
        )
    return path


def _published(file: PublishedFile, path: Path, option: str) -> WeightsFile:
    if not path.is_file():
        try:
            _write_whole(path, lambda target: _download(file.url, target))
        except _FetchError as error:
            raise EncoderUnavailableError(
                f"the weights are not here and cannot be fetched: got {error} for {file.url}, "
                f"expected the file {file.name}. Put it into {path.parent}, or name it with "
                f"{option}."
            ) from error
    sha256 = _digest(path)
    if not sha256.startswith(file.sha256):
        raise EncoderUnavailableError(
            f"the weights are not the published ones: got sha256 {sha256} for {path}, expected "
            f"{file.sha256} as of {file.url}. Delete the file to have it fetched again, or name "
            f"your own with {option}."
        )
    return WeightsFile(path, sha256, str(path))


def _named(
    named: str, weights_dir: str, published: Mapping[str, PublishedFile], option: str
) -> WeightsFile:
    """A file that is no published one: local, or copied from a store."""
    folder_url, _, name = named.rpartition("/")
    folder = Folder(folder_url or ("/" if named.startswith("/") else "."))
    shown = f"{folder.url.rstrip('/')}/{name}"
    try:
        info = folder.info(name) if name else None
    except E2IError as error:
        if is_transient(error):
            raise
        raise EncoderUnavailableError(
            f"the weights cannot be read: got {error} Correct {option}."
        ) from error
    if info is None:
        names = f", or a published name ({', '.join(published)})" if published else ""
        raise EncoderUnavailableError(
            f"there are no weights here: got {shown!r}, expected a file or URL{names}. Correct "
            f"{option}."
        )
    if folder.local_path is not None:
        path = folder.local_path / name
        return WeightsFile(path, _digest(path), shown)
    version = hashlib.sha256(f"{shown}|{info.version}|{info.size_bytes}".encode()).hexdigest()
    path = _kept(weights_dir) / f"{version[:16]}-{name}"
    if not path.is_file():
        try:
            _write_whole(path, lambda target: _copy(folder, name, target))
        except StorageNotFoundError as error:
            raise EncoderUnavailableError(
                f"the weights went away while they were read: got {error} Correct {option}."
            ) from error
    return WeightsFile(path, _digest(path), shown)


def _digest(path: Path) -> str:
    """sha256 of a file; read again only when it has changed."""
    with _reading(path):
        stat = path.stat()
        key = (str(path), stat.st_size, stat.st_mtime_ns)
        if key not in _digests:
            with path.open("rb") as file:
                _digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return _digests[key]


class _FetchError(Exception):
    """Why a file could not be had, in words."""


def _download(url: str, target: IO[bytes]) -> None:
    """Fetch a file of the web, whole or not at all."""
    import httpx  # noqa: PLC0415 - not needed where nothing is fetched

    try:
        with httpx.stream(
            "GET",
            url,
            follow_redirects=True,
            timeout=httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
            headers={"Accept-Encoding": "identity"},
        ) as answer:
            if answer.status_code != 200:
                raise _FetchError(f"status {answer.status_code}")
            for block in answer.iter_bytes(_BLOCK_BYTES):
                target.write(block)
            promised = answer.headers.get("Content-Length", "")
            if promised.isdecimal() and target.tell() != int(promised):
                raise _FetchError(f"{target.tell():,} of {int(promised):,} bytes")
    except (httpx.HTTPError, ValueError, ImportError) as error:
        # ValueError and ImportError: proxy settings of the system that cannot be used.
        raise _FetchError(str(error) or type(error).__name__) from error


def _copy(folder: Folder, name: str, target: IO[bytes]) -> None:
    with folder.open(name) as source:
        shutil.copyfileobj(source, target, 4 * _BLOCK_BYTES)


def _write_whole(path: Path, fill: Callable[[IO[bytes]], None]) -> None:
    """Write a file under another name, and rename it once it is whole."""
    with _reading(path), unfinished(path.parent) as folder:
        with (folder / path.name).open("wb") as file:
            fill(file)
        (folder / path.name).replace(path)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Errors of the disk, as storage's."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise translation.from_os_error(error, "use", str(path)) from error
