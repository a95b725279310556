"""Pseudo-images for the Hub: many to a Parquet file, in the form that `datasets` shows as images.

Conventions: a pack holds up to 1,000 images of one side, in the order of the cache: the PNGs as
they are stored, with the ids that they belong to. Its name is made of what it shows and how that
was folded, so a pack that the Hub holds is not made again. Statistics that the images were
standardized by are sent beside the packs, as they lie beside the images.

Source: the `Image` feature of `datasets`, a struct of `bytes` and `path`, told by the schema's
`huggingface` entry.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq

from e2i.cache.embeddings import CachedEmbeddings
from e2i.cache.layout import SIDES, Side
from e2i.hub.contents import OutgoingFile, content_of
from e2i.images.config import ImagesConfig
from e2i.images.index import ImageSettings
from e2i.images.names import png_name
from e2i.images.standardization import Standardization, standardization_name
from e2i.images.stored import embedding_digest
from e2i.storage import Folder

IMAGES_A_PACK = 1000
_READERS = 8
_KEY_DIGITS = 20


By = Mapping[Side, Standardization | None]
"""The statistics that the images of each side were standardized by."""

_PLAIN: By = {"audio": None, "text": None}


def image_packs(
    folder: Folder, cache: CachedEmbeddings, config: ImagesConfig, by: By = _PLAIN
) -> dict[str, OutgoingFile]:
    """The packs of all pseudo-images of a cache, by name below it; each is made when it is sent.

    Args:
        folder: the cache, with the images rendered.
        cache: what it holds.
        config: how they were folded, and where they lie.
        by: the statistics that they were standardized by, where they were.

    Raises:
        ImageError: images are standardized, and there are no statistics of a side.
    """
    files: dict[str, OutgoingFile] = {}
    for side in SIDES:
        below = f"{config.images_dir}/{side}"
        for rows in _blocks(len(_ids(cache, side))):
            key = _key(cache, side, rows, config, by[side])
            pack = OutgoingFile(_packer(folder, cache, side, rows, config))
            files[f"{below}/images-{key}.parquet"] = pack
        if config.standardize and (statistics := by[side]) is not None:
            name = f"{below}/{standardization_name(statistics.digest)}"
            files[name] = OutgoingFile(content_of(folder, name))
    return files


def _ids(cache: CachedEmbeddings, side: Side) -> Sequence[str]:
    return cache.clip_ids if side == "audio" else cache.caption_ids


def _blocks(count: int) -> Iterator[range]:
    for start in range(0, count, IMAGES_A_PACK):
        yield range(start, min(start + IMAGES_A_PACK, count))


def _key(
    cache: CachedEmbeddings,
    side: Side,
    rows: range,
    config: ImagesConfig,
    by: Standardization | None,
) -> str:
    audio = side == "audio"
    embeddings = cache.audio if audio else cache.text
    fingerprint = cache.audio_fingerprint if audio else cache.text_fingerprint
    settings = ImageSettings.wanted(config, embeddings.shape[1], fingerprint, by)
    shown = [(_ids(cache, side)[row], embedding_digest(embeddings[row])) for row in rows]
    content = json.dumps([asdict(settings), shown], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:_KEY_DIGITS]


def _packer(
    folder: Folder, cache: CachedEmbeddings, side: Side, rows: range, config: ImagesConfig
) -> Callable[[], bytes]:
    def pack() -> bytes:
        images = folder.folder(f"{config.images_dir}/{side}")
        names = [png_name(side, _ids(cache, side)[row]) for row in rows]
        with ThreadPoolExecutor(_READERS) as pool:
            data = list(pool.map(images.read, names))
        shown: list[dict[str, bytes | str]] = [
            {"bytes": png, "path": name} for png, name in zip(data, names, strict=True)
        ]
        return _parquet(shown, _columns(cache, side, rows))

    return pack


def _columns(cache: CachedEmbeddings, side: Side, rows: range) -> dict[str, list[str]]:
    """What stands beside the images."""
    if side == "audio":
        return {"clip_id": [cache.clip_ids[row] for row in rows]}
    return {
        "caption_id": [cache.caption_ids[row] for row in rows],
        "clip_id": [cache.clip_ids[int(cache.caption_clip[row])] for row in rows],
        "caption": [cache.captions[row] for row in rows],
    }


def _parquet(images: list[dict[str, bytes | str]], columns: dict[str, list[str]]) -> bytes:
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features: dict[str, dict[str, str]] = {"image": {"_type": "Image"}}
    features |= {name: {"dtype": "string", "_type": "Value"} for name in columns}
    schema = pa.schema(
        [("image", image_type), *((name, pa.string()) for name in columns)],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    table = pa.Table.from_pydict({"image": images, **columns}, schema=schema)
    file = io.BytesIO()
    # PNGs are compressed already; with small row groups the first ones are shown at once.
    pq.write_table(table, file, compression="none", row_group_size=100)
    return file.getvalue()
