"""URLs: which back end they name, and how they read without credentials.

Conventions: a local path and the part of an `s3://` or `memory://` URL after the bucket mean
exactly their characters (`%20` is three characters, `?` and `#` are plain ones). An `http(s)://`
URL is percent-encoded, as on the web. Credentials in a URL (`s3://key:secret@bucket`) are taken
out of it and travel as storage options; what is shown never holds them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from e2i.errors import ConfigError

SUPPORTED = "local paths, file://, memory://, s3://, and for reading hf://, http://, https://"
READ_ONLY = frozenset({"hf", "http", "https"})
RESERVED_PREFIX = ".e2i-"

_PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9+._\-]*")
_ONE_SLASH = re.compile(r"(file|local|memory|s3a?|gs|gcs|hf|https?|abfss?|az):/(?!/)")
_ACCESS_POINT = re.compile(r"arn:aws[\w-]*:s3[\w-]*:[^:/]*:\d*:accesspoint[:/][^/]+")


@dataclass(frozen=True, slots=True)
class Location:
    """A folder's place.

    Attributes:
        protocol: `file`, `memory`, `s3`, or another fsspec protocol.
        path: what the back end calls the folder; for `s3` the prefix below the bucket.
        url: what is shown: absolute path or URL, without credentials.
        bucket: for `s3`.
    """

    protocol: str
    path: str
    url: str
    bucket: str = ""

    def below(self, name: str) -> Location:
        """The folder `name` below this one."""
        return replace(self, path=join(self.path, name), url=join(self.url, name))


def join(folder: str, name: str) -> str:
    """`folder/name`, with one slash; either may be empty."""
    if not folder or not name:
        return folder or name
    return folder + name if folder.endswith("/") else f"{folder}/{name}"


def check_name(name: str) -> None:
    """Refuse what is no relative name.

    Raises:
        ConfigError: empty, absolute, with `.` or `..` or empty parts, a NUL, or one of the names
            that unfinished writes go by.
    """
    parts = name.split("/")
    if not name or "\0" in name or any(part in {"", ".", ".."} for part in parts):
        raise ConfigError(
            f"not a name in a folder: got {name!r}, expected a relative path without empty, '.' "
            "or '..' parts. Correct the name."
        )
    if any(part.startswith(RESERVED_PREFIX) for part in parts):
        raise ConfigError(
            f"reserved name: got {name!r}, expected one without a part that starts with "
            f"{RESERVED_PREFIX!r} (unfinished writes). Choose another name."
        )


def locate(url: str | Path) -> tuple[Location, dict[str, object]]:
    """The location that a URL or path names, and the storage options (credentials) found in it.

    Raises:
        ConfigError: the protocol is unknown or its package is missing, or the URL is malformed.
    """
    text = os.fspath(url)
    if not text or "\0" in text:
        raise ConfigError(
            f"not a folder: got {text!r}, expected a path or URL. Give '.' for the working folder."
        )
    if (slip := _ONE_SLASH.match(text)) is not None:
        raise ConfigError(
            f"malformed URL: got one slash after '{slip[1]}:', expected '{slip[1]}://'. Write "
            "the URL as text with both slashes (a Path drops one), or put './' before a path."
        )
    protocol, is_url, rest = text.partition("://")
    if isinstance(url, Path) or not is_url or "/" in protocol:
        return _local(text), {}
    if not _PROTOCOL.fullmatch(protocol):
        raise _malformed("no single protocol", "a path or one URL, not a chain", text)
    protocol = protocol.lower()
    if protocol in {"file", "local"}:
        if not rest.startswith(("/", "~")):
            raise _malformed("no absolute path after it", "file:/// and an absolute path", text)
        return _local(rest), {}
    if protocol == "memory":
        path = _plain_path(rest, text)
        return Location("memory", "/" + path, "memory://" + path), {}
    if protocol in {"s3", "s3a"}:
        return _s3(rest, text)
    if protocol in {"http", "https"}:
        return _http(protocol, text)
    return _other(protocol, f"{protocol}://{rest}")


def _local(text: str) -> Location:
    path = os.path.abspath(os.path.expanduser(text))  # noqa: PTH100, PTH111 - exact characters
    return Location("file", path, path)


def _s3(rest: str, text: str) -> tuple[Location, dict[str, object]]:
    """Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html."""
    options: dict[str, object] = {}
    arn = _ACCESS_POINT.match(rest)
    bucket = arn[0] if arn else rest.split("/", 1)[0]
    prefix = rest[len(bucket) :]
    if not arn:
        credentials, at, bucket = bucket.rpartition("@")
        key, colon, secret = credentials.partition(":")
        if at and not (key and colon and secret):
            raise _malformed("an incomplete key and secret", "s3://key:secret@bucket/...", text)
        if at:
            options = {"key": unquote(key), "secret": unquote(secret)}
        if not bucket or ":" in bucket:
            raise _malformed(
                "no valid bucket name", "s3://bucket/... with '/' in a secret as %2F", text
            )
    path = _plain_path(prefix, text)
    return Location("s3", path, join(f"s3://{bucket}", path), bucket), options


def _http(protocol: str, text: str) -> tuple[Location, dict[str, object]]:
    parts = urlsplit(text)
    host = parts.netloc.rpartition("@")[2]
    if not host:
        raise _malformed("no host", f"{protocol}://host/folder", text)
    if parts.query or parts.fragment:
        raise _malformed(
            "a query or fragment",
            f"the URL of a folder, with %3F for '?' and %23 for '#', below {protocol}://{host}",
            text,
        )
    url = f"{protocol}://{host}{parts.path.rstrip('/')}"
    options: dict[str, object] = {}
    if parts.username:
        options = {"username": unquote(parts.username), "password": unquote(parts.password or "")}
    return Location(protocol, url, url), options


def _other(protocol: str, text: str) -> tuple[Location, dict[str, object]]:
    from fsspec.registry import get_filesystem_class, known_implementations  # noqa: PLC0415

    try:
        file_system = get_filesystem_class(protocol)
    except ImportError as error:
        implementation = str(known_implementations.get(protocol, {}).get("class", protocol))
        package = getattr(error.__cause__, "name", None) or implementation.split(".", maxsplit=1)[0]
        raise ConfigError(
            f"the package for {protocol}:// is missing: got no module {package!r}, expected it "
            f"installed. Run `pip install {package}`."
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"unknown protocol: got {protocol!r}, expected one of: {SUPPORTED}, or another that "
            "fsspec knows. Correct the URL."
        ) from error
    shown = re.sub(r"^([^/]*://[^/:@]*):[^/]*@", r"\1@", text.rstrip("/"))
    if not re.match(r"[^/]*://[^/:]*(:\d*)?(/|$)", shown):
        raise _malformed("no valid host", "credentials as storage options", text)
    path = str(file_system._strip_protocol(text)).rstrip("/")
    password = urlsplit(text).password if shown != text.rstrip("/") else None
    if password and password in path:
        raise _malformed("a password", "credentials as storage options", text)
    return Location(protocol, path, shown), dict(file_system._get_kwargs_from_urls(text))


def _plain_path(rest: str, text: str) -> str:
    parts = [part for part in rest.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise _malformed("'..' in it", "a URL without it", text)
    return "/".join(parts)


def _malformed(got: str, expected: str, text: str) -> ConfigError:
    shown = text if "@" not in text and "?" not in text and text.count(":") == 1 else None
    shown = repr(shown) if shown else f"a {text.split(':', 1)[0]} URL (not shown: credentials)"
    return ConfigError(
        f"malformed URL: got {got} in {shown}, expected {expected}. Correct the URL."
    )


def secrets_in(options: Mapping[str, object]) -> frozenset[str]:
    """The credentials among storage options, at any depth, to keep them out of messages."""
    found: set[str] = set()
    for key, value in options.items():
        if isinstance(value, Mapping):
            found |= secrets_in(value)
        elif (
            isinstance(value, str)
            and len(value) > 3
            and re.search(r"secret|token|pass|key|auth|cred|conn", key, re.IGNORECASE)
        ):
            found.add(value)
    return frozenset(found)
