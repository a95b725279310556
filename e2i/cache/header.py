"""`cache.json`: what a cache is a cache of, written before anything else.

Conventions: each side (audio, text) carries its encoder's settings, their fingerprint and a
generation. A stored row counts only under the fingerprint and the generation that stand here, so
replacing a side is one step: another generation, by compare-and-swap. The rows of earlier
generations stay where they are, uncounted, until they are pruned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from e2i.cache.layout import (
    HEADER_NAME,
    SIDES,
    SNAPSHOT_NAMES,
    Document,
    Side,
    parse_document,
)
from e2i.encoders.protocols import AudioEncoder, Settings, TextEncoder, fingerprint
from e2i.errors import (
    CacheError,
    CacheNotFoundError,
    FingerprintMismatchError,
    StaleWriteError,
    StorageNotFoundError,
)
from e2i.storage import Folder

_ATTEMPTS = 10
_ABSENT = "none"


@dataclass(frozen=True, slots=True)
class SideSettings:
    """What one side of a cache is made with.

    Attributes:
        settings: all that changes the encoder's values, by name.
        dim: D, length of an embedding.
        store_windows: whether each window's embedding is stored too. It changes no embedding, so
            it is not in the fingerprint.
    """

    settings: Settings
    dim: int
    store_windows: bool = False

    @classmethod
    def of(
        cls, encoder: AudioEncoder | TextEncoder, *, store_windows: bool = False
    ) -> SideSettings:
        """The settings of an encoder at hand."""
        return cls(dict(encoder.settings), encoder.dim, store_windows)

    @property
    def fingerprint(self) -> str:
        """Short hash over the settings."""
        return fingerprint(self.settings)


class SideHeader(Document):
    """One side, as `cache.json` has it."""

    fingerprint: str
    dim: int
    dtype: Literal["float32"] = "float32"
    generation: int = 0
    settings: dict[str, str | int | float | bool | None]
    store_windows: bool = False


class CacheHeader(Document):
    """`cache.json`.

    Attributes:
        forced_by: the run that last replaced a side by force, so that a retry of the same run does
            not do so again.
    """

    schema_version: Literal[1] = 1
    dataset: str
    split: str
    audio: SideHeader
    text: SideHeader
    forced_by: str | None = None

    def side(self, side: Side) -> SideHeader:
        """The audio side or the text side."""
        return self.audio if side == "audio" else self.text


def read_header(folder: Folder) -> CacheHeader:
    """What the cache is a cache of.

    Raises:
        CacheNotFoundError: there is no cache.
        CacheCorruptError: `cache.json` cannot be read.
        SchemaVersionError: another version of e2i wrote it.
    """
    return _read_versioned(folder)[0]


def ensure_header(
    folder: Folder,
    dataset: str,
    split: str,
    sides: Mapping[Side, SideSettings],
    *,
    force: bool = False,
    force_token: str | None = None,
) -> CacheHeader:
    """The header of a cache for these settings, created where there is none.

    Args:
        folder: the cache.
        dataset: name of the data set.
        split: name of the split.
        sides: what is wanted of each side.
        force: replace the sides whose settings differ, or both where none differs.
        force_token: names the run that forces; with the same token a side is replaced only once.

    Raises:
        CacheError: the folder holds another data set or split, or embeddings without a header.
        FingerprintMismatchError: settings differ and `force` is off.
        StaleWriteError: others keep replacing the header.
    """
    for _ in range(_ATTEMPTS):
        if folder.info(HEADER_NAME) is None:
            first = _create(folder, dataset, split, sides, force_token)
            if first is not None:
                return first
        stored, version = _read_versioned(folder)
        _check_identity(folder, stored, dataset, split)
        header = _reconciled(folder, stored, sides, force=force, force_token=force_token)
        if header == stored:
            return stored
        try:
            folder.replace(HEADER_NAME, header.as_bytes(), version)
        except StaleWriteError:
            continue
        return header
    raise StaleWriteError(
        f"{folder.url}/{HEADER_NAME} keeps changing: got {_ATTEMPTS} writes by others, expected "
        "one run to force at a time. End the others and run again."
    )


def check_header(
    folder: Folder, dataset: str, split: str, sides: Mapping[Side, SideSettings]
) -> CacheHeader:
    """The stored header, which must be one for these settings; writes nothing.

    Raises:
        CacheNotFoundError: there is no cache.
        CacheError: it is one of another data set or split.
        FingerprintMismatchError: settings differ.
    """
    stored = read_header(folder)
    _check_identity(folder, stored, dataset, split)
    return _reconciled(folder, stored, sides, force=False, force_token=None)


def _read_versioned(folder: Folder) -> tuple[CacheHeader, str]:
    try:
        data, version = folder.read_versioned(HEADER_NAME)
    except StorageNotFoundError as error:
        raise CacheNotFoundError(
            f"there is no cache: got {folder.url}, expected a folder with {HEADER_NAME}. Make one "
            "with `e2i cache-embeddings`, or correct --cache-dir."
        ) from error
    return parse_document(CacheHeader, data, f"{folder.url}/{HEADER_NAME}"), version


def _create(
    folder: Folder,
    dataset: str,
    split: str,
    sides: Mapping[Side, SideSettings],
    force_token: str | None,
) -> CacheHeader | None:
    """Write a first header; None if somebody else did in the meantime."""
    foreign = [name for name in SNAPSHOT_NAMES if folder.info(name) is not None]
    if foreign:
        raise CacheError(
            f"the cache folder holds embeddings that e2i did not write: got {foreign[0]} and no "
            f"{HEADER_NAME} in {folder.url}, expected a cache or an empty folder. Choose another "
            "--cache-dir."
        )
    audio, text = (
        SideHeader(
            fingerprint=want.fingerprint,
            dim=want.dim,
            settings=dict(want.settings),
            store_windows=want.store_windows,
        )
        for want in (sides["audio"], sides["text"])
    )
    header = CacheHeader(
        dataset=dataset, split=split, audio=audio, text=text, forced_by=force_token
    )
    return header if folder.create(HEADER_NAME, header.as_bytes()) else None


def _check_identity(folder: Folder, stored: CacheHeader, dataset: str, split: str) -> None:
    if (stored.dataset, stored.split) != (dataset, split):
        raise CacheError(
            f"the cache holds another data set or split: got {dataset!r}, {split!r}, expected "
            f"{stored.dataset!r}, {stored.split!r} as stored in {folder.url}. Choose another "
            "--cache-dir."
        )


def _reconciled(
    folder: Folder,
    stored: CacheHeader,
    sides: Mapping[Side, SideSettings],
    *,
    force: bool,
    force_token: str | None,
) -> CacheHeader:
    """The header that is to stand: the stored one, or with the sides that `force` replaces."""
    differing = {
        side: found for side in SIDES if (found := _differences(stored.side(side), sides[side]))
    }
    already = force_token is not None and stored.forced_by == force_token
    if differing and (not force or already):
        raise FingerprintMismatchError(_mismatch_text(folder, differing))
    if not force or already:
        return stored
    replaced: dict[str, object] = {
        side: SideHeader(
            fingerprint=sides[side].fingerprint,
            dim=sides[side].dim,
            generation=stored.side(side).generation + 1,
            settings=dict(sides[side].settings),
            store_windows=sides[side].store_windows,
        )
        for side in (differing or SIDES)
    }
    return stored.model_copy(update={**replaced, "forced_by": force_token})


def _differences(stored: SideHeader, wanted: SideSettings) -> list[tuple[str, str, str]]:
    """Field, wanted value, stored value of all that differs."""
    alike = stored.fingerprint == wanted.fingerprint and stored.dim == wanted.dim
    if alike and stored.store_windows == wanted.store_windows:
        return []
    have, want = dict(stored.settings), dict(wanted.settings)
    found = [
        (name, _shown(want, name), _shown(have, name))
        for name in sorted(have.keys() | want.keys())
        if _shown(want, name) != _shown(have, name)
    ]
    if stored.dim != wanted.dim:
        found.append(("dim", str(wanted.dim), str(stored.dim)))
    if stored.store_windows != wanted.store_windows:
        found.append(("store_windows", str(wanted.store_windows), str(stored.store_windows)))
    return found or [("fingerprint", wanted.fingerprint, stored.fingerprint)]


def _shown(settings: Settings, name: str) -> str:
    return repr(settings[name]) if name in settings else _ABSENT


def _mismatch_text(folder: Folder, differing: Mapping[Side, list[tuple[str, str, str]]]) -> str:
    got = "; ".join(
        f"{side} " + ", ".join(f"{name} = {want}" for name, want, _ in fields)
        for side, fields in differing.items()
    )
    expected = "; ".join(
        f"{side} " + ", ".join(f"{name} = {have}" for name, _, have in fields)
        for side, fields in differing.items()
    )
    which = " and ".join(differing)
    return (
        f"the cache was made with other encoder settings: got {got}, expected {expected} as stored "
        f"in {folder.url}. Use --force to embed the {which} side again, or another --cache-dir."
    )
