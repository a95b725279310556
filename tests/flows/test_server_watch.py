"""A server that is gone for good ends the run; one that is away for a while does not."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flows.server_watch import ServerWatch, gone


class _Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


def test_the_process_ends_where_the_server_is_gone(capsys: pytest.CaptureFixture[str]) -> None:
    ended = threading.Event()
    with ServerWatch("http://me:pass@127.0.0.1:9/api", ended.set, limit_s=0.05, every_s=0.01):
        assert ended.wait(30)
    said = capsys.readouterr().err
    assert said == f"e2i: {gone('http://127.0.0.1:9/api', 0.05)}\n"
    assert "expected one. Start it again, then run the same again" in said


def test_a_server_that_answers_is_let_be() -> None:
    asked = threading.Semaphore(0)

    class Counting(_Healthy):
        def do_GET(self) -> None:
            asked.release()
            super().do_GET()

    ended = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Counting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/api"
        with ServerWatch(url, ended.set, limit_s=60, every_s=0.01):
            for _ in range(3):
                assert asked.acquire(timeout=30)
        server.shutdown()
    assert not ended.is_set()
