"""Any other fsspec file system, as well as it can.

Conventions: `http(s)://` and `hf://` are for reading, the rest (`gs://`, `az://`, `sftp://`, ...)
for both. An object is read whole. A version is what the store tells of it, at least the size.
`create` uses the file system's own exclusive mode where it
has one, else it looks first and writes then; `replace` always does. So with several writers of one
name these stores promise less than the local disk, memory and S3 do.
"""

# ruff: noqa: D102 - Folder documents the methods, once.

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, unquote

import fsspec
from fsspec import AbstractFileSystem

from e2i.errors import ConfigError, E2IError, StorageError, StorageNotFoundError
from e2i.storage import translation
from e2i.storage.locations import Location, join, secrets_in
from e2i.storage.store import FileInfo, Store

T = TypeVar("T")

_VERSION_KEYS = (
    "ETag",
    "etag",
    "Content-MD5",
    "Digest",
    "sha256",
    "blob_id",
    "oid",
    "mtime",
    "updated",
    "last_modified",
    "LastModified",
    "created",
)
_CLIENTS = ("aiohttp", "httpx2", "httpcore2", "huggingface_hub.errors")
"""Whose errors without a status are of the network."""
_WEB = frozenset({"http", "https"})


class GenericStore(Store):
    """A folder on a file system that fsspec knows."""

    def __init__(self, location: Location, options: Mapping[str, object]) -> None:
        self._location = location
        web = location.protocol in _WEB
        self._options = _with_web_credentials(options) if web else dict(options)
        self._secrets = secrets_in(options) | secrets_in(self._options)

    def read(self, name: str) -> bytes:
        return self._call("read", name, lambda fs: bytes(fs.cat_file(self._path(name))))

    def read_versioned(self, name: str) -> tuple[bytes, str]:
        stored = self.info(name)  # before the bytes: a change in between is noticed by `replace`
        if stored is None:
            raise translation.not_found(self._where(name))
        return self.read(name), stored.version

    def open(self, name: str) -> BinaryIO:
        return io.BytesIO(self.read(name))

    def write(self, name: str, data: bytes | memoryview, *, durable: bool = True) -> None:  # noqa: ARG002
        self._call("write", name, lambda fs: _put(fs, self._path(name), data))

    def create(self, name: str, data: bytes | memoryview) -> bool:
        if self.info(name) is not None:
            return False

        def put(file_system: AbstractFileSystem) -> bool:
            path = self._path(name)
            try:
                file_system.pipe_file(path, bytes(data), mode="create")
            except FileExistsError:
                return False
            except (NotImplementedError, TypeError, ValueError):
                _put(file_system, path, data)
            return True

        return self._call("write", name, put)

    def replace(self, name: str, data: bytes | memoryview, version: str | None) -> str:
        stored = self.info(name)
        found = stored.version if stored else None
        if found != version:
            raise translation.stale(self._where(name), found, version)
        self.write(name, data)
        written = self.info(name)
        if written is None:
            raise translation.not_found(self._where(name))
        return written.version

    def delete(self, name: str) -> None:
        if self.info(name) is not None:
            self._call("delete", name, lambda fs: fs.rm_file(self._path(name)))

    def info(self, name: str) -> FileInfo | None:
        try:
            found = self._call("read", name, lambda fs: dict(fs.info(self._path(name))))
        except StorageNotFoundError:
            return None
        return None if found.get("type") == "directory" else _describe(name, found)

    def files(self, below: str) -> list[FileInfo]:
        root = self._path(below) if below else self._location.path
        try:
            found = self._call("list", below, lambda fs: dict(fs.find(root, detail=True)))
        except StorageNotFoundError:
            return []
        start = root.rstrip("/") + "/"
        if self._location.protocol in _WEB:  # a page of links tells neither sizes nor versions
            linked = [unquote(path[len(start) :]) for path in found if path.startswith(start)]
            infos = [self.info(join(below, name)) for name in linked if name]
            return [info for info in infos if info is not None]
        return [
            _describe(join(below, path[len(start) :]), entry)
            for path, entry in found.items()
            if path.startswith(start)
        ]

    def _path(self, name: str) -> str:
        web = self._location.protocol in _WEB
        return join(self._location.path, quote(name, safe="/") if web else name)

    def _where(self, name: str) -> str:
        return join(self._location.url, name)

    def _call(self, action: str, name: str, request: Callable[[Any], T]) -> T:
        """Send a request and translate its errors, whatever library they come from."""
        try:
            file_system = fsspec.filesystem(
                self._location.protocol, use_listings_cache=False, **self._options
            )
            file_system.invalidate_cache()
            return request(file_system)
        except E2IError:
            raise
        except Exception as error:
            translated = _translate(error, action, self._where(name), self._secrets)
            raise translated from translation.showable(error, self._secrets)


def _with_web_credentials(options: Mapping[str, object]) -> dict[str, object]:
    """The options with user and password as a header."""
    given = dict(options)
    if "username" not in given:
        return given
    pair = f"{given.pop('username')}:{given.pop('password', '')}"
    authorization = "Basic " + base64.b64encode(pair.encode()).decode()
    client = given.get("client_kwargs")
    client = dict(client) if isinstance(client, Mapping) else {}
    headers = {"Authorization": authorization, **client.get("headers", {})}
    return {**given, "client_kwargs": {**client, "headers": headers}}


def _put(file_system: AbstractFileSystem, path: str, data: bytes | memoryview) -> None:
    parent = path.rpartition("/")[0]
    if parent:
        file_system.makedirs(parent, exist_ok=True)
    file_system.pipe_file(path, bytes(data))


def _describe(name: str, found: Mapping[str, Any]) -> FileInfo:
    size_bytes = int(found.get("size") or 0)
    known = [_version(found[key]) for key in _VERSION_KEYS if found.get(key)]
    return FileInfo(name, size_bytes, f"{known[0]}-{size_bytes}" if known else f"{size_bytes}")


def _version(value: object) -> str:
    """One spelling for a time, which listings and `info` give as a number or as a date."""
    return str(value.timestamp() if isinstance(value, datetime) else value)


def _status(error: Exception) -> int:
    """The HTTP status that an error of some library carries, or 0."""
    for holder in (error, getattr(error, "response", None)):
        for key in ("status", "status_code", "code"):
            value = str(getattr(holder, key, None))
            if value.isdigit():
                return int(value)
    return 0


def _translate(
    error: Exception, action: str, where: str, secrets: frozenset[str]
) -> StorageError | ConfigError:
    status = _status(error)
    said = translation.redacted(str(error), secrets)
    reason = f"{type(error).__name__} {said!r}" if said else type(error).__name__
    if status in {401, 403}:
        step = "Give the credentials as storage options or as its own library takes them."
        return translation.not_allowed(action, where, reason, step)
    if status in {404, 410}:
        return translation.not_found(where)
    lost = type(error).__module__.startswith(_CLIENTS) and not status
    if lost or status == 429 or (status >= 500 and status != 501):
        return translation.unavailable(action, where, reason)
    if isinstance(error, OSError):
        return translation.from_os_error(error, action, where)
    if isinstance(error, TypeError | ValueError | ImportError):
        return ConfigError(
            f"cannot {action}: got {reason} for {where}, expected a file system that takes this. "
            "Check the URL and the storage options."
        )
    return translation.refused(action, where, reason, "See the cause above.")
