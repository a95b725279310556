"""Fetching files of known MD5 sums from a web folder, as patiently as big files need.

What is decided here:

- A file is written to `<name>.part` and renamed once its MD5 sum is right: whoever finds the name
  finds the whole file. Beside the part lies `<name>.part.json`, which says what it is a part of.
- A part is gone on with by `Range`, guarded by `If-Range` where the server gave a strong ETag. A
  server that ignores ranges, or has another file by now, starts the file over. The sum is taken as
  bytes arrive; what a part already holds is read once.
- What may pass is waited for and tried again: no connection, a cut, a stall, 408, 425, 429, 5xx.
  Waits double, with jitter, up to a minute; the server's Retry-After counts, up to five minutes.
  Only failures in a row count, those after which nothing more of the file had come.
- A wrong sum costs the file a fresh start, twice; after that it is not the file that was asked for.

Source: RFC 9110, sections 10.2.3 (Retry-After), 13.1.5 (If-Range), 14 (ranges).
"""

from __future__ import annotations

import contextlib
import email.utils
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from e2i import __version__
from e2i.datasets.disk_space import in_words
from e2i.datasets.download_config import DownloadConfig
from e2i.datasets.part_file import PartFile
from e2i.errors import (
    ConfigError,
    DatasetError,
    StorageError,
    StorageNotFoundError,
    StoragePermissionError,
    StorageUnavailableError,
)

FRESH_STARTS = 2
# Where no server has answered yet, it is the address or the network that is wrong.
_RETRIES_BEFORE_FIRST_ANSWER = 3
_CONNECT_TIMEOUT_S = 10.0
_LONGEST_WAIT_S = 60.0
_LONGEST_RETRY_AFTER_S = 300.0
_MAY_PASS = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
_SEND_AS_IS = {"Accept-Encoding": "identity"}

Progress = Callable[[int], None]
Note = Callable[[str], None]


class StoppedError(Exception):
    """Another file's fault, or an interrupt, ended the work; nothing to report."""


class _TryAgainError(Exception):
    """What went wrong may pass."""

    def __init__(self, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.after_s = after_s


class WebFolder:
    """A folder on the web, for threads to fetch files from.

    Args:
        config: address, patience, number of connections.
        note: told in one line what is tried again, from any thread.
        stop: once set, waits end and running downloads stop at the next block.
    """

    def __init__(self, config: DownloadConfig, note: Note, stop: threading.Event) -> None:
        self._config = config
        self._note = note
        self._stop = stop
        self._reached = threading.Event()
        timeout_s = config.timeout_s
        try:
            self._base = httpx.URL(config.base_url)
            self._client = httpx.Client(
                follow_redirects=True,
                timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_TIMEOUT_S)),
                limits=httpx.Limits(max_connections=config.connections),
                headers={"User-Agent": f"e2i/{__version__}", **_SEND_AS_IS},
            )
        except httpx.InvalidURL as error:
            raise ConfigError(
                f"base_url cannot be read: got {config.base_url!r} ({error}), expected "
                "http(s)://host/folder. Correct --base-url."
            ) from error
        except (ValueError, ImportError) as error:
            raise ConfigError(
                f"the proxy settings of this system cannot be used: got {error}, expected an "
                "http(s) proxy. Correct or unset HTTP_PROXY, HTTPS_PROXY and ALL_PROXY."
            ) from error

    def __enter__(self) -> Self:
        """Use and close."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self._client.close()

    def size_bytes(self, name: str) -> int | None:
        """Size of a file, by asking for its first byte; None where the server does not tell.

        Raises:
            StorageError: it is not there or cannot be had.
        """
        patience = self._patience(name)
        while True:
            try:
                with self._answer(name, {"Range": "bytes=0-0"}) as answer:
                    if answer.status_code in {206, 416}:
                        return _content_range(answer)[1]
                    return _content_length(answer)
            except _TryAgainError as again:
                patience.wait(again)

    def fetch(self, name: str, target: Path, md5: str, progress: Progress) -> int:
        """Fetch a file, or what is missing of it.

        Args:
            name: of the file, below the base address.
            target: where it goes once it is whole.
            md5: its sum.
            progress: told how many more bytes are there, from this thread: first what a part
                already holds; a negative number when the file is started over.

        Returns:
            Bytes that came over the network.

        Raises:
            StorageError: it cannot be had, or not be written.
            DatasetError: what comes never has that sum.
        """
        received_bytes = 0
        for fresh_starts in range(FRESH_STARTS + 1):
            with PartFile(target, self._shown(name), md5, progress) as part:
                content_type = self._receive_all(name, part)
                received_bytes += part.received_bytes
                if (found := part.md5) == md5:
                    part.finish()
                    return received_bytes
                size_bytes = part.position
                part.restart()
            if fresh_starts < FRESH_STARTS:
                self._note(f"{name}: the checksum is off (MD5 {found}); fetching it again.")
        raise DatasetError(
            f"{name} is not the expected file: got MD5 {found} ({in_words(size_bytes)}"
            f"{content_type and ', ' + content_type}) from {self._shown(name)} "
            f"{FRESH_STARTS + 1} times, expected {md5}. Correct --base-url or --checksums, or "
            "try another network."
        )

    def _receive_all(self, name: str, part: PartFile) -> str:
        """Receive until the part is as long as the file; the content type, as far as known."""
        patience = self._patience(name)
        furthest = part.position
        while True:
            try:
                if part.position and part.position == part.size_bytes:
                    return ""
                return self._receive(name, part)
            except _TryAgainError as again:
                if part.position > furthest:
                    furthest = part.position
                    patience.forget()
                patience.wait(again)

    def _receive(self, name: str, part: PartFile) -> str:
        """One request and its answer, appended to the part."""
        headers = {}
        if part.position:
            headers["Range"] = f"bytes={part.position}-"
            if part.etag:
                headers["If-Range"] = part.etag
        with self._answer(name, headers) as answer:
            etag = answer.headers.get("ETag", "")
            if answer.status_code == 416:
                part.restart()
                raise _TryAgainError("the server has another size for it")
            if answer.status_code == 206:
                start, size_bytes = _content_range(answer)
                if start != part.position or part.differs(size_bytes, etag):
                    part.restart()
                    raise _TryAgainError("the server has another version of it")
            else:
                part.restart()
                size_bytes = _content_length(answer)
            part.describe(size_bytes, etag)
            for block in self._blocks(answer, part):
                part.append(block)
            return str(answer.headers.get("Content-Type", ""))

    def _blocks(self, answer: httpx.Response, part: PartFile) -> Iterator[bytes]:
        """The body, as it arrives; never more than was announced."""
        for block in answer.iter_raw():
            if self._stop.is_set():
                raise StoppedError
            if part.size_bytes is not None and part.position + len(block) > part.size_bytes:
                part.restart()
                raise _TryAgainError("more bytes came than were announced")
            yield block
        if part.size_bytes is not None and part.position < part.size_bytes:
            raise _TryAgainError("the connection was cut")

    @contextlib.contextmanager
    def _answer(self, name: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """The answer to a GET; only 200, 206 and 416 are handed on."""
        if self._stop.is_set():
            raise StoppedError
        try:
            with self._client.stream("GET", self._url(name), headers=headers) as answer:
                self._reached.set()
                self._check_status(answer, name)
                yield answer
        except httpx.TimeoutException as error:
            connecting = isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout)
            reason = "no connection" if connecting else "no data"
            waited_s = min(self._config.timeout_s, _CONNECT_TIMEOUT_S if connecting else 1e9)
            raise _TryAgainError(f"{reason} for {waited_s:g} s") from error
        except (httpx.ConnectError, httpx.ProxyError) as error:
            raise _TryAgainError(f"no connection ({error})") from error
        except (httpx.UnsupportedProtocol, httpx.TooManyRedirects, httpx.InvalidURL) as error:
            raise StorageError(
                f"cannot fetch {name}: got {error} from {self._shown(name)}, expected the file. "
                "Correct --base-url."
            ) from error
        except httpx.TransportError as error:
            raise _TryAgainError("the connection was cut") from error

    def _check_status(self, answer: httpx.Response, name: str) -> None:
        status = answer.status_code
        if status in {200, 206} or (status == 416 and "Range" in answer.request.headers):
            return
        shown, reason = self._shown(name), f"{status} {answer.reason_phrase}".strip()
        if status in _MAY_PASS:
            raise _TryAgainError(f"the server says {reason}", _retry_after_s(answer))
        if status in {404, 410}:
            raise StorageNotFoundError(
                f"{name} is not there: got {reason} for {shown}, expected the file. Correct "
                "--base-url."
            )
        if status in {401, 403, 407, 451}:
            raise StoragePermissionError(
                f"not allowed to fetch {name}: got {reason} for {shown}, expected access. Use "
                "another --base-url, or ask whoever runs the server or proxy."
            )
        raise StorageError(
            f"cannot fetch {name}: got {reason} for {shown}, expected 200 or 206. Correct "
            "--base-url."
        )

    def _url(self, name: str) -> httpx.URL:
        """The file's address; a query of the base address stays behind it."""
        return self._base.copy_with(path=f"{self._base.path.rstrip('/')}/{name}")

    def _shown(self, name: str) -> str:
        """The file's address without what may be a secret."""
        url = self._url(name).copy_with(username="", password="", query=None, fragment=None)
        return str(url)

    def _patience(self, name: str) -> _Patience:
        return _Patience(
            name,
            self._shown(name),
            config=self._config,
            note=self._note,
            stop=self._stop,
            reached=self._reached,
        )


class _Patience:
    """How long to wait before a file is asked for again, and when to give up."""

    def __init__(
        self,
        name: str,
        shown: str,
        *,
        config: DownloadConfig,
        note: Note,
        stop: threading.Event,
        reached: threading.Event,
    ) -> None:
        self._name = name
        self._shown = shown
        self._config = config
        self._note = note
        self._stop = stop
        self._reached = reached
        self._failures = 0

    def forget(self) -> None:
        """More of the file came: earlier failures no longer count."""
        self._failures = 0

    def wait(self, again: _TryAgainError) -> None:
        """Wait for the next try.

        Raises:
            StorageUnavailableError: there were enough of them.
            StoppedError: the work ends.
        """
        retries = self._config.retries
        if not self._reached.is_set():
            retries = min(retries, _RETRIES_BEFORE_FIRST_ANSWER)
        if self._failures >= retries:
            raise StorageUnavailableError(
                f"cannot fetch {self._name}: got '{again}' from {self._shown} "
                f"{self._failures + 1} times in a row, expected the file. Check the network and "
                "the server, then run this again: it goes on where it stopped."
            ) from (again.__cause__ or again)
        wait_s = self._config.retry_wait_s * 2.0 ** min(self._failures, 30)
        wait_s = min(wait_s, _LONGEST_WAIT_S) * random.uniform(0.75, 1.25)  # noqa: S311 - jitter
        if again.after_s is not None:
            wait_s = max(wait_s, min(again.after_s, _LONGEST_RETRY_AFTER_S))
        self._failures += 1
        self._note(
            f"{self._name}: {again}; asking again in {wait_s:.0f} s ({self._failures} of "
            f"{retries})."
        )
        if self._stop.wait(wait_s):
            raise StoppedError


def _content_length(answer: httpx.Response) -> int | None:
    text = answer.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def _content_range(answer: httpx.Response) -> tuple[int, int | None]:
    """First byte and size of the whole file; (-1, None) where the header says neither."""
    found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
    if found is None:
        return -1, None
    size_bytes = None if found[2] == "*" else int(found[2])
    return -1 if found[1] is None else int(found[1]), size_bytes


def _retry_after_s(answer: httpx.Response) -> float | None:
    """Seconds to wait, from Retry-After as a number or a date."""
    text = answer.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
