"""What an evaluation ranked, with projections, so that some of it can be ranked again.

Ranks are among all clips of an evaluation; with more clips there are more to be beaten by. So two
evaluations of sets that differ cannot be compared by their ranks: both have to be ranked again on
the clips that they have in common, which takes the projections.

Conventions: one Parquet table, first a row a clip, then a row a caption; equal sets give equal
bytes under one version of pyarrow.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from e2i.cache.reader import Cache
from e2i.cache.shards import read_keys
from e2i.errors import ReportError, ReportNotFoundError, StorageNotFoundError
from e2i.storage import FileInfo, Folder
from e2i.store_layout import join_url
from e2i.training.evaluate import Evaluation


@dataclass(frozen=True, slots=True)
class ScoredSet:
    """C clips and N captions that were scored, and their projections.

    Attributes:
        dataset: name of the data set.
        split: name of the split.
        clip_ids: C ids.
        recordings: C sha256 of the recordings' files; empty where that is not known.
        caption_ids: N ids.
        captions: N texts.
        caption_clip: int64 (N,), the index of each caption's clip.
        audio: float32 (C, P).
        text: float32 (N, P).
    """

    dataset: str
    split: str
    clip_ids: tuple[str, ...]
    recordings: tuple[str, ...]
    caption_ids: tuple[str, ...]
    captions: tuple[str, ...]
    caption_clip: NDArray[np.int64]
    audio: NDArray[np.float32]
    text: NDArray[np.float32]

    @classmethod
    def of(cls, evaluation: Evaluation, cache: Cache) -> ScoredSet:
        """What an evaluation of a cache ranked."""
        recordings = recordings_of(cache)
        return cls(
            dataset=cache.manifest.dataset,
            split=cache.manifest.split,
            clip_ids=evaluation.clip_ids,
            recordings=tuple(recordings.get(clip_id, "") for clip_id in evaluation.clip_ids),
            caption_ids=evaluation.caption_ids,
            captions=evaluation.captions,
            caption_clip=evaluation.retrieval.text_to_audio.clip,
            audio=evaluation.audio.cpu().numpy(),
            text=evaluation.text.cpu().numpy(),
        )

    def as_bytes(self) -> bytes:
        """The file that holds it."""
        clips = [self.clip_ids[index] for index in self.caption_clip]
        rows = np.concatenate([self.audio, self.text])
        table = pa.table(
            {
                "side": ["audio"] * len(self.clip_ids) + ["text"] * len(clips),
                "id": [*self.clip_ids, *self.caption_ids],
                "clip_id": [*self.clip_ids, *clips],
                "content": [*self.recordings, *self.captions],
                "projection": pa.FixedSizeListArray.from_arrays(
                    pa.array(rows.ravel()), rows.shape[1]
                ),
            }
        ).replace_schema_metadata(
            {"e2i": json.dumps({"dataset": self.dataset, "split": self.split})}
        )
        data = io.BytesIO()
        pq.write_table(table, data, compression="zstd")
        return data.getvalue()


def recordings_of(cache: Cache) -> dict[str, str]:
    """The sha256 of each clip's recording, by clip id; of the original's files there is none.

    Raises:
        CacheCorruptError: a shard is missing or damaged.
        StorageError: the store refused.
    """
    found: dict[str, str] = {}
    for entry in () if cache.read is not None else cache.manifest.audio.shards:
        file = FileInfo(entry.name, entry.bytes, "")
        columns = read_keys(cache.folder, file, "audio", hashed=False).columns
        rows = zip(columns["clip_id"], columns["content_sha256"], entry.mask(), strict=True)
        found |= {clip_id: sha256 for clip_id, sha256, counts in rows if counts}
    return found


def write_scored_set(folder: Folder, name: str, scored: ScoredSet) -> str:
    """Store a scored set; the sha256 of its file.

    Raises:
        StorageError: the store refused.
    """
    data = scored.as_bytes()
    folder.write(name, data)
    return hashlib.sha256(data).hexdigest()


def read_scored_set(folder: Folder, name: str) -> ScoredSet:
    """Read a scored set.

    Raises:
        ReportNotFoundError: there is none.
        ReportError: it is something else.
        StorageError: the store refused.
    """
    where = join_url(folder.url, name)
    try:
        table = pq.read_table(io.BytesIO(folder.read(name)))
        facts = json.loads(table.schema.metadata[b"e2i"])
        return _from_table(table, facts)
    except StorageNotFoundError as error:
        raise ReportNotFoundError(
            f"what was scored before is gone: got no {where}, expected the file beside its scores. "
            "Restore it, or publish the checkpoint again."
        ) from error
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise ReportError(
            f"what was scored before cannot be read: got {error} in {where}, expected a table that "
            "`e2i publish` or `e2i reevaluate` wrote. Restore it, or publish the checkpoint again."
        ) from error


def _from_table(table: pa.Table, facts: Mapping[str, str]) -> ScoredSet:
    column = table.column("projection").combine_chunks()
    rows = column.flatten().to_numpy().reshape(len(table), -1)
    ids, contents = table.column("id").to_pylist(), table.column("content").to_pylist()
    clips = table.column("side").to_pylist().count("audio")
    index = {clip_id: place for place, clip_id in enumerate(ids[:clips])}
    of_captions = table.column("clip_id").to_pylist()[clips:]
    return ScoredSet(
        dataset=facts["dataset"],
        split=facts["split"],
        clip_ids=tuple(ids[:clips]),
        recordings=tuple(contents[:clips]),
        caption_ids=tuple(ids[clips:]),
        captions=tuple(contents[clips:]),
        caption_clip=np.array([index[clip_id] for clip_id in of_captions], np.int64),
        audio=rows[:clips],
        text=rows[clips:],
    )
