"""S3: the contract on a real server, then what servers and networks do wrong."""

from __future__ import annotations

import http.client
import http.server
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from e2i.errors import (
    ConfigError,
    StaleWriteError,
    StorageFullError,
    StorageNotFoundError,
    StoragePermissionError,
    StorageUnavailableError,
    is_transient,
)
from e2i.storage import Folder, s3
from s3_server import S3Server
from storage_contract import SharedStorageContract


class TestS3(SharedStorageContract):
    creators = 4  # SeaweedFS makes creators of one name wait for each other for a second
    rounds = 1
    names_that_the_server_changes = frozenset({"back\\slash|pipe<angle>"})  # \ becomes /

    @pytest.fixture
    def folder(self, s3_server):
        url = f"{s3_server.url}/{uuid.uuid4().hex}/my data #1 ?x=%20"
        return Folder(url, s3_server.storage_options)


class TestS3BucketRoot:
    def test_the_bucket_itself_is_a_folder(self, s3_server):
        folder = Folder("s3://other", s3_server.storage_options)
        folder.write("a/b", b"1")
        assert [file.name for file in folder.files()] == ["a/b"]
        assert folder.folder("a").url == "s3://other/a"
        folder.delete("a/b")
        assert folder.files() == []


def calls(folder: Folder) -> list[Callable[[], object]]:
    return [
        lambda: folder.read("a"),
        lambda: folder.open("a"),
        lambda: folder.write("a", b""),
        lambda: folder.create("a", b""),
        lambda: folder.replace("a", b"", None),
        lambda: folder.delete("a"),
        lambda: folder.info("a"),
        folder.files,
    ]


def test_listings_have_more_than_one_page(s3_folder, monkeypatch):
    monkeypatch.setattr(s3, "_PAGE", 3)
    for number in range(8):
        s3_folder.write(f"{number} #", b"")
    assert [file.name for file in s3_folder.files()] == [f"{number} #" for number in range(8)]


def test_a_reader_stays_with_its_version(s3_folder):
    s3_folder.write("large", bytes(9_000_000))
    with s3_folder.open("large") as file:
        assert file.read(10) == bytes(10)
        s3_folder.write("large", b"\1" * 9_000_000)
        file.seek(8_500_000)
        with pytest.raises(StaleWriteError, match="someone else wrote first"):
            file.read(10)


def test_a_wrong_secret(s3_server):
    folder = Folder(
        f"{s3_server.url}/x", {**s3_server.storage_options, "secret": "wrong-secret-987"}
    )
    for call in calls(folder):
        with pytest.raises(StoragePermissionError, match="not allowed to") as caught:
            call()
        assert "AWS_SECRET_ACCESS_KEY" in str(caught.value)
        assert f"{s3_server.url}/x" in str(caught.value)
        assert not is_transient(caught.value)
        shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
        assert "wrong-secret-987" not in shown


def test_credentials_in_the_url_work_and_are_not_shown(s3_server):
    url = f"s3://{s3_server.key}:{s3_server.secret}@e2i/{uuid.uuid4().hex}"
    folder = Folder(url, {"endpoint_url": s3_server.endpoint_url})
    folder.write("a", b"1")
    assert folder.read("a") == b"1"
    assert folder.url == "s3://e2i/" + url.rpartition("/")[2]
    with pytest.raises(StorageNotFoundError) as caught:
        folder.read("missing")
    shown = "".join(traceback.format_exception(caught.value)) + repr(folder) + folder.url
    assert s3_server.secret not in shown
    assert s3_server.key not in shown


def test_a_secret_that_a_server_repeats_is_not_shown(s3_server, proxy):
    proxy.answer_next(403, "AccessDenied", f"the secret {s3_server.secret} is bad")
    with pytest.raises(StoragePermissionError, match=r"the secret \*\*\* is bad") as caught:
        proxy.folder().read("a")
    assert s3_server.secret not in "".join(traceback.format_exception(caught.value))


def test_no_credentials(s3_server):
    folder = Folder(s3_server.url, {"endpoint_url": s3_server.endpoint_url})
    with pytest.raises(StoragePermissionError, match="Unable to locate credentials") as caught:
        folder.read("a")
    assert "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"endpoint_url": "nonsense"}, "Invalid endpoint: nonsense"),
        ({"profile": "no-such"}, r"The config profile \(no-such\) could not be found"),
    ],
)
def test_a_wrong_configuration(options, text):
    with pytest.raises(ConfigError, match=text):
        Folder("s3://e2i", options).read("a")


def _profile(monkeypatch, path, server: S3Server, secret: str) -> dict[str, object]:
    """Storage options that name a profile in a file of credentials, which can change."""
    name = f"p{uuid.uuid4().hex}"
    path.write_text(
        f"[{name}]\naws_access_key_id = {server.key}\naws_secret_access_key = {secret}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    return {"profile": name, "endpoint_url": server.endpoint_url}


def test_credentials_that_were_replaced_are_fetched_anew(s3_server, tmp_path, monkeypatch):
    path = tmp_path / "credentials"
    options = _profile(monkeypatch, path, s3_server, "of-yesterday-0123456789")
    folder = Folder(f"{s3_server.url}/{uuid.uuid4().hex}", options)
    with pytest.raises(StoragePermissionError):
        folder.create("a", b"1")
    path.write_text(path.read_text().replace("of-yesterday-0123456789", s3_server.secret))
    assert folder.create("a", b"1")
    assert folder.info("a").size_bytes == 1
    path.write_text(path.read_text().replace(s3_server.secret, "of-yesterday-0123456789"))
    assert folder.read("a") == b"1"  # as long as the server takes them, nothing is fetched


def test_a_session_that_expires_in_the_middle_goes_on(s3_server, proxy, tmp_path, monkeypatch):
    options = _profile(monkeypatch, tmp_path / "credentials", s3_server, s3_server.secret)
    endpoint = proxy.folder()._options["endpoint_url"]
    url = f"{s3_server.url}/{uuid.uuid4().hex}"
    folder = Folder(url, {**options, "endpoint_url": endpoint})
    folder.write("a", b"1")
    proxy.answer_next(400, "ExpiredToken")
    assert folder.create("b", b"2")
    proxy.answer_next(400, "ExpiredToken", times=2)
    with pytest.raises(StoragePermissionError, match="Renew the session"):
        folder.read("b")
    assert folder.read("b") == b"2"


def test_a_missing_bucket(s3_server):
    folder = Folder("s3://no-such-bucket/x", s3_server.storage_options)
    assert folder.info("a") is None  # a server answers HEAD without saying what is missing
    for call in [*calls(folder)[:6], folder.files]:
        with pytest.raises(StorageNotFoundError, match="Create it, or correct the URL") as caught:
            call()
        assert "there is no such bucket: got s3://no-such-bucket," in str(caught.value)


def test_a_name_too_long_for_the_store(s3_folder):
    with pytest.raises(OSError, match="KeyTooLong"):
        s3_folder.write("a" * 2000, b"")


def test_a_name_that_is_no_unicode(s3_folder):
    with pytest.raises(ConfigError, match="expected valid Unicode"):
        s3_folder.write("caf\udce9.wav", b"")


def test_the_usual_variables_and_files_are_enough(s3_server, tmp_path):
    program = (
        "import sys; from e2i.storage import Folder; folder = Folder(sys.argv[1]);"
        "print(folder.create('a', b'1'), folder.read('a').decode())"
    )
    config = tmp_path / "config"
    config.write_text(
        f"[profile mine]\nregion = us-east-1\nendpoint_url = {s3_server.endpoint_url}\n"
        f"aws_access_key_id = {s3_server.key}\naws_secret_access_key = {s3_server.secret}\n"
    )
    profile = {"AWS_PROFILE": "mine", "AWS_CONFIG_FILE": str(config)}
    by_service = dict(s3_server.environment)
    by_service["AWS_ENDPOINT_URL_S3"] = by_service.pop("AWS_ENDPOINT_URL")
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", program, f"{s3_server.url}/{uuid.uuid4().hex}"],
            env={"AWS_EC2_METADATA_DISABLED": "true", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in (s3_server.environment, by_service, profile)
    ]
    for process in processes:
        assert process.communicate(timeout=60) == ("True 1\n", "")


def test_the_region_is_that_of_the_profile_or_the_variable(proxy, tmp_path, monkeypatch):
    signed_for = re.compile(r"Credential=[^/]+/\d+/([^/]+)/s3/")
    options = dict(proxy.folder()._options)
    assert Folder("s3://e2i/x", options).files() == []
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    assert Folder("s3://e2i/x", {**options, "client_kwargs": {}}).files() == []
    config = tmp_path / "config"
    config.write_text("[profile north]\nregion = ap-south-2\n")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    by_profile = {**options, "profile": "north"}
    assert Folder("s3://e2i/x", by_profile).files() == []
    given = {**options, "client_kwargs": {"region_name": "sa-east-1"}}
    assert Folder("s3://e2i/x", given).files() == []
    regions = [signed_for.search(said)[1] for said in proxy.authorizations]
    assert regions[1:] == ["eu-north-1", "ap-south-2", "sa-east-1"]


def test_a_credential_process_is_asked_again_when_its_session_expires(
    s3_server, tmp_path, monkeypatch
):
    program, asked = tmp_path / "fetch.py", tmp_path / "asked"
    program.write_text(
        "import datetime, json, sys\n"
        f"with open({str(asked)!r}, 'a') as file: file.write('x')\n"
        "soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1)\n"
        "print(json.dumps({'Version': 1, 'Expiration': soon.isoformat(),\n"
        f"    'AccessKeyId': {s3_server.key!r}, 'SecretAccessKey': {s3_server.secret!r}}}))\n"
    )
    name = f"p{uuid.uuid4().hex}"
    config = tmp_path / "config"
    config.write_text(f"[profile {name}]\ncredential_process = {sys.executable} {program}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    options = {"profile": name, "endpoint_url": s3_server.endpoint_url}
    folder = Folder(f"{s3_server.url}/{uuid.uuid4().hex}", options)
    assert folder.create("a", b"1")
    first = len(asked.read_text())
    time.sleep(1.1)
    assert folder.read("a") == b"1"
    assert len(asked.read_text()) > first


@pytest.fixture
def small_parts(monkeypatch) -> int:
    """The size of a part: the least that S3 takes."""
    size = 5 * 2**20
    monkeypatch.setattr(s3, "_PART_BYTES", size)
    return size


def test_a_large_object_goes_up_in_parts(proxy, small_parts):
    folder = proxy.folder()
    data = np.random.default_rng(0).bytes(2 * small_parts + 7)
    assert folder.create("shard", data)
    uploads = len(proxy.requests)
    assert folder.read("shard") == data
    assert folder.info("shard").version.endswith("-3")
    assert folder.create("shard", b"x" * (small_parts + 1)) is False
    assert len(proxy.requests) <= uploads + 4  # nothing was sent for it
    version = folder.read_versioned("shard")[1]
    newer = folder.replace("shard", data[::-1], version)
    assert folder.read_versioned("shard") == (data[::-1], newer)
    with pytest.raises(StaleWriteError):
        folder.replace("shard", data, version)
    assert folder.read_versioned("shard") == (data[::-1], newer)
    folder.write("shard", memoryview(data))
    assert folder.read("shard") == data
    folder.write("just fits", data[:small_parts])
    assert "-" not in folder.info("just fits").version


def test_parts_are_sent_again_and_a_lost_answer_is_no_conflict(proxy, small_parts, monkeypatch):
    monkeypatch.setattr(s3, "_PAUSES_S", (0.01, 0.01))
    monkeypatch.setattr(s3, "_PARTS_AT_ONCE", 1)
    folder = proxy.folder()
    data = bytes(small_parts + 1)
    proxy.after(2)  # the look, and the beginning
    proxy.answer_next(503, "SlowDown")
    assert folder.create("a", data)
    proxy.requests.clear()
    proxy.after(4)  # and both parts
    proxy.lose_next_answer()
    assert folder.create("b", data)
    assert folder.read("b") == data


def test_an_upload_that_fails_leaves_nothing(proxy, small_parts):
    folder = proxy.folder()
    proxy.after(2)
    proxy.answer_next(403, "AccessDenied", times=2)
    with pytest.raises(StoragePermissionError):
        folder.create("a", bytes(small_parts + 1))
    assert folder.files() == []
    assert list(folder._store._uploads()) == []


def test_what_a_killed_upload_left_is_swept(s3_folder):
    store = s3_folder._store
    s3_folder.write("kept", b"1")
    store._send("create_multipart_upload", "a", **store._address("a"))
    assert s3_folder.sweep(3600.0) == 0
    assert s3_folder.folder("elsewhere").sweep(-60.0) == 0
    assert s3_folder.sweep(-60.0) == 1
    assert list(store._uploads()) == []
    assert s3_folder.read("kept") == b"1"


def test_who_may_not_list_uploads_sweeps_none(proxy):
    proxy.answer_next(403, "AccessDenied")
    assert proxy.folder().sweep(-60.0) == 0


def test_an_outage_shows_soon_and_passes(mortal_s3_server):
    folder = Folder(f"{mortal_s3_server.url}/outage", mortal_s3_server.storage_options)
    folder.write("a", b"before")
    mortal_s3_server.kill()
    for call in (lambda: folder.read("a"), lambda: folder.create("b", b"")):
        started = time.monotonic()
        with pytest.raises(StorageUnavailableError, match="the store does not answer") as caught:
            call()
        assert time.monotonic() - started < 10
        assert is_transient(caught.value)
        assert isinstance(caught.value, ConnectionError)
    mortal_s3_server.start()
    assert folder.read("a") == b"before"
    assert folder.create("b", b"after")
    assert [file.name for file in folder.files()] == ["a", "b"]


def test_a_server_that_never_answers(monkeypatch):
    monkeypatch.setattr(s3, "_PAUSES_S", (0.01,))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        options = {
            "key": "k",
            "secret": "s",
            "endpoint_url": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "config_kwargs": {"read_timeout": 0.3},
        }
        with pytest.raises(StorageUnavailableError, match="ReadTimeout"):
            Folder("s3://e2i", options).read("a")


class FaultyProxy:
    """Stands between the client and the real server, and spoils one answer when told to."""

    def __init__(self, server: S3Server) -> None:
        self._server = server
        self.faults: list[Callable[[http.server.BaseHTTPRequestHandler], bool] | None] = []
        self.requests: list[str] = []
        self.authorizations: list[str] = []

    def folder(self) -> Folder:
        options = {
            **self._server.storage_options,
            "endpoint_url": f"http://127.0.0.1:{self._http.server_port}",
        }
        return Folder(f"{self._server.url}/{uuid.uuid4().hex}", options)

    def answer_next(self, status: int, code: str, message: str = "as told", times: int = 1) -> None:
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()

        def answer(handler: http.server.BaseHTTPRequestHandler) -> bool:
            handler.send_response(status)
            handler.send_header("Content-Type", "application/xml")
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)
            return True

        self.faults += [answer] * times

    def after(self, requests: int) -> None:
        """Let so many pass before the next fault."""
        self.faults += [None] * requests

    def lose_next_answer(self) -> None:
        def lose(handler: http.server.BaseHTTPRequestHandler) -> bool:
            handler.close_connection = True
            return False

        self.faults.append(lose)

    def __enter__(self) -> FaultyProxy:
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                condition = self.headers.get("If-None-Match") or self.headers.get("If-Match")
                proxy.requests.append(f"{self.command}{' if' if condition else ''}")
                proxy.authorizations.append(self.headers.get("Authorization", ""))
                fault = proxy.faults.pop(0) if proxy.faults else None
                if fault is not None and fault(self):
                    return
                host = proxy._server.endpoint_url.removeprefix("http://")
                connection = http.client.HTTPConnection(host, timeout=10)
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                data = answer.read()
                connection.close()
                if fault is not None:
                    return
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in {"transfer-encoding", "connection", "server", "date"}:
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture(scope="module")
def shared_proxy(s3_server) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_server) as proxy:
        yield proxy


@pytest.fixture
def proxy(shared_proxy) -> FaultyProxy:
    shared_proxy.faults.clear()
    shared_proxy.requests.clear()
    shared_proxy.authorizations.clear()
    return shared_proxy


def test_the_proxy_changes_nothing_by_itself(proxy):
    folder = proxy.folder()
    assert folder.create("a b #", b"1")
    assert folder.read("a b #") == b"1"
    assert len(folder.files()) == 1
    assert proxy.requests == ["PUT if", "GET", "GET"]


def test_a_create_whose_answer_is_lost_is_still_ours(proxy):
    folder = proxy.folder()
    proxy.lose_next_answer()
    assert folder.create("shard", b"1") is True
    assert folder.read("shard") == b"1"
    assert proxy.requests.count("PUT if") >= 2
    assert folder.create("shard", b"1") is False


def test_a_replace_whose_answer_is_lost_is_still_ours(proxy):
    folder = proxy.folder()
    first = folder.replace("m", b"1", None)
    proxy.lose_next_answer()
    second = folder.replace("m", b"2", first)
    assert folder.read_versioned("m") == (b"2", second)
    with pytest.raises(StaleWriteError):
        folder.replace("m", b"3", first)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (503, "SlowDown"),
        (500, "InternalError"),
        (429, "TooManyRequests"),
        (400, "RequestTimeout"),
        (409, "ConditionalRequestConflict"),
        (502, "BadGateway"),
    ],
)
def test_what_may_pass_is_tried_again_a_little(proxy, monkeypatch, status, code):
    monkeypatch.setattr(s3, "_PAUSES_S", (0.01, 0.01))
    folder = proxy.folder()
    proxy.answer_next(status, code, times=2)
    assert folder.create("a", b"1") is True
    proxy.answer_next(status, code, times=3)
    with pytest.raises(StorageUnavailableError, match=code) as caught:
        folder.create("b", b"1")
    assert is_transient(caught.value)
    assert folder.create("b", b"1") is True


@pytest.mark.parametrize(
    ("status", "code", "kind", "text"),
    [
        (403, "AccessDenied", StoragePermissionError, "Ask for access to the bucket"),
        (403, "InvalidAccessKeyId", StoragePermissionError, "Correct AWS_ACCESS_KEY_ID"),
        (403, "RequestTimeTooSkewed", StoragePermissionError, "Set this machine's clock"),
        (400, "ExpiredToken", StoragePermissionError, "Renew the session"),
        (507, "XMinioStorageFull", StorageFullError, "no space is left to write"),
        (400, "EntityTooLarge", OSError, "cannot write: got EntityTooLarge"),
    ],
)
def test_what_does_not_pass_is_not_tried_again(proxy, status, code, kind, text):
    folder = proxy.folder()
    proxy.answer_next(status, code)
    with pytest.raises(kind, match=text) as caught:
        folder.write("a", b"1")
    assert not is_transient(caught.value)
    assert proxy.requests == ["PUT"]


def test_a_store_without_conditional_writes(proxy):
    folder = proxy.folder()
    proxy.answer_next(501, "NotImplemented")
    assert folder.create("a", b"1") is True
    proxy.answer_next(501, "NotImplemented")
    assert folder.create("a", b"2") is False
    version = folder.read_versioned("a")[1]
    proxy.answer_next(501, "NotImplemented")
    newer = folder.replace("a", b"3", version)
    proxy.answer_next(501, "NotImplemented")
    with pytest.raises(StaleWriteError):
        folder.replace("a", b"4", version)
    assert folder.read_versioned("a") == (b"3", newer)


def test_many_folders_and_threads_share_one_client(s3_server, s3_folder):
    def use(number: int) -> bytes:
        folder = Folder(f"{s3_folder.url}/{number}", s3_server.storage_options)
        folder.write("a", b"%d" % number)
        return folder.read("a")

    with ThreadPoolExecutor(24) as pool:
        assert list(pool.map(use, range(48))) == [b"%d" % number for number in range(48)]
    assert len(s3_folder.files()) == 48
