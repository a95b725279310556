"""Pseudo-images in a folder: rendering what is missing, and reading it back.

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

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from e2i.errors import ImageError, StorageNotFoundError
from e2i.images.config import ImagesConfig
from e2i.images.fold import NUM_CHANNELS, encode_images, image_side
from e2i.images.index import (
    ImageIndex,
    ImageSettings,
    IndexedImage,
    read_index,
    write_index,
)
from e2i.images.names import Side, is_png_name, png_name
from e2i.images.png import ImageLabel, StoredImage, decode_png, encode_png
from e2i.storage import FileInfo, Folder

Progress = Callable[[int], None]
"""Told how many more images are done; called from the thread that called."""

_BLOCK_BYTES = 64 * 2**20
_LARGEST_BLOCK = 1024
# Threads wait for the disk or the network most of the time; pillow compresses without the GIL.
_LOCAL_WORKERS = 8
_REMOTE_WORKERS = 32

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


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
class _Wanted:
    """One image to have: the row of its embedding, and what its PNG has to say."""

    row: int
    label: ImageLabel


def embedding_digest(embedding: NDArray[np.float32]) -> str:
    """Short hash of one embedding (D,): 16 hexadecimal digits."""
    stored = np.ascontiguousarray(embedding, dtype="<f4")
    return hashlib.sha256(stored.tobytes()).hexdigest()[:16]


def render_images(
    folder: Folder,
    side: Side,
    ids: Sequence[str],
    embeddings: NDArray[np.float32],
    config: ImagesConfig,
    *,
    fingerprint: str,
    progress: Progress | None = None,
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
        progress: told of images as they are stored or found.

    Raises:
        ImageError: ids repeat, do not match the embeddings, or a value is not finite.
        StorageError: the store refused; what was rendered until then stays.
    """
    wanted = _wanted(side, ids, embeddings, fingerprint)
    settings = ImageSettings.wanted(config, embeddings.shape[1], fingerprint)
    place = _place(folder, side, config)
    stored = _listing(place)
    index = read_index(place)
    report = progress or (lambda count: None)  # noqa: ARG005
    with _pool(place) as pool:
        current = _current(pool, place, wanted, settings, stored, index)
        report(len(current))
        missing = [name for name in wanted if name not in current]
        sizes = _render(pool, place, missing, wanted, embeddings, config, report)
        gone = _gone(pool, place, side, wanted, stored, index)
        checked = {name: stored[name] for name in current}
        if missing:
            seen = _listing(place)
            checked = {name: seen[name] for name in wanted if _is_known(name, seen, checked, sizes)}
        fresh = ImageIndex(settings, {n: _entry(wanted[n], file) for n, file in checked.items()})
        if fresh != index:
            write_index(place, fresh)
        for _ in _each(pool, place.delete, gone):
            pass
    return RenderCounts(
        rendered=len(missing),
        reused=len(current),
        replaced=sum(name in stored for name in missing),
        deleted=len(gone),
    )


def load_images(
    folder: Folder,
    side: Side,
    ids: Sequence[str],
    config: ImagesConfig,
    *,
    fingerprint: str,
    embeddings: NDArray[np.float32] | None = None,
) -> NDArray[np.uint8]:
    """The stored pixels of these embeddings, in the order of the ids.

    Args:
        folder: the cache.
        side: whose embeddings they are.
        ids: N ids.
        config: how they have to have been folded, and where the images lie.
        fingerprint: of the encoder that has to have made the embeddings.
        embeddings: float32 (N, D), which the images have to show; without them images of former
            embeddings of the same encoder pass.

    Returns:
        uint8 (N, 3, S, S).

    Raises:
        ImageError: an image is missing, broken, or made otherwise.
        StorageError: the store refused.
    """
    place = _place(folder, side, config)
    digests = [None] * len(ids) if embeddings is None else [embedding_digest(e) for e in embeddings]
    if len(digests) != len(ids):
        raise _unequal(len(ids), len(digests))

    def load(row: int) -> NDArray[np.uint8]:
        image = _read(place, side, ids[row])
        _check(image, png_name(side, ids[row]), ids[row], digests[row], config, fingerprint)
        return image.images.pixels[0]

    if not ids:
        size = 0 if config.image_size == "native" else config.image_size
        return np.zeros((0, NUM_CHANNELS, size, size), dtype=np.uint8)
    first = load(0)
    pixels = np.empty((len(ids), *first.shape), dtype=np.uint8)
    with _pool(place) as pool:
        for row, loaded in _each(pool, load, range(len(ids))):
            if loaded.shape != first.shape:
                raise ImageError(
                    f"pseudo-images of one cache have one size: got {loaded.shape[-1]} px for "
                    f"{ids[row]!r}, expected {first.shape[-1]} px. Run e2i cache-images."
                )
            pixels[row] = loaded
    return pixels


def _wanted(
    side: Side, ids: Sequence[str], embeddings: NDArray[np.float32], fingerprint: str
) -> dict[str, _Wanted]:
    """File name to what it has to show, in the order of the ids."""
    if embeddings.ndim != 2 or len(embeddings) != len(ids):
        raise _unequal(len(ids), embeddings.shape)
    wanted: dict[str, _Wanted] = {}
    for row, item_id in enumerate(ids):
        name = png_name(side, item_id)
        if name in wanted:
            other = wanted[name].label.item_id
            raise ImageError(
                f"two {side} embeddings have one pseudo-image: got {other!r} and {item_id!r} for "
                f"{name}, expected an id of its own for each. Rename one of them."
            )
        digest = embedding_digest(embeddings[row])
        wanted[name] = _Wanted(row, ImageLabel(side, item_id, fingerprint, digest))
    return wanted


def _unequal(ids: int, embeddings: object) -> ImageError:
    return ImageError(
        f"ids and embeddings do not match: got {ids} ids and embeddings {embeddings}, expected one "
        "row (D,) for each id. Read both from one cache."
    )


def _current(
    pool: ThreadPoolExecutor,
    place: Folder,
    wanted: Mapping[str, _Wanted],
    settings: ImageSettings,
    stored: Mapping[str, FileInfo],
    index: ImageIndex,
) -> set[str]:
    """Names of the stored images that are as wanted; only files unknown to the index are read."""
    current: set[str] = set()
    unknown: list[str] = []
    for name, item in wanted.items():
        file, entry = stored.get(name), index.images.get(name)
        if file is None:
            continue
        if entry is None or not entry.is_file(file):
            unknown.append(name)
        elif index.settings == settings and entry.embedding == item.label.embedding_digest:
            current.add(name)

    def is_as_wanted(name: str) -> bool:
        image = _read_if_whole(place, name)
        if image is None or image.label != wanted[name].label:
            return False
        return ImageSettings.stored(image) == settings

    return current | {name for name, fits in _each(pool, is_as_wanted, unknown) if fits}


def _render(
    pool: ThreadPoolExecutor,
    place: Folder,
    missing: Sequence[str],
    wanted: Mapping[str, _Wanted],
    embeddings: NDArray[np.float32],
    config: ImagesConfig,
    report: Progress,
) -> dict[str, int]:
    """Make and store images, a block in memory at a time; the size of each file in bytes."""
    sizes: dict[str, int] = {}
    image_bytes = NUM_CHANNELS * image_side(embeddings.shape[1], config) ** 2
    step = max(1, min(_LARGEST_BLOCK, _BLOCK_BYTES // image_bytes))
    for start in range(0, len(missing), step):
        names = missing[start : start + step]
        items = [wanted[name] for name in names]
        images = encode_images(
            embeddings[[item.row for item in items]],
            config,
            ids=[item.label.item_id for item in items],
        )

        def store(position: int) -> int:
            data = encode_png(images, position, items[position].label)  # noqa: B023 - used up here
            place.write(names[position], data)  # noqa: B023
            return len(data)

        for position, size in _each(pool, store, range(len(names))):
            sizes[names[position]] = size
            report(1)
    return sizes


def _gone(
    pool: ThreadPoolExecutor,
    place: Folder,
    side: Side,
    wanted: Mapping[str, _Wanted],
    stored: Mapping[str, FileInfo],
    index: ImageIndex,
) -> list[str]:
    """Names of stored images whose ids are not wanted; only what e2i wrote itself."""
    gone: list[str] = []
    unknown: list[str] = []
    for name, file in stored.items():
        if name in wanted or not is_png_name(name):
            continue
        entry = index.images.get(name)
        known = entry is not None and entry.is_file(file)
        (gone if known else unknown).append(name)

    def is_ours(name: str) -> bool:
        image = _read_if_whole(place, name)
        return image is not None and png_name(side, image.label.item_id) == name

    return gone + [name for name, ours in _each(pool, is_ours, unknown) if ours]


def _is_known(
    name: str,
    seen: Mapping[str, FileInfo],
    checked: Mapping[str, FileInfo],
    sizes: Mapping[str, int],
) -> bool:
    """Whether a listed file is the one that was checked or written; another run may write too."""
    file = seen.get(name)
    if file is None:
        return False
    return file == checked[name] if name in checked else file.size_bytes == sizes[name]


def _entry(item: _Wanted, file: FileInfo) -> IndexedImage:
    return IndexedImage(item.label.embedding_digest, file.size_bytes, file.version)


def _check(
    image: StoredImage,
    name: str,
    item_id: str,
    digest: str | None,
    config: ImagesConfig,
    fingerprint: str,
) -> None:
    """An error unless a stored image shows what it should."""
    expected = ImageSettings.wanted(config, image.images.dim, fingerprint)
    differing = ImageSettings.stored(image).difference(expected)
    if differing is None and image.label.item_id != item_id:
        differing = ("id", image.label.item_id, item_id)
    if differing is None and digest is not None and image.label.embedding_digest != digest:
        differing = ("embedding", image.label.embedding_digest, digest)
    if differing is not None:
        setting, got, want = differing
        raise ImageError(
            f"the stored pseudo-image {name} was made otherwise: got {setting} {got!r}, expected "
            f"{want!r}. Run e2i cache-images with these settings."
        )


def _read(place: Folder, side: Side, item_id: str) -> StoredImage:
    name = png_name(side, item_id)
    try:
        return decode_png(place.read(name), name)
    except StorageNotFoundError as error:
        raise ImageError(
            f"the pseudo-image of {side} {item_id!r} is missing: got no file {name} in "
            f"{place.url}, expected one. Run e2i cache-images."
        ) from error


def _read_if_whole(place: Folder, name: str) -> StoredImage | None:
    try:
        return decode_png(place.read(name), name)
    except (StorageNotFoundError, ImageError):
        return None


def _place(folder: Folder, side: Side, config: ImagesConfig) -> Folder:
    return folder.folder(f"{config.images_dir}/{side}")


def _listing(place: Folder) -> dict[str, FileInfo]:
    return {file.name: file for file in place.files() if "/" not in file.name}


@contextmanager
def _pool(place: Folder) -> Iterator[ThreadPoolExecutor]:
    """Threads for one folder; what has not begun when an error comes is dropped."""
    workers = _REMOTE_WORKERS if place.local_path is None else _LOCAL_WORKERS
    pool = ThreadPoolExecutor(workers, thread_name_prefix="e2i-images")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _each(
    pool: ThreadPoolExecutor, function: Callable[[_Item], _Result], items: Iterable[_Item]
) -> Iterator[tuple[_Item, _Result]]:
    """Items with their results, as they are done; the first error ends it."""
    futures = {pool.submit(function, item): item for item in items}
    for future in as_completed(futures):
        yield futures[future], future.result()
