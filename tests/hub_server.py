"""A stand-in for the Hugging Face Hub on 127.0.0.1, for the real `huggingface_hub` client.

    with HubServer(folder) as hub:
        hub.fail("commit", Status(429, {"Retry-After": "1"}), Cut())
        ...HfApi(endpoint=hub.url).create_commit(...)...

It keeps data sets on the disk: blobs by digest, and the commits of each repository, so that it can
be started again on the same folder. It asks for `token` where one is set; bytes of large files go
to URLs that are signed, as at the Hub. Faults are told by route, and used up in their order.
`hub.environment` is what a subprocess needs to find it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

ROUTES = {
    "create": r"POST /api/repos/create",
    "yaml": r"POST /api/validate-yaml",
    "whoami": r"GET /api/whoami-v2",
    "preupload": r"POST /api/datasets/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)",
    "commit": r"POST /api/datasets/(?P<repo>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)",
    "paths-info": r"POST /api/datasets/(?P<repo>[^/]+/[^/]+)/paths-info/(?P<revision>[^/]+)",
    "tree": r"GET /api/datasets/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?",
    "info": r"GET /api/datasets/(?P<repo>[^/]+/[^/]+?)(?:/revision/(?P<revision>[^/]+))?",
    "batch": r"POST /datasets/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch",
    "put": r"PUT /blobs/(?P<digest>[0-9a-f]{64})",
    "verify": r"POST /verify",
    "resolve": r"(?:GET|HEAD) /datasets/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/"
    r"(?P<path>.+)",
}
_PATTERNS = {name: re.compile(pattern) for name, pattern in ROUTES.items()}
_LARGE = (".parquet", ".pt", ".png", ".bin")


@dataclass(frozen=True)
class Status:
    """Answer with this status."""

    code: int
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut:
    """Close the connection: before anything is done, or `after` all is."""

    after: bool = False


@dataclass(frozen=True)
class Slow:
    """Answer after so many seconds."""

    seconds: float


Fault = Status | Cut | Slow


@dataclass(frozen=True)
class Request:
    """What was asked for, and when; `bytes` counts the body as it came in."""

    route: str
    path: str
    bytes: int
    authorization: str | None
    at: float


class _Refused(Exception):
    def __init__(self, code: int, error: str = "", said: str = "") -> None:
        super().__init__(said)
        self.code, self.error, self.said = code, error, said


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is gone is no news."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class HubServer:
    """One server, with data in a folder of its own."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.token: str | None = None
        self.requests: list[Request] = []
        self._faults: dict[str, list[Fault]] = defaultdict(list)
        self._lock = threading.RLock()
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        self._server = _Server(("127.0.0.1", port), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(self.folder / "home"),
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @contextlib.contextmanager
    def found_by_this_process(self) -> Iterator[None]:
        """The client of this process talks to this Hub: what its environment says, it has read."""
        from huggingface_hub import close_session, constants

        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
            patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", self.url + template)
            patch.setattr(constants, "ENDPOINT", self.url)
            patch.setattr(constants, "HF_HUB_OFFLINE", False)
            patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
            yield
        close_session()

    def fail(self, route: str, *faults: Fault) -> None:
        """Let the next requests of a route fail, one fault each."""
        assert route in ROUTES
        with self._lock:
            self._faults[route] += faults

    def heal(self) -> None:
        with self._lock:
            self._faults.clear()

    def of(self, route: str) -> list[Request]:
        with self._lock:
            return [request for request in self.requests if request.route == route]

    @property
    def uploaded_bytes(self) -> int:
        """Bodies of large files and of commits."""
        return sum(request.bytes for route in ("put", "commit") for request in self.of(route))

    def commits(self, repo: str) -> list[dict[str, Any]]:
        """The commits of a repository, the first one first."""
        with self._lock:
            return self._repo(repo)["commits"]

    def files(self, repo: str) -> dict[str, bytes]:
        """What the head of a repository holds."""
        with self._lock:
            head = self.commits(repo)[-1]["files"]
            return {path: self.blob(entry) for path, entry in head.items()}

    def is_private(self, repo: str) -> bool:
        return bool(self._repo(repo)["private"])

    def create(self, repo: str, *, private: bool = True) -> None:
        with self._lock:
            path = self._repo_path(repo)
            path.parent.mkdir(parents=True, exist_ok=True)
            first = {"oid": _oid(), "files": {}, "title": "initial commit", "at": time.time()}
            self._save(repo, {"private": private, "commits": [first]})

    def put_files(self, repo: str, files: dict[str, bytes | None]) -> None:
        """A commit by somebody else; None deletes."""
        with self._lock:
            if not self._repo_path(repo).exists():
                self.create(repo)
            self._add_commit(repo, files, "by somebody else")

    def tag(self, repo: str, name: str) -> None:
        """Give the newest commit a name."""
        with self._lock:
            state = self._repo(repo)
            state["commits"][-1]["tag"] = name
            self._save(repo, state)

    # What requests come to.

    def _repo_path(self, repo: str) -> Path:
        return self.folder / "repos" / f"{repo}.json"

    def _repo(self, repo: str) -> dict[str, Any]:
        try:
            return json.loads(self._repo_path(repo).read_text())
        except FileNotFoundError:
            raise _Refused(404, "RepoNotFound", "Repository not found") from None

    def _save(self, repo: str, state: dict[str, Any]) -> None:
        path = self._repo_path(repo)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(state))
        part.rename(path)

    def store_blob(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        path = self.folder / "blobs" / digest
        if not path.exists():
            part = path.with_name(f"{digest}.{uuid.uuid4().hex}")
            part.write_bytes(data)
            part.rename(path)
        return digest

    def has_blob(self, digest: str) -> bool:
        return (self.folder / "blobs" / digest).exists()

    def blob(self, entry: dict[str, Any]) -> bytes:
        return (self.folder / "blobs" / entry["sha256"]).read_bytes()

    def _add_commit(self, repo: str, files: dict[str, Any], title: str) -> str:
        """Entries by path: bytes, a finished entry, or None to delete."""
        state = self._repo(repo)
        entries = dict(state["commits"][-1]["files"])
        for path, content in files.items():
            if content is None:
                for name in [n for n in entries if n == path or n.startswith(f"{path}/")]:
                    del entries[name]
            else:
                entries[path] = content if isinstance(content, dict) else self._entry(path, content)
        commit = {"oid": _oid(), "files": entries, "title": title, "at": time.time()}
        state["commits"].append(commit)
        self._save(repo, state)
        return commit["oid"]

    def _entry(self, path: str, data: bytes) -> dict[str, Any]:
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        return {
            "sha256": self.store_blob(data), "size": len(data), "git": git,
            "lfs": path.endswith(_LARGE),
        }  # fmt: skip

    def _at(self, repo: str, revision: str | None) -> dict[str, Any]:
        commits = self._repo(repo)["commits"]
        if revision in {None, "main"}:
            return commits[-1]
        wanted = unquote(revision)
        for commit in commits:
            if wanted in {commit["oid"], commit.get("tag")}:
                return commit
        raise _Refused(404, "RevisionNotFound", "Invalid rev id")

    def admit(self, known: bool, signed: bool, authorization: str | None) -> None:
        if not known:
            raise _Refused(404, said="nothing there")
        if self.token and not signed and authorization != f"Bearer {self.token}":
            raise _Refused(401, said="Invalid username or password.")

    def answer(self, route: str, match: dict[str, str | None], ask: _Ask) -> _Answer:
        with self._lock:
            return getattr(self, "_on_" + route.replace("-", "_"))(match, ask)

    def _on_create(self, match: dict, ask: _Ask) -> _Answer:
        asked = json.loads(ask.body)
        repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if self._repo_path(repo).exists():
            return _Answer(409, {"error": "You already created this repo", "url": self._page(repo)})
        self.create(repo, private=asked.get("visibility") == "private")
        return _Answer(200, {"url": self._page(repo)})

    def _page(self, repo: str) -> str:
        return f"{self.url}/datasets/{repo}"

    def _on_yaml(self, match: dict, ask: _Ask) -> _Answer:
        return _Answer(200, {"errors": [], "warnings": []})

    def _on_whoami(self, match: dict, ask: _Ask) -> _Answer:
        return _Answer(200, {"name": "me", "type": "user", "orgs": []})

    def _on_info(self, match: dict, ask: _Ask) -> _Answer:
        repo = match["repo"]
        commit, state = self._at(repo, match["revision"]), self._repo(repo)
        return _Answer(
            200,
            {
                "id": repo, "sha": commit["oid"], "private": state["private"], "tags": [],
                "downloads": 0, "likes": 0, "disabled": False, "gated": False,
                "siblings": [{"rfilename": path} for path in commit["files"]],
            },
        )  # fmt: skip

    def _on_tree(self, match: dict, ask: _Ask) -> _Answer:
        files = self._at(match["repo"], match["revision"])["files"]
        below = unquote(match["path"] or "").strip("/")
        start = f"{below}/" if below else ""
        found = {path: entry for path, entry in files.items() if path.startswith(start)}
        if below and not found:
            raise _Refused(404, "EntryNotFound", f"{below} does not exist on main")
        recursive = ask.query.get("recursive", ["false"])[0].lower() in {"true", "1"}
        shown: dict[str, dict[str, Any]] = {}
        for path, entry in found.items():
            parts = path[len(start) :].split("/")
            for depth in range(1, len(parts)):
                if recursive or depth == 1:
                    folder = start + "/".join(parts[:depth])
                    shown[folder] = {
                        "type": "directory",
                        "path": folder,
                        "oid": "0" * 40,
                        "size": 0,
                    }
            if recursive or len(parts) == 1:
                shown[path] = _described(path, entry)
        entries = [shown[path] for path in sorted(shown)]
        first = int(ask.query.get("cursor", ["0"])[0])
        answer = _Answer(200, entries[first : first + 1000])
        if first + 1000 < len(entries):
            rest = f"{self.url}{ask.path}?recursive={recursive}&cursor={first + 1000}"
            answer.headers["Link"] = f'<{rest}>; rel="next"'
        return answer

    def _on_paths_info(self, match: dict, ask: _Ask) -> _Answer:
        files = self._at(match["repo"], match["revision"])["files"]
        wanted = parse_qs(ask.body.decode()).get("paths", [])
        found = [_described(path, files[path]) for path in wanted if path in files]
        found += [
            {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
            for path in wanted
            if any(name.startswith(f"{path}/") for name in files)
        ]
        return _Answer(200, found)

    def _on_preupload(self, match: dict, ask: _Ask) -> _Answer:
        files = self._at(match["repo"], match["revision"])["files"]
        answers = []
        for asked in json.loads(ask.body)["files"]:
            path, stored = asked["path"], files.get(asked["path"])
            large = path.endswith(_LARGE)
            oid = None if stored is None else stored["sha256" if stored["lfs"] else "git"]
            mode = "lfs" if large else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return _Answer(200, {"files": answers})

    def _on_batch(self, match: dict, ask: _Ask) -> _Answer:
        self._repo(match["repo"])
        objects = []
        for asked in json.loads(ask.body)["objects"]:
            known = self.has_blob(asked["oid"])
            href = f"{self.url}/blobs/{asked['oid']}?X-Signature={SIGNATURE}"
            actions = {"upload": {"href": href}, "verify": {"href": f"{self.url}/verify"}}
            objects.append({**asked, **({} if known else {"actions": actions})})
        return _Answer(200, {"transfer": "basic", "objects": objects})

    def _on_put(self, match: dict, ask: _Ask) -> _Answer:
        if self.store_blob(ask.body) != match["digest"]:
            raise _Refused(400, said="the bytes have another digest")
        return _Answer(200, {})

    def _on_verify(self, match: dict, ask: _Ask) -> _Answer:
        if not self.has_blob(json.loads(ask.body)["oid"]):
            raise _Refused(404, said="no such object")
        return _Answer(200, {})

    def _on_commit(self, match: dict, ask: _Ask) -> _Answer:
        repo = match["repo"]
        lines = [json.loads(line) for line in ask.body.splitlines()]
        header, changes = lines[0]["value"], lines[1:]
        head = self._at(repo, None)["oid"]
        if header.get("parentCommit") not in {None, head}:
            raise _Refused(412, said="A commit has happened since. Please refresh and try again.")
        files: dict[str, Any] = {}
        for change in changes:
            value = change["value"]
            if change["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif change["key"] == "lfsFile":
                if not self.has_blob(value["oid"]):
                    raise _Refused(400, said=f"{value['path']} was not uploaded")
                files[value["path"]] = {
                    "sha256": value["oid"], "size": value["size"], "lfs": True,
                    "git": hashlib.sha1(value["oid"].encode()).hexdigest(),
                }  # fmt: skip
            else:
                files[value["path"].rstrip("/")] = None
        oid = self._add_commit(repo, files, header["summary"])
        return _Answer(200, {"commitUrl": f"{self._page(repo)}/commit/{oid}", "commitOid": oid})

    def _on_resolve(self, match: dict, ask: _Ask) -> _Answer:
        commit = self._at(match["repo"], match["revision"])
        entry = commit["files"].get(unquote(match["path"]))
        if entry is None:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        data = self.blob(entry)
        etag = f'"{entry["sha256"] if entry["lfs"] else entry["git"]}"'
        answer = _Answer(200, data)
        answer.headers |= {
            "X-Repo-Commit": commit["oid"], "ETag": etag, "X-Linked-Etag": etag,
            "X-Linked-Size": str(len(data)), "Accept-Ranges": "bytes",
        }  # fmt: skip
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", ask.headers.get("Range") or "")
        if asked:
            first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
            if first >= len(data):
                raise _Refused(416)
            answer.code, answer.body = 206, data[first : last + 1]
            answer.headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return answer

    def next_fault(self, route: str) -> Fault | None:
        with self._lock:
            waiting = self._faults[route]
            return waiting.pop(0) if waiting else None

    def note(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)


SIGNATURE = "signature-that-nobody-is-to-see"
"""In the URLs that large files are put to."""


@dataclass
class _Ask:
    path: str
    query: dict[str, list[str]]
    headers: Any
    body: bytes


@dataclass
class _Answer:
    code: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


def _oid() -> str:
    return hashlib.sha1(uuid.uuid4().bytes).hexdigest()


def _described(path: str, entry: dict[str, Any]) -> dict[str, Any]:
    shown = {"type": "file", "path": path, "size": entry["size"], "oid": entry["git"]}
    if entry["lfs"]:
        shown["lfs"] = {"oid": entry["sha256"], "size": entry["size"], "pointerSize": 134}
    return shown


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def _serve(self) -> None:
            parts = urlsplit(self.path)
            called = f"{self.command} {parts.path}"
            found = ((name, p.fullmatch(called)) for name, p in _PATTERNS.items())
            route, match = next(((n, m) for n, m in found if m), ("unknown", None))
            body = b"".join(self._body())
            authorization = self.headers.get("Authorization")
            hub.note(Request(route, parts.path, len(body), authorization, time.monotonic()))
            fault = hub.next_fault(route) if match else None
            if isinstance(fault, Slow):
                time.sleep(fault.seconds)
            if isinstance(fault, Cut) and not fault.after:
                self.close_connection = True
                return
            if isinstance(fault, Status):
                self._send(_Answer(fault.code, {"error": "told to fail"}, dict(fault.headers)))
                return
            answer = self._answered(route, match, _Ask(
                parts.path, parse_qs(parts.query), self.headers, body), authorization,
            )  # fmt: skip
            if isinstance(fault, Cut):
                self.close_connection = True
                return
            self._send(answer)

        def _answered(self, route, match, ask: _Ask, authorization: str | None) -> _Answer:
            try:
                signed = route == "put" and ask.query.get("X-Signature") == [SIGNATURE]
                hub.admit(match is not None, signed, authorization)
                return hub.answer(route, match.groupdict(), ask)
            except _Refused as refusal:
                headers = {"X-Error-Code": refusal.error} if refusal.error else {}
                if refusal.said:
                    headers["X-Error-Message"] = refusal.said
                return _Answer(refusal.code, {"error": refusal.said}, headers)

        def _body(self) -> Iterator[bytes]:
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
                    yield self._exactly(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                yield self._exactly(int(self.headers.get("Content-Length") or 0))

        def _exactly(self, size: int) -> bytes:
            data = self.rfile.read(size)
            if len(data) < size:
                raise ConnectionResetError("the client was killed while it sent")
            return data

        def _send(self, answer: _Answer) -> None:
            plain = isinstance(answer.body, bytes)
            data = answer.body if plain else json.dumps(answer.body).encode()
            self.send_response(answer.code)
            kind = "application/octet-stream" if plain else "application/json"
            headers = {"Content-Type": kind, "Content-Length": str(len(data)), **answer.headers}
            for name, value in headers.items():
                self.send_header(name, quote(value, safe=" !\"#$%&'()*+,/:;<=>?@[]^_`{|}~"))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)
            self.wfile.flush()

        do_GET = do_HEAD = do_POST = do_PUT = _serve

        def log_message(self, *args: object) -> None: ...

    return Handler
