"""The original's own files, read as a cache.

Conventions: N pairs, C clips. `audio_embeddings.pt` and `text_embeddings.pt` hold one row a pair,
`metadata.json` their ids, `<clip id>#<n>`: the clip is what stands before the last `#`, since names
hold `#` themselves. What is decided here:

- A clip's audio row stands once for each of its captions, and they are folded to one: the first,
  where they are equal up to rounding. The original padded recordings to the longest of their batch,
  so that rows of one clip can differ: then it is their mean, of length 1 where they are. Rows that
  point elsewhere are not of one recording, and are refused.
- Captions and durations are not among the files: captions are empty, durations NaN.
- The files do not say how the encoders were set. A fingerprint is made of what they do say (the
  names, the sample rate), so that splits of one origin go together, and never with e2i's own.
- Tensors are loaded without running any code that a file may carry (`weights_only`).

A snapshot that e2i wrote (`snapshot`) has the same form, and is read in the same way where it was
copied without its cache.
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from e2i.cache.embeddings import CachedEmbeddings
from e2i.cache.header import CacheHeader, SideHeader
from e2i.cache.layout import (
    SIDES,
    SNAPSHOT_AUDIO_NAME,
    SNAPSHOT_METADATA_NAME,
    SNAPSHOT_NAMES,
    SNAPSHOT_TEXT_NAME,
    Side,
)
from e2i.cache.manifest import Counts, Manifest, SideManifest
from e2i.datasets.metadata_file import ALL, SPLITS, dataset_named_in, split_named_in
from e2i.encoders.protocols import Settings, fingerprint
from e2i.errors import CacheCorruptError, StorageNotFoundError
from e2i.storage import Folder

TENSOR_NAME: dict[Side, str] = {"audio": SNAPSHOT_AUDIO_NAME, "text": SNAPSHOT_TEXT_NAME}

SAME_ROW = 1e-5
"""Rows a and b of one clip are equal where ‖a − b‖ ≤ SAME_ROW · ‖b‖."""

LEAST_COSINE = 0.5
"""Between a row and the mean of its clip's rows; below it they are not of one recording."""

_CAPTION_ID = re.compile(r"(.+)#[0-9]+", re.DOTALL)
_FORM = "original"
_BLOCK_ROWS = 8192


class _Metadata(BaseModel):
    """`metadata.json`, as far as it matters."""

    model_config = ConfigDict(strict=True, frozen=True)

    ids: list[str]
    num_pairs: int | None = None
    audio_embedding_shape: list[int] | None = None
    text_embedding_shape: list[int] | None = None
    audio_sample_rate: int | float | None = None
    audio_encoder: str | None = None
    text_encoder: str | None = None
    metadata_source: str | None = None


@dataclass(frozen=True, slots=True)
class OriginalFiles:
    """The original's files, in the words of a cache.

    Attributes:
        header: what would stand in its `cache.json`.
        manifest: likewise, without shards.
        embeddings: what it holds.
        sha256: names this state of the files.
        sizes: bytes of the tensors, by side.
    """

    header: CacheHeader
    manifest: Manifest
    embeddings: CachedEmbeddings
    sha256: str
    sizes: dict[Side, int]


def read_original(folder: Folder) -> OriginalFiles | None:
    """The original's files in a folder that holds no cache of e2i; None where there are none.

    Raises:
        CacheCorruptError: a file is missing, cannot be read, or does not fit the others; an id has
            no number; rows of one clip are not of one recording; a value is not finite.
        StorageError: the store refused.
    """
    if all(folder.info(name) is None for name in TENSOR_NAME.values()):
        return None
    data = {name: _read(folder, name) for name in SNAPSHOT_NAMES}
    metadata = _parsed(folder, data[SNAPSHOT_METADATA_NAME])
    rows = {side: _tensor(folder, name, data[name]) for side, name in TENSOR_NAME.items()}
    _check_counts(folder, metadata, rows)
    clip_ids, caption_clip = _clips(folder, metadata.ids)
    for side in SIDES:
        _check_finite(folder, TENSOR_NAME[side], rows[side], metadata.ids)
    _, first = np.unique(caption_clip, return_index=True)
    audio = _folded(folder, metadata.ids, rows["audio"], caption_clip, first)
    header = _header(folder, metadata, rows)
    embeddings = CachedEmbeddings(
        dataset=header.dataset,
        split=header.split,
        clip_ids=clip_ids,
        audio=audio,
        duration_s=np.full(len(clip_ids), np.nan),
        caption_ids=tuple(metadata.ids),
        captions=("",) * len(metadata.ids),
        caption_clip=caption_clip,
        text=rows["text"],
        audio_fingerprint=header.audio.fingerprint,
        text_fingerprint=header.text.fingerprint,
        url=folder.url,
    )
    return OriginalFiles(
        header=header,
        manifest=_manifest(header, embeddings, metadata),
        embeddings=embeddings,
        sha256=hashlib.sha256(b"".join(data[name] for name in SNAPSHOT_NAMES)).hexdigest(),
        sizes={side: len(data[name]) for side, name in TENSOR_NAME.items()},
    )


def _refuse(folder: Folder, name: str, got: str, expected: str) -> NoReturn:
    raise _refusal(folder, name, got, expected)


def _refusal(folder: Folder, name: str, got: str, expected: str) -> CacheCorruptError:
    return CacheCorruptError(
        f"the original's {name} cannot be used: got {got} in {folder.url}, expected {expected}. "
        "Copy its three files again, or embed with `e2i cache-embeddings` into another folder."
    )


def _read(folder: Folder, name: str) -> bytes:
    try:
        return folder.read(name)
    except StorageNotFoundError as error:
        raise _refusal(folder, name, "no such file", " beside ".join(SNAPSHOT_NAMES)) from error


def _parsed(folder: Folder, data: bytes) -> _Metadata:
    try:
        metadata = _Metadata.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        got, expected = f"{where}: {first['msg']}", "a JSON object with the `ids` of all rows"
        raise _refusal(folder, SNAPSHOT_METADATA_NAME, got, expected) from error
    if not metadata.ids:
        _refuse(folder, SNAPSHOT_METADATA_NAME, "no ids", "at least one")
    return metadata


def _tensor(folder: Folder, name: str, data: bytes) -> NDArray[np.float32]:
    import torch  # noqa: PLC0415 - takes seconds, and only these files need it

    try:
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the unpickler raise about anything
        reason = f"{type(error).__name__} ({len(data)} bytes)"
        expected = "a tensor that loads without running code (`weights_only`)"
        raise _refusal(folder, name, reason, expected) from error
    if not isinstance(loaded, torch.Tensor):
        _refuse(folder, name, f"a {type(loaded).__name__}", "a tensor")
    if loaded.layout != torch.strided or not loaded.is_floating_point() or loaded.ndim != 2:
        got = f"{loaded.dtype} of shape {tuple(loaded.shape)}"
        _refuse(folder, name, got, "floats of shape (pairs, dimensions)")
    rows: NDArray[np.float32] = loaded.detach().to(torch.float32).contiguous().numpy()
    return rows


def _check_counts(
    folder: Folder, metadata: _Metadata, rows: dict[Side, NDArray[np.float32]]
) -> None:
    num_pairs = len(metadata.ids)
    if metadata.num_pairs not in {None, num_pairs}:
        got = f"num_pairs {metadata.num_pairs} and {num_pairs} ids"
        _refuse(folder, SNAPSHOT_METADATA_NAME, got, "as many ids as pairs")
    said = {"audio": metadata.audio_embedding_shape, "text": metadata.text_embedding_shape}
    for side in SIDES:
        shape = list(rows[side].shape)
        if shape[0] != num_pairs:
            expected = f"{num_pairs}, one for each id of {SNAPSHOT_METADATA_NAME}"
            _refuse(folder, TENSOR_NAME[side], f"{shape[0]} rows", expected)
        if not shape[1]:
            _refuse(folder, TENSOR_NAME[side], "0 dimensions", "at least one")
        if said[side] not in (None, shape):
            expected = f"{said[side]} as {SNAPSHOT_METADATA_NAME} says"
            _refuse(folder, TENSOR_NAME[side], f"shape {shape}", expected)


def _clips(folder: Folder, ids: list[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The clips in the order in which they come, and the clip of each row."""
    place: dict[str, int] = {}
    seen: set[str] = set()
    caption_clip = np.empty(len(ids), np.int64)
    for row, caption_id in enumerate(ids):
        found = _CAPTION_ID.fullmatch(caption_id)
        if found is None:
            got = f"the id {caption_id!r} in row {row}"
            _refuse(folder, SNAPSHOT_METADATA_NAME, got, "ids like 'dog.wav#1'")
        if caption_id in seen:
            got = f"the id {caption_id!r} twice, the second time in row {row}"
            _refuse(folder, SNAPSHOT_METADATA_NAME, got, "each id once")
        seen.add(caption_id)
        caption_clip[row] = place.setdefault(found[1], len(place))
    return tuple(place), caption_clip


def _check_finite(folder: Folder, name: str, rows: NDArray[np.float32], ids: list[str]) -> None:
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        broken = ids[int(np.argmin(finite))]
        _refuse(folder, name, f"values that are not finite for {broken!r}", "numbers")


def _folded(
    folder: Folder,
    ids: list[str],
    audio: NDArray[np.float32],
    caption_clip: NDArray[np.int64],
    first: NDArray[np.intp],
) -> NDArray[np.float32]:
    """One row a clip, of its rows; refuses rows that are not of one recording."""
    folded = audio[first]
    apart = (
        _distance(audio, folded, caption_clip)
        > SAME_ROW * np.linalg.norm(folded, axis=1)[caption_clip]
    )
    differing = np.unique(caption_clip[apart])
    if not len(differing):
        return folded
    unit = bool(np.allclose(np.linalg.norm(audio, axis=1), 1, atol=1e-3))
    order = np.argsort(caption_clip, kind="stable")
    begins = np.searchsorted(caption_clip[order], differing)
    ends = np.searchsorted(caption_clip[order], differing, side="right")
    for clip, begin, end in zip(differing, begins, ends, strict=True):
        rows = order[begin:end]
        values = audio[rows].astype(np.float64)
        mean = values.mean(axis=0)
        lengths = np.linalg.norm(values, axis=1) * np.linalg.norm(mean)
        strange = values @ mean < LEAST_COSINE * lengths
        if strange.any() or not lengths.all():
            row = rows[int(np.argmax(strange))]
            got = f"values for {ids[row]!r} that point elsewhere than those of its clip"
            _refuse(
                folder, SNAPSHOT_AUDIO_NAME, got, "the same recording for all captions of a clip"
            )
        folded[clip] = mean / np.linalg.norm(mean) if unit else mean
    return folded


def _distance(
    audio: NDArray[np.float32], folded: NDArray[np.float32], caption_clip: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Of each row from its clip's, in blocks: no second copy of a large tensor."""
    blocks = range(0, len(audio), _BLOCK_ROWS)
    return np.concatenate(
        [
            np.linalg.norm(
                audio[b : b + _BLOCK_ROWS] - folded[caption_clip[b : b + _BLOCK_ROWS]], axis=1
            )
            for b in blocks
        ]
    )


def _header(
    folder: Folder, metadata: _Metadata, rows: dict[Side, NDArray[np.float32]]
) -> CacheHeader:
    source, own_name = metadata.metadata_source or "", folder.url.rstrip("/").rpartition("/")[2]
    split = split_named_in(source.rpartition("/")[2])
    if split == ALL and own_name in SPLITS:
        split = own_name
    settings: dict[Side, Settings] = {
        "audio": {
            "form": _FORM,
            "encoder": metadata.audio_encoder,
            "sample_rate": metadata.audio_sample_rate,
        },
        "text": {"form": _FORM, "encoder": metadata.text_encoder},
    }
    audio, text = (
        SideHeader(
            fingerprint=fingerprint(settings[side]),
            dim=rows[side].shape[1],
            settings=dict(settings[side]),
        )
        for side in SIDES
    )
    dataset = dataset_named_in(source) or own_name
    return CacheHeader(dataset=dataset, split=split, audio=audio, text=text)


def _manifest(header: CacheHeader, stored: CachedEmbeddings, metadata: _Metadata) -> Manifest:
    wanted: dict[Side, tuple[str, ...]] = {"audio": stored.clip_ids, "text": stored.caption_ids}
    audio, text = (
        SideManifest(
            fingerprint=header.side(side).fingerprint,
            generation=header.side(side).generation,
            dim=header.side(side).dim,
            wanted=wanted[side],
            failed=(),
            shards=(),
        )
        for side in SIDES
    )
    counts = Counts(
        clips=len(stored.clip_ids),
        captions=len(stored.caption_ids),
        clips_failed=0,
        captions_failed=0,
        captions_without_clip=0,
    )
    return Manifest(
        complete=True,
        dataset=header.dataset,
        split=header.split,
        source=metadata.metadata_source or "",
        counts=counts,
        audio=audio,
        text=text,
        verified={},
    )
