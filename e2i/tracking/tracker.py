"""The interface that a run logs to, and several trackers as one.

Decides: logging changes no result, so it fails no run. A tracker that raises is left out from then
on, with one warning. What is logged holds no credentials: those in URLs are taken out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Literal, Protocol

Status = Literal["completed", "failed", "interrupted"]
Warn = Callable[[str], None]
"""Told, in a sentence, what is not logged and why."""

_URL_CREDENTIALS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s]*@")
_SECRET_NAME = re.compile(r"(^|_)(token|secret|password|passwd|credentials?|api_?key)(_|$)", re.I)
_SHOWN_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    """What a run left in the store, or took from it: logged by where it lies, never copied.

    Attributes:
        name: what it is called in the logs: letters, digits, `-`, `_` and `.`.
        kind: `model`, `scores` or `cache`.
        url: its location.
        sha256: of its bytes, or of the file that names them; empty where that is not known.
        facts: what a reader wants to know of it, such as fingerprints.
    """

    name: str
    kind: str
    url: str
    sha256: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)

    def as_entry(self) -> dict[str, object]:
        """Plain values, without credentials."""
        return shareable(asdict(self))


class Tracker(Protocol):
    """One run's log: `start`, any number of `log`, `summary` and `artifact`, then `finish`."""

    def links(self) -> Mapping[str, str]:
        """Where the log can be looked at, by what it is; as far as it is known by now."""

    def start(self, config: Mapping[str, object]) -> None:
        """Begin, with the run's configuration."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """What one step, such as an epoch, came to; a kill costs what the last second logged."""

    def summary(self, values: Mapping[str, float]) -> None:
        """Add to what the whole run came to."""

    def artifact(self, artifact: StoredArtifact) -> None:
        """Name something that lies in the store."""

    def finish(self, status: Status) -> None:
        """End; nothing is logged afterwards."""


class Trackers:
    """Several trackers as one, which never raises (but lets signals and Ctrl-C through)."""

    def __init__(self, trackers: Mapping[str, Tracker], warn: Warn) -> None:
        """Log to all of them.

        Args:
            trackers: by the name that a warning gives them.
            warn: told once of each tracker that fails.
        """
        self._trackers = dict(trackers)
        self._warn = warn
        self._links: dict[str, str] = {}

    def links(self) -> Mapping[str, str]:
        """Where all of them can be looked at."""
        return dict(self._links)

    def start(self, config: Mapping[str, object]) -> None:
        """Begin everywhere; each is told where the others are, as far as that is known."""
        shown = shareable(config)
        given = shown.pop("links", {})
        known = dict(given) if isinstance(given, Mapping) else {}
        self._each(lambda tracker: self._links.update(tracker.links()))

        def begin(tracker: Tracker) -> None:
            links = {**known, **self._links}
            tracker.start({**shown, "links": links} if links else shown)
            self._links.update(tracker.links())

        self._each(begin)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log one step everywhere."""
        self._each(lambda tracker: tracker.log(values, step))

    def summary(self, values: Mapping[str, float]) -> None:
        """Add to the summary everywhere."""
        self._each(lambda tracker: tracker.summary(values))

    def artifact(self, artifact: StoredArtifact) -> None:
        """Name something that lies in the store, everywhere."""
        self._each(lambda tracker: tracker.artifact(artifact))

    def finish(self, status: Status) -> None:
        """End everywhere."""
        self._each(lambda tracker: tracker.finish(status))
        self._trackers.clear()

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                call(tracker)
            except Exception as error:
                del self._trackers[name]
                self._warn(f"{name} is off for the rest of this run: {described(error)}")


@contextmanager
def tracked(tracker: Tracker, config: Mapping[str, object]) -> Iterator[Tracker]:
    """Start a tracker, and finish it with how the block ended."""
    tracker.start(config)
    status: Status = "interrupted"
    try:
        yield tracker
        status = "completed"
    except Exception:
        status = "failed"
        raise
    finally:
        tracker.finish(status)


def shareable(config: Mapping[str, object]) -> dict[str, object]:
    """A configuration as plain JSON values, without credentials.

    Those in URLs are cut out; entries named like a token, secret or password are left out. What is
    no JSON value becomes its text, a number that JSON lacks (NaN, infinity) null.
    """
    return {
        str(name): _shareable(value)
        for name, value in config.items()
        if not _SECRET_NAME.search(str(name))
    }


def without_credentials(text: str) -> str:
    """A text in which URLs have lost their user names and passwords."""
    return _URL_CREDENTIALS.sub(r"\1", text)


def described(error: Exception) -> str:
    """An error in one short line without credentials."""
    text = " ".join(without_credentials(str(error)).split()) or type(error).__name__
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def _shareable(value: object) -> object:
    if isinstance(value, Mapping):
        return shareable(value)
    if isinstance(value, str):
        return without_credentials(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Sequence | set | frozenset):
        return [_shareable(item) for item in value]
    return without_credentials(str(value))
