"""Where things lie below one store URL.

<store>/data/<data set>           recordings and metadata
<store>/embeddings/<split>        the cache of one split
<store>/checkpoints               projection heads
<store>/reports                   scores and what they were made of
<store>/published.json            which checkpoint and caches are in use
<store>/published                 copies of the checkpoints that were published, and their scores
<store>/logs                      what training and evaluation logged
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from e2i.errors import ConfigError
from e2i.storage.locations import join, locate


def join_url(url: str, *names: str) -> str:
    """A location below another: `join_url("s3://bucket/a", "b")` is `s3://bucket/a/b`."""
    return functools.reduce(join, names, url)


def split_url(url: str) -> tuple[str, str]:
    """The folder and the last name of a location: `s3://bucket/a/b` is (`s3://bucket/a`, `b`).

    Nothing lies above a bucket: of `s3://bucket` the folder is the bucket itself.
    """
    scheme, is_url, rest = url.partition("://")
    if not is_url:
        scheme, rest = "", url
    rest = rest.rstrip("/")
    above, slash, name = rest.rpartition("/")
    if not slash:
        bucket = rest.rpartition("@")[2]
        return (url, bucket) if is_url else (("." if name else "/"), name)
    folder = above or "/"
    return (f"{scheme}://{folder}" if is_url else folder), name


def public_url(url: str) -> str:
    """A location as it may be shown and stored: without the credentials that a URL can hold."""
    return locate(url)[0].url if "://" in url else url


def clotho_metadata_url(data_url: str, split: str) -> str:
    """The captions of a split in Clotho's layout."""
    return join_url(data_url, "clotho_csv_files", f"clotho_captions_{split}.csv")


@dataclass(frozen=True, slots=True)
class StoreLayout:
    """The locations below one store.

    Attributes:
        store_url: absolute path or URL; `~` is the home directory.

    Raises:
        ConfigError: a relative path, which would mean another folder on every worker.
    """

    store_url: str

    def __post_init__(self) -> None:
        """Refuse what depends on a working directory."""
        if "://" in self.store_url or Path(self.store_url).expanduser().is_absolute():
            return
        raise ConfigError(
            f"store_url depends on the working directory: got {self.store_url!r}, expected an "
            "absolute path or a URL such as s3://bucket/e2i. Give the whole path."
        )

    def data_url(self, dataset: str) -> str:
        """Recordings and metadata of a data set."""
        return join_url(self.store_url, "data", dataset)

    @property
    def embeddings_url(self) -> str:
        """The caches, one a split."""
        return join_url(self.store_url, "embeddings")

    def cache_url(self, split: str) -> str:
        """The cache of a split."""
        return join_url(self.embeddings_url, split)

    @property
    def checkpoints_url(self) -> str:
        """Projection heads."""
        return join_url(self.store_url, "checkpoints")

    @property
    def reports_url(self) -> str:
        """Scores and their provenance."""
        return join_url(self.store_url, "reports")

    @property
    def logs_url(self) -> str:
        """What training and evaluation logged."""
        return join_url(self.store_url, "logs")
