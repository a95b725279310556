"""Object stores that speak S3, through s3fs.

Conventions: one PUT an object, so nobody sees a part of it; `If-None-Match: *` to create,
`If-Match: <ETag>` to replace; the version is the ETag. What is larger than 64 MiB goes up in parts,
several at once, and is there in one step when they are complete; the conditions stand there. What
a killed upload leaves takes space until `sweep` aborts it. Endpoint, region, profile and
credentials come from the storage options, else from where botocore looks (`AWS_ENDPOINT_URL`,
`AWS_PROFILE`, `AWS_ACCESS_KEY_ID`, ..., `~/.aws`).

Credentials that the server no longer takes are fetched anew from there, once a request, unless they
were given as options; those with an expiry date botocore renews before it comes.

Retries: a failed request is repeated twice within a second or two, then it is a
`StorageUnavailableError`; waiting out an outage is the caller's business. An answer may be lost on
the way, and the HTTP client too repeats a PUT whose connection broke: each conditional PUT carries
a random mark, so that its repetition recognizes its own object instead of reporting a conflict
with itself.

Stores without conditional writes, that is, those that answer 501 to the header: `create` and
`replace` look first and write then, which is not safe against a second writer of the same name. A
store that silently ignores the header has that flaw too.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-requests.html
"""

# ruff: noqa: D102 - Folder documents the methods, once.

from __future__ import annotations

import contextlib
import datetime as dt
import io
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, TypeVar, cast

import s3fs
from fsspec.asyn import sync

from e2i.errors import ConfigError, StorageError, StorageNotFoundError, StoragePermissionError
from e2i.storage import s3_errors, translation
from e2i.storage.locations import Location, join, secrets_in
from e2i.storage.reader import BLOCK_BYTES, RangeReader
from e2i.storage.store import FileInfo, Store

T = TypeVar("T")

MAX_OBJECT_BYTES = 5 * 2**40
"""The most that an object holds."""

_PART_BYTES = 64 * 2**20
_MAX_PARTS = 10_000
_PARTS_AT_ONCE = 4

_PAUSES_S = (0.2, 0.8)
_RETRY_WITHIN_S = 4.0
_CLIENT = {
    "connect_timeout": 5,
    "read_timeout": 15,
    "retries": {"total_max_attempts": 1},
    "max_pool_connections": 32,
}
_PAGE = 1000
_MARK = "e2i-write"
_renewing = threading.Lock()


class S3Store(Store):
    """A folder in a bucket."""

    def __init__(self, location: Location, options: Mapping[str, object]) -> None:
        self._location = location
        self._secrets = secrets_in(options)
        given = options.get("config_kwargs")
        self._options = {
            **options,
            "use_listings_cache": False,
            "config_kwargs": {**_CLIENT, **(given if isinstance(given, Mapping) else {})},
        }

    def read_versioned(self, name: str) -> tuple[bytes, str]:
        response = self._get(name)
        return response["Body"], _version(response)

    def open(self, name: str) -> BinaryIO:
        try:
            first = self._get(name, Range=f"bytes=0-{BLOCK_BYTES - 1}")
        except s3_errors.EmptyObjectError:
            return io.BytesIO()
        size = int(str(first.get("ContentRange", "")).rpartition("/")[2] or len(first["Body"]))
        if size == len(first["Body"]):
            return io.BytesIO(first["Body"])

        def fetch(start: int, stop: int) -> bytes:
            try:
                part = self._get(name, Range=f"bytes={start}-{stop - 1}", IfMatch=first["ETag"])
            except s3_errors.ConditionFailedError as error:
                raise translation.stale(self._where(name), "another", _version(first)) from error
            return cast("bytes", part["Body"])

        return cast("BinaryIO", io.BufferedReader(RangeReader(fetch, size), BLOCK_BYTES))

    def write(self, name: str, data: bytes | memoryview, *, durable: bool = True) -> None:  # noqa: ARG002
        self._put(name, data)

    def create(self, name: str, data: bytes | memoryview) -> bool:
        return self._put_if(name, data, None) is not None

    def replace(self, name: str, data: bytes | memoryview, version: str | None) -> str:
        written = self._put_if(name, data, version)
        if written is None:
            stored = self.info(name)
            found = stored.version if stored else None
            raise translation.stale(self._where(name), found, version)
        return written

    def delete(self, name: str) -> None:
        self._call("delete", name, lambda fs: fs.call_s3("delete_object", **self._address(name)))

    def sweep(self, older_than_s: float) -> int:
        before = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=older_than_s)
        swept = 0
        with contextlib.suppress(StoragePermissionError, s3_errors.NoConditionalWritesError):
            for upload in self._uploads():
                if upload["Initiated"] < before:
                    address = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
                    bucket = self._location.bucket
                    with contextlib.suppress(StorageNotFoundError):
                        self._send("abort_multipart_upload", "", Bucket=bucket, **address)
                        swept += 1
        return swept

    def _uploads(self) -> Iterator[dict[str, Any]]:
        """Uploads in parts that have begun; where these are not told, an error."""
        prefix = f"{self._location.path}/" if self._location.path else ""
        place = {"Bucket": self._location.bucket, "Prefix": prefix}
        while True:
            page = self._send("list_multipart_uploads", "", **place)
            yield from page.get("Uploads", ())
            if not page.get("IsTruncated"):
                return
            place["KeyMarker"] = page["NextKeyMarker"]
            place["UploadIdMarker"] = page["NextUploadIdMarker"]

    def info(self, name: str) -> FileInfo | None:
        try:
            head = self._head(name)
        except StorageNotFoundError:
            return None
        return FileInfo(name, int(head["ContentLength"]), _version(head))

    def files(self, below: str) -> list[FileInfo]:
        root = f"{self._location.path}/" if self._location.path else ""
        prefix = root + (f"{below}/" if below else "")
        found: list[FileInfo] = []
        token: dict[str, str] = {}

        def list_page(file_system: s3fs.S3FileSystem) -> dict[str, Any]:
            response = file_system.call_s3(
                "list_objects_v2",
                Bucket=self._location.bucket,
                Prefix=prefix,
                MaxKeys=_PAGE,
                **token,
            )
            return cast("dict[str, Any]", response)

        while True:
            page = self._call("list", below, list_page)
            for entry in page.get("Contents", ()):
                if not entry["Key"].endswith("/"):
                    name = entry["Key"][len(root) :]
                    found.append(FileInfo(name, int(entry["Size"]), _version(entry)))
            if not page.get("IsTruncated"):
                return found
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _where(self, name: str) -> str:
        return join(self._location.url, name)

    def _address(self, name: str) -> dict[str, str]:
        key = join(self._location.path, name)
        try:
            key.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"not a name for an object store: got {name!r}, expected valid Unicode. Rename it."
            ) from error
        return {"Bucket": self._location.bucket, "Key": key}

    def _get(self, name: str, **conditions: str) -> dict[str, Any]:
        """The response to GET, with the bytes as its `Body`."""
        address = self._address(name)

        async def get(file_system: s3fs.S3FileSystem) -> dict[str, Any]:
            response = await file_system._call_s3("get_object", **address, **conditions)
            async with response["Body"] as body:
                return {**response, "Body": await body.read()}

        return self._call("read", name, lambda fs: sync(fs.loop, get, fs))

    def _head(self, name: str) -> dict[str, Any]:
        return self._call("read", name, lambda fs: fs.call_s3("head_object", **self._address(name)))

    def _put(self, name: str, data: bytes | memoryview, **conditions: object) -> dict[str, Any]:
        if len(data) > MAX_OBJECT_BYTES:
            raise translation.refused(
                "write",
                self._where(name),
                f"{len(data):,} bytes",
                f"One object holds at most {MAX_OBJECT_BYTES:,} bytes: write smaller ones.",
            )

        if len(data) > _PART_BYTES:
            return self._put_parts(name, data, **conditions)
        body = bytes(data)
        return self._send("put_object", name, Body=body, **self._address(name), **conditions)

    def _put_parts(
        self, name: str, data: bytes | memoryview, **conditions: object
    ) -> dict[str, Any]:
        """The same for a large object, in parts of which each is sent again by itself."""
        mark = uuid.uuid4().hex
        metadata = conditions.pop("Metadata", {_MARK: mark})
        begin = {**self._address(name), "Metadata": metadata}
        upload = self._send("create_multipart_upload", name, **begin)
        address = {**self._address(name), "UploadId": upload["UploadId"]}
        size, view = max(_PART_BYTES, -(-len(data) // _MAX_PARTS)), memoryview(data)

        def part(number: int) -> dict[str, Any]:
            body = bytes(view[(number - 1) * size : number * size])
            sent = self._send("upload_part", name, PartNumber=number, Body=body, **address)
            return {"PartNumber": number, "ETag": sent["ETag"]}

        try:
            with ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:
                parts = list(pool.map(part, range(1, -(-len(data) // size) + 1)))
            whole = {"MultipartUpload": {"Parts": parts}, **conditions}
            try:
                return self._send("complete_multipart_upload", name, **address, **whole)
            except StorageNotFoundError:  # of the upload: it is complete, and the answer was lost
                head = self._head(name)
                if head.get("Metadata") != metadata:
                    raise
                return head
        except BaseException:
            with contextlib.suppress(StorageError):
                self._send("abort_multipart_upload", name, **address)
            raise

    def _send(self, operation: str, name: str, **arguments: object) -> dict[str, Any]:
        """One request that writes; the answer."""

        def request(file_system: s3fs.S3FileSystem) -> dict[str, Any]:
            return cast("dict[str, Any]", file_system.call_s3(operation, **arguments))

        return self._call("write", name, request)

    def _put_if(self, name: str, data: bytes | memoryview, version: str | None) -> str | None:
        """PUT if the object is at `version` (None: absent): its new version, None if it is not."""
        mark = uuid.uuid4().hex
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": f'"{version}"'}
        if version is None and len(data) > _PART_BYTES and self.info(name) is not None:
            return None  # which the store would say too, but only behind the last part
        try:
            return _version(self._put(name, data, Metadata={_MARK: mark}, **condition))
        except (s3_errors.ConditionFailedError, StorageNotFoundError) as error:
            if isinstance(error, StorageNotFoundError) and version is None:
                raise  # the bucket
            try:
                head = self._head(name)
            except StorageNotFoundError:
                return None
            ours = head.get("Metadata", {}).get(_MARK) == mark
            return _version(head) if ours else None
        except s3_errors.NoConditionalWritesError:
            stored = self.info(name)
            if (stored.version if stored else None) != version:
                return None
            return _version(self._put(name, data))

    def _call(self, action: str, name: str, request: Callable[[s3fs.S3FileSystem], T]) -> T:
        """Send a request, again after a failure that may pass, and translate its errors."""
        started = time.monotonic()
        pauses = iter(_PAUSES_S)
        renewable = not {"key", "secret", "anon"} & self._options.keys()
        client: object = None
        while True:
            try:
                file_system = s3fs.S3FileSystem(**self._options)
                file_system.retries = 1  # s3fs repeats on top of botocore; here is the only place
                client = file_system._s3
                return request(file_system)
            except StorageError:
                raise
            except Exception as error:
                if renewable and client is not None and s3_errors.credentials_refused(error):
                    renewable = False
                    _renew(file_system, client)
                    continue
                translated = s3_errors.translate(error, action, self._where(name), self._secrets)
                if translated is None:
                    raise
                pause = next(pauses, None)
                late = time.monotonic() - started > _RETRY_WITHIN_S
                if pause is None or late or not s3_errors.may_pass(translated):
                    cause = s3_errors.cause_of(error)
                    raise translated from translation.showable(cause, self._secrets)
                time.sleep(pause)


def _renew(file_system: s3fs.S3FileSystem, refused: object) -> None:
    """A session with credentials fetched anew, unless another thread has made one since."""
    with _renewing:
        if file_system._s3 is refused:
            file_system.connect(refresh=True)


def _version(response: Mapping[str, Any]) -> str:
    return str(response["ETag"]).strip('"')
