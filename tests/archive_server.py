"""A web server on 127.0.0.1 that serves files badly on request, for tests of downloads.

    with ArchiveServer(folder) as server:
        server.faults["a.7z"] = [Cut(after_bytes=1000), Status(503, {"Retry-After": "0"})]
        ...fetch f"{server.url}/a.7z"...

Each answer with a body (other than that to the question for one byte) uses up one fault of its
file; without one it is a sound answer, with ranges and ETags. `server.requests` has every request.
"""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class Cut:
    """Close the connection after so many bytes of the body."""

    after_bytes: int


@dataclass(frozen=True)
class Stall:
    """Send so many bytes of the body, then nothing until the server ends."""

    after_bytes: int


@dataclass(frozen=True)
class Corrupt:
    """Send the body with one byte changed."""

    at: int


@dataclass(frozen=True)
class Status:
    """Answer with this status and no body worth having."""

    code: int
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class IgnoreRange:
    """Answer with the whole file, whatever was asked for."""


@dataclass(frozen=True)
class TooLong:
    """Send so many bytes more than the file has, without saying how long the body is."""

    more_bytes: int


Fault = Cut | Stall | Corrupt | Status | IgnoreRange | TooLong


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    name: str
    range: str | None
    if_range: str | None
    user_agent: str
    query: str

    @property
    def asks_size(self) -> bool:
        return self.range == "bytes=0-0"


class ArchiveServer:
    """Serves one folder; the faults of a file are used up in their order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: dict[str, list[Fault]] = {}
        self.size_faults: dict[str, list[Fault]] = {}
        self.requests: list[Request] = []
        self.etags = True
        self.tells_size = True
        self.ended = threading.Event()
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/files"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def bodies(self, name: str) -> list[Request]:
        """The requests for a file's bytes, without those for its size."""
        return [r for r in self.requests if r.name == name and not r.asks_size]

    def take(self, request: Request) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            queue = self.size_faults if request.asks_size else self.faults
            waiting = queue.get(request.name)
            return waiting.pop(0) if waiting else None

    def count(self, change: int) -> None:
        with self._lock:
            self._at_once += change
            self.most_at_once = max(self.most_at_once, self._at_once)


def _handler(server: ArchiveServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            """Say nothing."""

        def handle(self) -> None:
            try:
                super().handle()
            except (ConnectionError, TimeoutError):
                self.close_connection = True

        def do_GET(self) -> None:
            server.count(+1)
            try:
                self.answer()
            finally:
                server.count(-1)

        def answer(self) -> None:
            path, _, query = self.path.partition("?")
            name = path.removeprefix("/files/")
            asked = self.headers.get("Range")
            request = Request(
                name, asked, self.headers.get("If-Range"), self.headers["User-Agent"], query
            )
            fault = server.take(request)
            file = server.folder / name
            if isinstance(fault, Status):
                self.refuse(fault.code, fault.headers)
                return
            if not file.is_file():
                self.refuse(404, {})
                return
            self.send_file(file.read_bytes(), request, fault)

        def refuse(self, code: int, headers: dict[str, str]) -> None:
            self.send_response(code)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"none")

        def send_file(self, data: bytes, request: Request, fault: Fault | None) -> None:
            etag = f'"{hashlib.md5(data).hexdigest()}"'
            found = re.fullmatch(r"bytes=(\d+)-(\d*)", request.range or "")
            same = request.if_range in {None, etag}
            start, stop = 0, len(data)
            if found and same and not isinstance(fault, IgnoreRange | TooLong):
                start = int(found[1])
                stop = min(len(data), int(found[2]) + 1) if found[2] else len(data)
                if start >= len(data):
                    self.refuse(416, {"Content-Range": f"bytes */{len(data)}"})
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
            else:
                self.send_response(200)
            if server.etags:
                self.send_header("ETag", etag)
            body = bytearray(data[start:stop])
            self.send_header("Content-Type", "application/octet-stream")
            if isinstance(fault, TooLong) or not server.tells_size:
                self.send_header("Connection", "close")
            else:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.send_body(body, start, fault)

        def send_body(self, body: bytearray, start: int, fault: Fault | None) -> None:
            if isinstance(fault, Corrupt) and start <= fault.at < start + len(body):
                body[fault.at - start] ^= 0xFF
            if isinstance(fault, TooLong):
                body += bytes(fault.more_bytes)
            if not isinstance(fault, Cut | Stall):
                self.wfile.write(body)
                return
            self.wfile.write(body[: max(0, fault.after_bytes - start)])
            self.wfile.flush()
            if isinstance(fault, Stall):
                server.ended.wait(30)
                self.close_connection = True
                return
            # Reset rather than end, once the bytes sent have had time to arrive.
            server.ended.wait(0.05)
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    return Handler
