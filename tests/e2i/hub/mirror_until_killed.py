"""Mirrors a cache to the Hub of its environment, until it is killed.

Called with the cache, the data set, and a file that tells when it begins.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[3])]

from e2i.hub.config import HubConfig  # noqa: E402
from e2i.hub.mirror import Mirror, Pace  # noqa: E402
from e2i.storage import Folder  # noqa: E402


def main(cache: str, repo: str, started: str) -> None:
    mirror = Mirror(Folder(cache), HubConfig(hf_dataset=repo), pace=Pace(interval_s=0.0))
    Path(started).touch()
    mirror.finish()


if __name__ == "__main__":
    main(*sys.argv[1:])
