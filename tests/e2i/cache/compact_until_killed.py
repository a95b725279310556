"""Merging and pruning of a cache, as a process that tests kill: each change of it takes a moment.

Called with the cache, a file that tells when it begins, and the seconds that a change takes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[3])]

from e2i.cache.compact import compact_cache  # noqa: E402
from e2i.cache.prune import prune_cache  # noqa: E402
from e2i.storage import Folder  # noqa: E402


def slow(method: Callable[..., object], seconds: float) -> Callable[..., object]:
    """The same, with a pause before and after."""

    def call(*arguments: object) -> object:
        time.sleep(seconds)
        result = method(*arguments)
        time.sleep(seconds)
        return result

    return call


def main(cache: str, started: str, seconds: str) -> None:
    for name in ("create", "replace", "delete"):
        setattr(Folder, name, slow(getattr(Folder, name), float(seconds)))
    folder = Folder(cache)
    Path(started).touch()
    compact_cache(folder)
    prune_cache(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
