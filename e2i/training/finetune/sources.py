"""Where the metadata of validation and test lies, and where waveforms are kept, if nobody says."""

from __future__ import annotations

from e2i.datasets.config import MetadataConfig
from e2i.datasets.metadata_file import ALL, CSV_FOLDER, split_named_in
from e2i.storage import Folder
from e2i.store_layout import join_url, split_url

WAVEFORMS = "waveforms"


def other_split(source: MetadataConfig, given: str, split: str) -> MetadataConfig | None:
    """The metadata of another split; None where none was given and none lies beside this one.

    Args:
        source: of the split to train on.
        given: the other one's file, if it was given.
        split: the other one's name.
    """
    folder, name = split_url(source.metadata or "")
    own = source.split or split_named_in(name)
    location = given
    if not given:
        named = split_named_in(name)
        if named in {ALL, split}:
            return None
        other = name.lower().replace(named, split)
        if Folder(folder).info(other) is None:
            return None
        location = join_url(folder, other)
    root = source.audio_root
    if root is not None and split_url(root)[1] == own:
        root = join_url(split_url(root)[0], split)
    changes = {"metadata": location, "split": split if not given else None, "audio_root": root}
    return source.model_copy(update=changes)


def default_waveforms_url(source: MetadataConfig) -> str:
    """`waveforms` below the folder that holds the data."""
    folder, _ = split_url(source.metadata or "")
    above, last = split_url(folder)
    return join_url(above if last == CSV_FOLDER else folder, WAVEFORMS)
