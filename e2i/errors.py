"""Every error that e2i raises on purpose.

Conventions: a message reads `<what is wrong>: got <value>, expected <rule>. <the one next step>`.
It names the row, id or field, never a whole object and never a credential. Each class is also the
built-in that it is, so that callers may catch either.

    E2IError
    ├── ConfigError (ValueError)                 the call was wrong: exit code 2
    │   └── EncoderUnavailableError              the encoder asked for cannot be had here
    ├── DatasetError (ValueError)                metadata or its rows are wrong
    │   └── DatasetNotFoundError (FileNotFoundError)
    ├── AudioError (ValueError)                  one recording cannot be used; costs that clip only
    │   └── AudioNotFoundError (FileNotFoundError)
    ├── StorageError (OSError)                   the store refused
    │   ├── StorageNotFoundError (FileNotFoundError)
    │   ├── StoragePermissionError (PermissionError)
    │   ├── StorageFullError                     no space left
    │   ├── StaleWriteError                      someone replaced the object first
    │   └── StorageUnavailableError (ConnectionError)   may pass: outages, 5xx, rate limits
    │       └── HubBusyError                 the Hub asks to come back later
    ├── CacheError (ValueError)                  a cache cannot be used as asked
    │   ├── CacheNotFoundError (FileNotFoundError)
    │   ├── CacheIncompleteError                 no complete manifest: resume it first
    │   ├── CacheCorruptError                    stored bytes disagree with the manifest
    │   ├── SchemaVersionError                   written by another version of e2i
    │   └── FingerprintMismatchError             stored under other encoder settings
    ├── ImageError (ValueError)                  a pseudo-image cannot be made or decoded
    ├── CheckpointError (ValueError)             a checkpoint cannot be read or does not fit
    │   └── CheckpointNotFoundError (FileNotFoundError)
    ├── ReportError (ValueError)                 stored scores cannot be read
    │   └── ReportNotFoundError (FileNotFoundError)
    ├── PublishError (ValueError)                what is published is not as it should be
    │   └── NothingPublishedError (FileNotFoundError)
    ├── SeenClipsError (ValueError)              evaluation on clips that training has seen
    ├── RetrievalInputError (ValueError)         similarity and positives do not make a task
    └── RunFailedError (RuntimeError)            a run ended with work undone; what is stored stays
"""

from __future__ import annotations


class E2IError(Exception):
    """Base of all errors that e2i raises on purpose."""


class ConfigError(E2IError, ValueError):
    """The call was wrong: an option, or a combination of options."""


class EncoderUnavailableError(ConfigError):
    """The encoder asked for cannot be had here."""


class DatasetError(E2IError, ValueError):
    """Metadata, or a row of it, is wrong."""


class DatasetNotFoundError(DatasetError, FileNotFoundError):
    """The metadata file does not exist."""


class AudioError(E2IError, ValueError):
    """One recording cannot be used; it costs that clip only."""


class AudioNotFoundError(AudioError, FileNotFoundError):
    """The recording does not exist."""


class StorageError(E2IError, OSError):
    """The store refused."""


class StorageNotFoundError(StorageError, FileNotFoundError):
    """No such object."""


class StoragePermissionError(StorageError, PermissionError):
    """The store does not allow it."""


class StorageFullError(StorageError):
    """No space is left."""


class StaleWriteError(StorageError):
    """Someone else replaced the object since it was read."""


class StorageUnavailableError(StorageError, ConnectionError):
    """The store did not answer or asked to come back later; trying again may help."""


class HubBusyError(StorageUnavailableError):
    """The Hub did not take a request and may later.

    Attributes:
        after_s: when to come back, where it told.
    """

    def __init__(self, message: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


class CacheError(E2IError, ValueError):
    """A cache cannot be used as asked."""


class CacheNotFoundError(CacheError, FileNotFoundError):
    """There is no cache here."""


class CacheIncompleteError(CacheError):
    """The cache has no complete manifest: resume it first."""


class CacheCorruptError(CacheError):
    """What is stored disagrees with the manifest."""


class SchemaVersionError(CacheError):
    """The cache was written by another version of e2i."""


class FingerprintMismatchError(CacheError):
    """The cache was stored under other encoder settings."""


class ImageError(E2IError, ValueError):
    """A pseudo-image cannot be made or decoded."""


class CheckpointError(E2IError, ValueError):
    """A checkpoint cannot be read, or does not fit the data."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no checkpoint here."""


class ReportError(E2IError, ValueError):
    """Stored scores cannot be read."""


class ReportNotFoundError(ReportError, FileNotFoundError):
    """There are no such scores."""


class PublishError(E2IError, ValueError):
    """What is published, or is to be, is not as it should be."""


class NothingPublishedError(PublishError, FileNotFoundError):
    """Nothing is published in this store."""


class SeenClipsError(E2IError, ValueError):
    """Evaluation on clips that the checkpoint was trained or selected on."""


class RetrievalInputError(E2IError, ValueError):
    """Similarity and positives do not make a retrieval task."""


class RunFailedError(E2IError, RuntimeError):
    """A run ended with work undone; what is stored stays stored."""


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help: an outage, a 5xx, a rate limit or a plain I/O error.

    Follows `__cause__`, so that a wrapped outage still counts. A full disk, missing permission or
    missing object does not pass by itself; neither does anything that is wrong with the input.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, StorageUnavailableError):
            return True
        if isinstance(current, E2IError):
            return False
        if isinstance(current, ConnectionError | TimeoutError):
            return True
        current = current.__cause__
    return False
