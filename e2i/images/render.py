"""Pseudo-images of a cache, rendered to PNG files.

Conventions: N embeddings of one side of one cache, ids unique. A PNG lies at
`<images_dir>/<side>/<name>`, named by `names.png_name`. It carries what it shows and how it was
made (`png`), so no image of other settings, of another encoder or of a former embedding is ever
taken for a current one, whatever a killed or a concurrent run has left behind.

The index beside the PNGs (`index`), written last, saves reading them all again: an image counts as
current when the listing still shows the size and version that were checked; any other file is read
and judged by what it says itself. So the index may be lost, stale, or copied from elsewhere: that
costs time only, and nothing that is stored is rendered twice.

Images are derived data: under other settings all are rendered anew, and those whose ids are gone
are deleted, both without asking. Files that e2i did not write are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from e2i.errors import ImageError
from e2i.images.config import ImagesConfig
from e2i.images.fold import NUM_CHANNELS, encode_images, image_side
from e2i.images.index import ImageIndex, ImageSettings, IndexedImage, read_index, write_index
from e2i.images.names import Side, is_png_name, png_name
from e2i.images.png import ImageLabel, encode_pngs
from e2i.images.standardization import (
    Standardization,
    is_standardization_name,
    standardization_name,
    write_standardization,
)
from e2i.images.stored import StoredImages, embedding_digest
from e2i.storage import FileInfo, Folder

Progress = Callable[[int], None]
"""Told how many more images are done, in the caller's thread."""

# Of one call in one thread: small enough for all threads to have work, and for the nearest cache.
_BATCH_BYTES = 8 * 2**20
_LARGEST_BATCH = 32


@dataclass(frozen=True, slots=True)
class RenderCounts:
    """What rendering did.

    Attributes:
        rendered: images made and stored.
        reused: images that were there.
        replaced: of those rendered, the ones that took the place of a file: one of other settings,
            of another encoder or of an embedding that has changed, or a broken one.
        deleted: images of ids that are gone.
    """

    rendered: int
    reused: int
    replaced: int
    deleted: int


@dataclass(frozen=True, slots=True)
class MissingRows:
    """Rows of the embeddings whose pseudo-images are not there as wanted.

    Attributes:
        rows: in the order of the embeddings.
        replaced: those that will take the place of a file.
    """

    rows: tuple[int, ...]
    replaced: int


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The images to have: by file name, the row of the embedding and what the PNG has to say."""

    settings: ImageSettings
    rows: Mapping[str, int]
    labels: Mapping[str, ImageLabel]
    standardization: Standardization | None


@dataclass(frozen=True, slots=True)
class _Found:
    """What lay there at the start."""

    files: Mapping[str, FileInfo]
    index: ImageIndex

    def known(self, name: str) -> IndexedImage | None:
        """The index's entry, if the file still is the one that it speaks of."""
        entry = self.index.images.get(name)
        return entry if entry is not None and entry.is_file(self.files[name]) else None


def render_images(
    folder: Folder,
    side: Side,
    ids: Sequence[str],
    embeddings: NDArray[np.float32],
    config: ImagesConfig,
    *,
    fingerprint: str,
    progress: Progress | None = None,
    written: Mapping[str, int] = MappingProxyType({}),
    standardization: Standardization | None = None,
) -> RenderCounts:
    """Make the folder hold the pseudo-images of these embeddings, and of no others.

    May be killed at any instant, and run again: what is stored then is not rendered again.

    Args:
        folder: the cache.
        side: whose embeddings they are.
        ids: N ids, unique: all that this side of the cache has.
        embeddings: float32 (N, D).
        config: how to fold them, and where the images go.
        fingerprint: of the encoder that made the embeddings.
        progress: told of images as they are found or stored.
        written: images that others have just made by `render_rows`, with their bytes by file name:
            where the listing shows that many, they are not read again.
        standardization: statistics of the training clips, where `config` says to standardize;
            they are stored beside the images.

    Raises:
        ImageError: ids repeat, do not match the embeddings, a value is not finite, or there are
            no statistics to standardize by.
        StorageError: the store refused; what was rendered until then stays.
    """
    wanted = _wanted(
        side, ids, embeddings, config, fingerprint=fingerprint, standardization=standardization
    )
    with StoredImages(folder, side, config) as stored:
        found, current, missing = _looked_at(stored, wanted, written)
        if progress is not None:
            progress(len(current))
        if wanted.standardization is not None:  # before the images that name them
            write_standardization(stored.folder, wanted.standardization)
        sizes: dict[str, int] = {}
        for name, size in _render(stored, missing, wanted, embeddings, config):
            sizes[name] = size
            if progress is not None:
                progress(1)
        gone = _gone(stored, side, wanted, found)
        if sizes:
            stored.folder.flush()  # before the index vouches for them
        _update_index(stored, wanted, found, current, sizes)
        for _ in stored.each(stored.folder.delete, gone):
            pass
    return RenderCounts(
        rendered=len(missing),
        reused=len(current),
        replaced=sum(name in found.files for name in missing),
        deleted=sum(is_png_name(name) for name in gone),
    )


def missing_rows(
    folder: Folder,
    side: Side,
    ids: Sequence[str],
    embeddings: NDArray[np.float32],
    config: ImagesConfig,
    *,
    fingerprint: str,
    standardization: Standardization | None = None,
) -> MissingRows:
    """What `render_images` would make; makes none.

    Args and errors: as for `render_images`.
    """
    wanted = _wanted(
        side, ids, embeddings, config, fingerprint=fingerprint, standardization=standardization
    )
    with StoredImages(folder, side, config) as stored:
        found, _, missing = _looked_at(stored, wanted)
    rows = tuple(wanted.rows[name] for name in missing)
    return MissingRows(rows, sum(name in found.files for name in missing))


def render_rows(
    folder: Folder,
    side: Side,
    ids: Sequence[str],
    embeddings: NDArray[np.float32],
    config: ImagesConfig,
    *,
    fingerprint: str,
    standardization: Standardization | None = None,
) -> dict[str, int]:
    """Make and store pseudo-images of some rows, whatever is there; bytes by file name.

    For many at once: the index, and what has to go, are for one `render_images` at the end.

    Args and errors: as for `render_images`; the ids may be a part of those of the side.
    """
    wanted = _wanted(
        side, ids, embeddings, config, fingerprint=fingerprint, standardization=standardization
    )
    with StoredImages(folder, side, config) as stored:
        if wanted.standardization is not None:
            write_standardization(stored.folder, wanted.standardization)
        sizes = dict(_render(stored, list(wanted.rows), wanted, embeddings, config))
        stored.folder.flush()
    return sizes


def _wanted(
    side: Side,
    ids: Sequence[str],
    embeddings: NDArray[np.float32],
    config: ImagesConfig,
    *,
    fingerprint: str,
    standardization: Standardization | None,
) -> _Wanted:
    if embeddings.ndim != 2 or len(embeddings) != len(ids):
        raise ImageError(
            f"ids and embeddings do not match: got {len(ids)} ids and embeddings of shape "
            f"{embeddings.shape}, expected ({len(ids)}, D). Read both from one cache."
        )
    settings = ImageSettings.wanted(config, embeddings.shape[1], fingerprint, standardization)
    rows: dict[str, int] = {}
    labels: dict[str, ImageLabel] = {}
    for row, item_id in enumerate(ids):
        name = png_name(side, item_id)
        if name in rows:
            raise ImageError(
                f"two {side} embeddings have one pseudo-image: got {labels[name].item_id!r} and "
                f"{item_id!r} for {name}, expected ids that differ. Rename one of them."
            )
        rows[name] = row
        digest = embedding_digest(embeddings[row])
        labels[name] = ImageLabel(side, item_id, settings.fingerprint, digest)
    return _Wanted(settings, rows, labels, standardization if settings.standardization else None)


def _looked_at(
    stored: StoredImages, wanted: _Wanted, written: Mapping[str, int] = MappingProxyType({})
) -> tuple[_Found, set[str], list[str]]:
    """What lies there, the names that are as wanted, and in order those that are not."""
    found = _Found(stored.listing(), read_index(stored.folder))
    current = _current(stored, wanted, found, written)
    return found, current, [name for name in wanted.rows if name not in current]


def _current(
    stored: StoredImages,
    wanted: _Wanted,
    found: _Found,
    written: Mapping[str, int],
) -> set[str]:
    """Names of stored images that are as wanted; only files that nobody vouches for are read."""
    current: set[str] = set()
    unknown: list[str] = []
    for name, label in wanted.labels.items():
        if name not in found.files:
            continue
        entry = found.known(name)
        if written.get(name) == found.files[name].size_bytes:
            current.add(name)
        elif entry is None:
            unknown.append(name)
        elif (found.index.settings, entry.embedding) == (wanted.settings, label.embedding_digest):
            current.add(name)

    def is_as_wanted(name: str) -> bool:
        image = stored.read_if_whole(name)
        if image is None or image.label != wanted.labels[name]:
            return False
        return ImageSettings.stored(image) == wanted.settings

    current.update(name for name, fits in stored.each(is_as_wanted, unknown) if fits)
    return current


def _render(
    stored: StoredImages,
    missing: Sequence[str],
    wanted: _Wanted,
    embeddings: NDArray[np.float32],
    config: ImagesConfig,
) -> Iterator[tuple[str, int]]:
    """Make and store images, a batch at a time in each thread; names as they are done, with bytes.

    Where cells are only copied, images are folded at their native size and enlarged in the file.
    """
    size = image_side(embeddings.shape[1], config)
    copied = config.image_mode in ("nearest", "nearest-exact")
    folded = config.model_copy(update={"image_size": "native"}) if copied else config
    step = max(1, min(_LARGEST_BATCH, _BATCH_BYTES // (NUM_CHANNELS * size**2)))
    step = max(1, min(step, len(missing) // (4 * stored.workers)))
    batches = [
        range(start, min(start + step, len(missing))) for start in range(0, len(missing), step)
    ]

    def store(batch: range) -> list[int]:
        names = missing[batch.start : batch.stop]
        labels = [wanted.labels[name] for name in names]
        rows = embeddings[[wanted.rows[name] for name in names]]
        ids = [label.item_id for label in labels]
        images = encode_images(rows, folded, ids, wanted.standardization)
        files = encode_pngs(images, labels, size)
        for name, data in zip(names, files, strict=True):
            stored.folder.write(name, data, durable=False)
        return [len(data) for data in files]

    for batch, sizes in stored.each(store, batches):
        for position, num_bytes in zip(batch, sizes, strict=True):
            yield missing[position], num_bytes


def _gone(stored: StoredImages, side: Side, wanted: _Wanted, found: _Found) -> list[str]:
    """Names of stored images whose ids are not wanted, and of statistics that no image has.

    Only those that e2i wrote itself.
    """
    spare = [name for name in found.files if name not in wanted.rows and is_png_name(name)]
    unknown = [name for name in spare if found.known(name) is None]

    def is_foreign(name: str) -> bool:
        image = stored.read_if_whole(name)
        return image is None or png_name(side, image.label.item_id) != name

    foreign = {name for name, is_so in stored.each(is_foreign, unknown) if is_so}
    kept = standardization_name(wanted.settings.standardization)
    statistics = [name for name in found.files if is_standardization_name(name) and name != kept]
    return [name for name in spare if name not in foreign] + statistics


def _update_index(
    stored: StoredImages,
    wanted: _Wanted,
    found: _Found,
    current: set[str],
    sizes: Mapping[str, int],
) -> None:
    """Enter what was checked and written; not what another run has changed in between."""
    files = stored.listing() if sizes else found.files
    images: dict[str, IndexedImage] = {}
    for name, label in wanted.labels.items():
        file = files.get(name)
        if file is None:
            continue
        unchanged = file == found.files[name] if name in current else file.size_bytes == sizes[name]
        if unchanged:
            images[name] = IndexedImage(label.embedding_digest, file.size_bytes, file.version)
    index = ImageIndex(wanted.settings, images)
    if index != found.index:
        write_index(stored.folder, index)
