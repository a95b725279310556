"""What back ends raise, in the words of `e2i.errors`.

Conventions: a message names the object by its URL and says the next step. A text that repeats a
credential is shown with `***` in its place, and the original exception is then not chained.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from e2i.errors import (
    StaleWriteError,
    StorageError,
    StorageFullError,
    StorageNotFoundError,
    StoragePermissionError,
    StorageUnavailableError,
)

_FULL = {errno.ENOSPC, errno.EDQUOT}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}
_MAY_PASS = {
    errno.EIO,
    errno.EAGAIN,
    errno.EBUSY,
    errno.EINTR,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.EPIPE,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENOTCONN,
}


def not_found(where: str) -> StorageNotFoundError:
    """Nothing of that name."""
    return StorageNotFoundError(
        f"nothing is stored there: got {where}, expected an object. Check the folder and the name."
    )


def no_bucket(bucket: str) -> StorageNotFoundError:
    """The bucket is missing, which a write does not make up for."""
    return StorageNotFoundError(
        f"there is no such bucket: got {bucket}, expected an existing one. Create it, or correct "
        "the URL."
    )


def stale(where: str, found: str | None, version: str | None) -> StaleWriteError:
    """Someone else wrote first."""
    return StaleWriteError(
        f"someone else wrote first: got {where} at version {found or 'none'}, expected "
        f"{version or 'none'}. Read it again and repeat the change."
    )


def not_allowed(action: str, where: str, reason: str, step: str) -> StoragePermissionError:
    """The store refuses this user."""
    return StoragePermissionError(
        f"not allowed to {action}: got {reason} for {where}, expected access. {step}"
    )


def full(action: str, where: str, reason: str) -> StorageFullError:
    """No space is left."""
    return StorageFullError(
        f"no space is left to {action}: got {reason} for {where}, expected free space. Free some "
        "or use another folder, then start again: what is stored stays."
    )


def unavailable(action: str, where: str, reason: str) -> StorageUnavailableError:
    """An outage, or the store asks to come back later."""
    return StorageUnavailableError(
        f"the store does not answer to {action}: got {reason} for {where}, expected an answer. "
        "Check that it is up and reachable, then try again."
    )


def refused(
    action: str, where: str, reason: str, step: str, expected: str = "the store to take it"
) -> StorageError:
    """Any other refusal."""
    return StorageError(f"cannot {action}: got {reason} for {where}, expected {expected}. {step}")


def from_os_error(error: OSError, action: str, where: str) -> StorageError:
    """The translation of what the operating system says."""
    reason = (os.strerror(error.errno) if error.errno else "") or type(error).__name__
    translated: StorageError
    if error.errno in _FULL:
        translated = full(action, where, reason)
    elif error.errno in _NOT_ALLOWED or isinstance(error, PermissionError):
        step = "Check the owner and mode of the folder, or use another one."
        translated = not_allowed(action, where, reason, step)
    elif isinstance(error, FileNotFoundError):
        translated = not_found(where)
    elif error.errno in _MAY_PASS or isinstance(error, ConnectionError | TimeoutError):
        translated = unavailable(action, where, reason)
    elif isinstance(error, IsADirectoryError):
        step = "A folder lies there: use another name, or remove it."
        translated = refused(action, where, reason, step, "a file")
    elif isinstance(error, NotADirectoryError | FileExistsError):
        step = "A file lies where a folder is needed: use another folder, or remove it."
        translated = refused(action, where, reason, step, "a folder")
    elif error.errno == errno.ENAMETOOLONG:
        translated = refused(action, where, reason, "Use a shorter name.", "a name that fits")
    elif error.errno in {errno.EMFILE, errno.ENFILE}:
        step = "Raise the limit of open files (ulimit -n)."
        translated = refused(action, where, reason, step, "room for one more")
    else:
        translated = refused(action, where, reason, "See the cause above.")
    translated.errno = error.errno
    return translated


def showable(error: Exception, secrets: Iterable[str]) -> Exception | None:
    """The error, to chain it; None if it would show a credential."""
    text = f"{error} {error!r}"
    return error if redacted(text, secrets) == text else None


def redacted(text: str, secrets: Iterable[str]) -> str:
    """The text with `***` for each secret."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text
