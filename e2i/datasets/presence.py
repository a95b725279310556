"""Whether a data root holds Clotho, by names alone."""

from __future__ import annotations

from e2i.datasets.config import MetadataConfig
from e2i.datasets.download_config import DownloadConfig
from e2i.datasets.metadata_file import AUDIO_FOLDER, CSV_FOLDER
from e2i.datasets.tabular import read_metadata
from e2i.storage import Folder


def splits_lacking(data_url: str, config: DownloadConfig) -> tuple[str, ...]:
    """The splits whose captions, or any of whose recordings, a data root lacks.

    Looks at names only; whoever put the data there may have left other recordings out, or not come
    by them from the record at all.

    Raises:
        DatasetError: a caption file is there and cannot be read.
        StorageError: the data root cannot be read.
    """
    root = Folder(data_url)
    lacking = []
    for split in config.splits:
        captions = f"{CSV_FOLDER}/clotho_captions_{split}.csv"
        if root.info(captions) is None:
            lacking.append(split)
            continue
        source = MetadataConfig(metadata=f"{data_url.rstrip('/')}/{captions}", split=split)
        clips = read_metadata(source).clips
        stored = {info.name for info in root.folder(AUDIO_FOLDER).folder(split).files()}
        if any(clip.audio_name not in stored for clip in clips):
            lacking.append(split)
    return tuple(lacking)
