"""Recordings where they lie: what is there, whether it changed, its bytes.

Conventions: a recording's digest is the sha256 of its file. Size and version (modification time,
or ETag) are compared first; bytes are hashed only where either differs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from e2i.datasets.audio_root import resolve_audio_name
from e2i.errors import (
    AudioError,
    AudioNotFoundError,
    DatasetError,
    E2IError,
    StorageNotFoundError,
    is_transient,
)
from e2i.storage import FileInfo, Folder, translation

READERS = 8
"""Recordings read at once."""

_BLOCK_BYTES = 2**20

_LIST_FROM = 64
"""From this many recordings on, listing a remote folder takes less time than asking for each."""


def look_up(audio_root: Folder, names: Iterable[str]) -> dict[str, FileInfo]:
    """What lies under these names; those that cannot be had are left out.

    Raises:
        StorageUnavailableError: the store did not answer.
    """
    wanted = list(dict.fromkeys(names))
    if audio_root.local_path is None and len(wanted) >= _LIST_FROM:
        listed = _listed(audio_root, wanted)
        if listed is not None:
            return listed
    if audio_root.local_path is not None:
        try:
            return audio_root.infos(wanted)
        except E2IError as error:
            if is_transient(error):
                raise
        found = [_info(audio_root, name) for name in wanted]
    else:
        with ThreadPoolExecutor(READERS) as pool:
            found = list(pool.map(lambda name: _info(audio_root, name), wanted))
    return {info.name: info for info in found if info is not None}


def _listed(audio_root: Folder, wanted: list[str]) -> dict[str, FileInfo] | None:
    """By listing the folder that all names share; None where the store does not list."""
    common = posixpath.commonpath([f"/{posixpath.dirname(name)}" for name in wanted]).strip("/")
    names = set(wanted)
    try:
        return {file.name: file for file in audio_root.files(common) if file.name in names}
    except E2IError as error:
        if is_transient(error):
            raise
        return None


def _info(audio_root: Folder, name: str) -> FileInfo | None:
    try:
        return audio_root.info(name)
    except E2IError as error:
        if is_transient(error):
            raise
        return None


def digests(audio_root: Folder, names: Iterable[str]) -> dict[str, str]:
    """The sha256 of recordings; those that cannot be read are left out.

    Raises:
        StorageUnavailableError: the store did not answer.
    """
    wanted = list(dict.fromkeys(names))
    if not wanted:
        return {}
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda name: _digest(audio_root, name), wanted)
        return {name: sha for name, sha in zip(wanted, found, strict=True) if sha is not None}


def _digest(audio_root: Folder, name: str) -> str | None:
    try:
        with audio_root.open(name) as file:
            return _sha256(file)
    except (E2IError, OSError) as error:
        if is_transient(error):
            raise
        return None


def find_recording(audio_root: Folder, name: str) -> FileInfo:
    """The size and version of a recording.

    Raises:
        AudioNotFoundError: there is no such file.
        AudioError: it leads out of the audio root.
        StorageError: the store refused.
    """
    check_below_root(audio_root, name)
    info = audio_root.info(name)
    if info is None:
        raise _no_recording(audio_root, name)
    return info


def read_recording(audio_root: Folder, name: str) -> bytes:
    """The bytes of a recording that was found.

    Raises:
        AudioNotFoundError: it is gone.
        StorageError: it cannot be read.
    """
    try:
        return audio_root.read(name)
    except StorageNotFoundError as error:
        raise _no_recording(audio_root, name) from error


def digest_recording(audio_root: Folder, name: str) -> str:
    """The sha256 of a recording that was found, in the memory of a block.

    Raises:
        AudioNotFoundError: it is gone.
        StorageError: it cannot be read.
    """
    try:
        with audio_root.open(name) as file:
            return _sha256(file)
    except StorageNotFoundError as error:
        raise _no_recording(audio_root, name) from error


@contextlib.contextmanager
def open_recording(
    audio_root: Folder, name: str, info: FileInfo, sha256: str
) -> Iterator[BinaryIO]:
    """A recording as an open file of the local disk, for once it was digested.

    What lies elsewhere is first copied into a temporary file without a name, which goes away by
    itself.

    Args:
        audio_root: where it lies.
        name: its name there.
        info: its size and version when it was digested.
        sha256: what it has to be.

    Raises:
        AudioError: it changed since it was digested, or while it was used.
        AudioNotFoundError: it is gone.
        StorageError: it cannot be read, or there is no room for temporary files.
    """
    try:
        stored = audio_root.open(name)
    except StorageNotFoundError as error:
        raise _no_recording(audio_root, name) from error
    with stored:
        if audio_root.local_path is not None:
            yield stored
            if audio_root.info(name) != info:
                raise changed_meanwhile(name)
            return
        with tempfile.TemporaryFile() as copy:
            try:
                if _sha256(stored, copy) != sha256:
                    raise changed_meanwhile(name)
                copy.flush()
            except E2IError:
                raise
            except OSError as error:
                raise translation.from_os_error(error, "write", tempfile.gettempdir()) from error
            yield copy


def _sha256(file: BinaryIO, copy: BinaryIO | None = None) -> str:
    digest = hashlib.sha256()
    while block := file.read(_BLOCK_BYTES):
        digest.update(block)
        if copy is not None:
            copy.write(block)
    return digest.hexdigest()


def changed_meanwhile(name: str) -> AudioError:
    """The error for a recording that was written to while it was embedded."""
    return AudioError(
        f"a recording changed while it was read: got other bytes of {name!r} the second time, "
        "expected the same. Run again once it is written."
    )


def _no_recording(audio_root: Folder, name: str) -> AudioNotFoundError:
    return AudioNotFoundError(
        f"there is no recording: got {name!r}, expected a file below {audio_root.url}. Correct "
        "the metadata or --audio-root."
    )


def check_below_root(audio_root: Folder, name: str) -> None:
    """Refuse a name that leads out of the audio root, or a link that does so on the local disk.

    Raises:
        AudioError: it does.
    """
    try:
        resolve_audio_name(name, audio_root.url)
    except DatasetError as error:
        raise AudioError(str(error)) from error
    if audio_root.local_path is None:
        return
    root = os.path.realpath(audio_root.local_path)
    path = os.path.realpath(f"{root}/{name}")
    if not Path(path).is_relative_to(root):
        raise AudioError(
            f"a recording leads out of the audio root: got {name!r}, a link to {path}, expected a "
            f"file below {root}. Copy the recording there or correct --audio-root."
        )
