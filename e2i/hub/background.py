"""The mirror at work while a cache is being made.

Conventions: one thread, which looks once an interval (a minute) whether enough pairs are stored
that the Hub lacks, and sends them. What goes wrong is told once and costs nothing: the next look,
the end of the run or the next run sends what is left. The first look is an interval after the
start, so that a short run makes one commit, at its end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from e2i.errors import E2IError
from e2i.hub.mirror import Mirror

_INTERRUPTED_S = 2.0


class BackgroundMirror:
    """Sends what is stored, in a `with`; leaving it ends the thread after the commit in hand.

    Args:
        mirror: not to be used by others inside the `with`.
        upload_every: pairs that make a commit.
        captions_per_clip: of the cache.
        interval_s: between two looks.
        note: told of the first error.
    """

    def __init__(
        self,
        mirror: Mirror,
        upload_every: int,
        captions_per_clip: float,
        interval_s: float,
        note: Callable[[str], None],
    ) -> None:
        self._mirror = mirror
        self._upload_every = upload_every
        self._captions_per_clip = captions_per_clip
        self._interval_s = interval_s
        self._note = note
        self._told = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="e2i-hub-mirror", daemon=True)

    def __enter__(self) -> BackgroundMirror:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End; a run that was broken off does not wait for what is being sent."""
        self._ended.set()
        self._mirror.stop()
        self._thread.join(None if error is None else _INTERRUPTED_S)
        self._mirror.resume()

    def _run(self) -> None:
        while not self._ended.wait(self._interval_s):
            self.look()

    def look(self) -> None:
        """Send what is stored, if it is enough."""
        try:
            self._mirror.send_shards(self._upload_every, self._captions_per_clip)
        except E2IError as error:
            if not self._told and not self._ended.is_set():
                self._told = True
                self._note(
                    f"Not sent to the Hub yet: {error} What is stored is kept and sent later."
                )
