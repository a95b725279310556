"""One data set on the Hub, by the `huggingface_hub` client.

Conventions: what changes goes through `commit`, one commit a call, on top of the head that was
last read: of two writers the later one finds out and looks again. Errors come as the `StorageError`
tree, in words made here: those of the client hold URLs that are signed, and are neither shown nor
chained. The client has no time-outs of its own; here an answer is waited for five minutes, and a
connection for ten seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar

from e2i.errors import (
    E2IError,
    HubBusyError,
    StaleWriteError,
    StorageError,
    StorageNotFoundError,
    StoragePermissionError,
)

CONNECT_WITHIN_S = 10.0
ANSWER_WITHIN_S = 300.0

Content = bytes | Path | Callable[[], bytes]
"""What a file is to hold: bytes, a local file, or what reads them when they are to be sent."""

T = TypeVar("T")

_SENT_TOGETHER_BYTES = 64 * 2**20
_SENT_TOGETHER = 100
_SIGNED = re.compile(r"\?\S*")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a data set.

    Attributes:
        path: from the root.
        size_bytes: of the file.
        sha256: of a large file; None for one that git keeps itself.
        git_oid: what git calls it; of a large file, its pointer's.
    """

    path: str
    size_bytes: int
    sha256: str | None
    git_oid: str

    def holds(self, data: bytes) -> bool:
        """Whether these are its bytes."""
        if len(data) != self.size_bytes:
            return False
        if self.sha256 is not None:
            return hashlib.sha256(data).hexdigest() == self.sha256
        blob = b"blob %d\0" % len(data) + data
        return hashlib.sha1(blob, usedforsecurity=False).hexdigest() == self.git_oid


@dataclass(frozen=True, slots=True)
class Head:
    """What a data set holds now.

    Attributes:
        commit: its newest commit.
        files: by path.
    """

    commit: str
    files: Mapping[str, HubFile]


class HubRepository:
    """A data set on the Hub, to read and to write.

    Args:
        repo_id: `owner/name`.
        token: to be sent; None leaves it to the client (environment, login).
        endpoint: of another Hub; None leaves it to the client.
    """

    def __init__(self, repo_id: str, token: str | None = None, endpoint: str | None = None) -> None:
        from huggingface_hub import HfApi  # noqa: PLC0415 - only who talks to the Hub needs it

        self.repo_id = repo_id
        self._token = token
        self._api = HfApi(endpoint=endpoint, token=token, library_name="e2i")

    @property
    def url(self) -> str:
        """Where people look at it."""
        return f"{self._api.endpoint}/datasets/{self.repo_id}"

    def ensure(self) -> None:
        """Make the data set, private, where there is none.

        Raises:
            StorageError: the Hub refused, or does not answer.
        """
        if self.head_commit() is None:
            with self._translated("make"):
                self._api.create_repo(
                    self.repo_id, repo_type="dataset", private=True, exist_ok=True
                )

    def head_commit(self) -> str | None:
        """Its newest commit; None where there is no such data set."""
        from huggingface_hub.errors import RepositoryNotFoundError  # noqa: PLC0415

        with self._translated("read"):
            try:
                return str(self._api.repo_info(self.repo_id, repo_type="dataset").sha)
            except RepositoryNotFoundError as error:
                if error.response.status_code != 404:
                    raise
        return None

    def head(self) -> Head:
        """What it holds now.

        Raises:
            StorageNotFoundError: there is no such data set.
            StorageError: the Hub refused, or does not answer.
        """
        from huggingface_hub.hf_api import RepoFile  # noqa: PLC0415

        commit = self.head_commit()
        if commit is None:
            raise self._not_found()
        with self._translated("list"):
            found = list(
                self._api.list_repo_tree(
                    self.repo_id, recursive=True, revision=commit, repo_type="dataset"
                )
            )
        files = (entry for entry in found if isinstance(entry, RepoFile))
        return Head(
            commit,
            {
                file.path: HubFile(
                    file.path, file.size, file.lfs.sha256 if file.lfs else None, file.blob_id
                )
                for file in files
            },
        )

    def read(self, head: Head, path: str) -> bytes | None:
        """A small file as it was at a commit; None where it was not."""
        if path not in head.files:
            return None
        with self._translated("read"):
            import huggingface_hub  # noqa: PLC0415

            files = huggingface_hub.HfFileSystem(
                endpoint=self._api.endpoint, token=self._token, skip_instance_cache=True
            )
            return bytes(files.cat_file(f"datasets/{self.repo_id}@{head.commit}/{path}"))

    def commit(
        self,
        head: Head,
        files: Mapping[str, Content],
        message: str,
        delete: Sequence[str] = (),
    ) -> int:
        """Add or replace files, and delete others, in one commit on top of `head`; their bytes.

        Large files are sent first, a few at a time; those that the Hub holds are not sent again.

        Raises:
            StaleWriteError: there is a newer commit by now.
            HubBusyError: the Hub asks to come back later, or does not answer.
            StorageError: it refused.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete  # noqa: PLC0415

        additions: list[CommitOperationAdd] = []
        with self._translated("write"):
            for group in _groups(files):
                together = [
                    CommitOperationAdd(path, content() if callable(content) else content)
                    for path, content in group
                ]
                self._api.preupload_lfs_files(self.repo_id, together, repo_type="dataset")
                additions += together
            size_bytes = sum(addition.upload_info.size for addition in additions)
            self._api.create_commit(
                self.repo_id,
                [*additions, *(CommitOperationDelete(path, is_folder=False) for path in delete)],
                commit_message=message,
                repo_type="dataset",
                parent_commit=head.commit,
            )
        return size_bytes

    @contextlib.contextmanager
    def _translated(self, action: str) -> Iterator[None]:
        """Time-outs for what is asked in here, quiet, and its errors in the words of `e2i`."""
        import httpx2  # noqa: PLC0415
        from huggingface_hub import get_session  # noqa: PLC0415

        get_session().timeout = httpx2.Timeout(ANSWER_WITHIN_S, connect=CONNECT_WITHIN_S)
        try:
            with _quiet():
                yield
        except E2IError:
            raise
        except Exception as error:
            raise self._in_words(error, action) from None

    def _in_words(self, error: Exception, action: str) -> StorageError:
        where = f"{self.url} (Hugging Face Hub)"
        response = _response_of(error)
        if response is None:
            return self._without_answer(error, action, where)
        code, headers = response
        if code in {401, 403}:
            return StoragePermissionError(
                f"not allowed to {action}: got status {code} for {where}, expected a token that "
                "may. Log in with `hf auth login`, set HF_TOKEN, or give --hf-token."
            )
        if code == 404:
            return self._not_found()
        if code in {409, 412}:
            return StaleWriteError(
                f"someone else wrote first: got status {code} for {where}, expected the newest "
                "commit. Look again and repeat the change."
            )
        if code in {408, 429} or code >= 500:
            return HubBusyError(
                f"the Hub asks to come back later: got status {code} to {action} {where}, expected "
                "it to take that. Run again in a while: only what it lacks is sent.",
                _retry_after(headers),
            )
        return StorageError(
            f"cannot {action}: got status {code} for {where}, expected the Hub to take it. Check "
            "--hf-dataset and --hf-prefix."
        )

    def _without_answer(self, error: Exception, action: str, where: str) -> StorageError:
        reason = _reason(error, self._token)
        if _is_network(error):
            return HubBusyError(
                f"the Hub does not answer to {action}: got {reason} for {where}, expected an "
                "answer. Check the network, HF_ENDPOINT and HF_HUB_OFFLINE, then run again."
            )
        return StorageError(
            f"cannot {action}: got {reason} for {where}, expected the Hub to take it. Check "
            "--hf-dataset and --hf-prefix."
        )

    def _not_found(self) -> StorageNotFoundError:
        return StorageNotFoundError(
            f"there is no such data set: got {self.url}, expected one that this token may see. "
            "Correct the name, or log in with `hf auth login`."
        )


def _groups(files: Mapping[str, Content]) -> Iterator[list[tuple[str, Content]]]:
    """Files to be sent together, so that few are in memory at once."""
    group: list[tuple[str, Content]] = []
    size = 0
    for path, content in files.items():
        bytes_here = len(content) if isinstance(content, bytes) else 0
        if callable(content):
            bytes_here = _SENT_TOGETHER_BYTES // 4
        if group and (len(group) == _SENT_TOGETHER or size + bytes_here > _SENT_TOGETHER_BYTES):
            yield group
            group, size = [], 0
        group.append((path, content))
        size += bytes_here
    if group:
        yield group


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The client's bars, retry messages and requests are left out: errors say what is to be said.

    Its HTTP client logs URLs, those with a signature too.
    """
    from huggingface_hub.utils import logging as client_logging  # noqa: PLC0415
    from huggingface_hub.utils.tqdm import (  # noqa: PLC0415
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    requests = logging.getLogger("httpx2")
    level = requests.level
    requests.setLevel(logging.WARNING)
    were_disabled, verbosity = are_progress_bars_disabled(), client_logging.get_verbosity()
    if not were_disabled:
        disable_progress_bars()
    client_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        requests.setLevel(level)
        client_logging.set_verbosity(verbosity)
        if not were_disabled:
            enable_progress_bars()


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it: uploads in threads come wrapped."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _response_of(error: Exception) -> tuple[int, Mapping[str, str]] | None:
    """Status and headers of the answer that an error is about."""
    for link in _chain(error):
        response = getattr(link, "response", None)
        status = getattr(response, "status_code", None)
        if isinstance(status, int):
            return status, dict(getattr(response, "headers", {}))
    return None


def _is_network(error: Exception) -> bool:
    import httpx2  # noqa: PLC0415

    return any(
        isinstance(link, httpx2.TransportError | ConnectionError | TimeoutError)
        for link in _chain(error)
    )


def _reason(error: Exception, token: str | None) -> str:
    """The first line of the innermost error, without what signs a URL and without the token."""
    inner = list(_chain(error))[-1]
    said = (str(inner).strip().splitlines() or [""])[0]
    if token:
        said = said.replace(token, "***")
    said = _SIGNED.sub("", said)[:200].rstrip(". ")
    return f"{type(inner).__name__} ({said})" if said else type(inner).__name__


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, as the answer says: in seconds, or as a date."""
    value = next((v for name, v in headers.items() if name.lower() == "retry-after"), "").strip()
    if value.isdigit():
        return float(value)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    return None
