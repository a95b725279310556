"""The data card: `README.md` at the root of the data set.

Conventions: its metadata hold a license and one configuration a table (`audio`, `text`, and those
of pseudo-images), with one split an e2i split, so that the Hub's viewer and `load_dataset` of
`datasets` work at once. A folder whose name is its split shares the configurations of its siblings;
any other folder has its own, named after it. A card that is there already is kept: only the entries
of this folder are replaced in its metadata, and in its text the part between this folder's marks.

Source: https://huggingface.co/docs/hub/datasets-manual-configuration.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import e2i
from e2i.cache.header import CacheHeader
from e2i.cache.layout import SIDES, Side
from e2i.cache.reader import Cache
from e2i.encoders.protocols import Settings
from e2i.errors import StorageError

CARD_NAME = "README.md"

_LICENSES: dict[str, dict[str, str]] = {
    "clotho": {
        "license": "other",
        "license_name": "clotho",
        "license_link": "https://zenodo.org/records/4783391",
    }
}
"""By what the name of the data set holds: embeddings are under the terms of their recordings."""

_UNKNOWN_LICENSE = {"license": "unknown"}


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What the card says of one cache.

    Attributes:
        dataset: name of the data set.
        split: name of the split.
        settings: of the encoder, by side.
        fingerprints: likewise.
        dims: likewise.
        counts: what is in it, in words; empty while it is being made.
        tables: name of a table to the folder of its Parquet files, below the cache.
    """

    dataset: str
    split: str
    settings: Mapping[Side, Settings]
    fingerprints: Mapping[Side, str]
    dims: Mapping[Side, int]
    counts: tuple[str, ...]
    tables: Mapping[str, str]

    @classmethod
    def of_header(cls, header: CacheHeader, counts: tuple[str, ...] = ()) -> CardFacts:
        """Of a cache that is being made."""
        return cls(
            dataset=header.dataset,
            split=header.split,
            settings={side: header.side(side).settings for side in SIDES},
            fingerprints={side: header.side(side).fingerprint for side in SIDES},
            dims={side: header.side(side).dim for side in SIDES},
            counts=counts,
            tables={side: side for side in SIDES},
        )

    @classmethod
    def of(cls, cache: Cache, images: Iterable[str], *, with_shards: bool) -> CardFacts:
        """Of a finished cache.

        Args:
            cache: which.
            images: names of packs of pseudo-images.
            with_shards: whether its shards are in the data set.
        """
        manifest = cache.manifest
        counts = (
            f"{manifest.audio.stored:,} of {manifest.counts.clips:,} clips",
            f"{manifest.text.stored:,} of {manifest.counts.captions:,} captions",
        )
        facts = cls.of_header(cache.header, counts)
        tables = dict(facts.tables) if with_shards else {}
        for folder in sorted({name.rpartition("/")[0] for name in images}):
            tables[_slug(folder)] = folder
        return replace(facts, tables=tables)


def data_card(existing: bytes | None, prefix: str, facts: CardFacts) -> bytes:
    """The card with what is to be said of one cache.

    Args:
        existing: the card as it is; None where there is none.
        prefix: the folder of the cache in the data set; empty for its root.
        facts: what is to be said.

    Raises:
        StorageError: the existing card cannot be read.
    """
    from huggingface_hub import CardData  # noqa: PLC0415 - only a mirror needs it

    metadata, body = _parsed(existing or b"")
    metadata["configs"] = _with_tables(list(metadata.get("configs") or ()), prefix, facts)
    if "license" not in metadata:
        metadata = {**_license(facts.dataset), **metadata}
    body = body.strip() or f"# {facts.dataset}"
    text = f"---\n{CardData(**metadata).to_yaml()}\n---\n\n{_with_section(body, prefix, facts)}\n"
    return text.encode()


def speaks_of(existing: bytes | None, prefix: str) -> bool:
    """Whether a card has a part on the cache in this folder."""
    return existing is not None and _mark("begin", prefix).encode() in existing


def _parsed(existing: bytes) -> tuple[dict[str, Any], str]:
    """Metadata and text of a card; a card without metadata is text alone."""
    from huggingface_hub import RepoCard  # noqa: PLC0415

    try:
        text = existing.decode()
        if not text.startswith("---"):
            return {}, text
        card = RepoCard(text)
        metadata: dict[str, Any] = card.data.to_dict()  # type: ignore[no-untyped-call]
        return metadata, str(card.text)
    except Exception as error:  # what YAML by others raises
        raise StorageError(
            f"the data card cannot be read: got {type(error).__name__} in {CARD_NAME} of the data "
            "set, expected YAML between '---' lines, then text. Correct it on the Hub."
        ) from error


def _license(dataset: str) -> dict[str, str]:
    found = (terms for name, terms in _LICENSES.items() if name in dataset.lower())
    return next(found, _UNKNOWN_LICENSE)


def _with_tables(
    entries: list[dict[str, Any]], prefix: str, facts: CardFacts
) -> list[dict[str, Any]]:
    """The configurations, with those of this folder's tables in the place of what they were."""
    for table, folder in facts.tables.items():
        name = table if prefix in {"", facts.split} else f"{_slug(prefix)}-{table}"
        path = "/".join(part for part in (prefix, folder, "*.parquet") if part)
        split = {"split": re.sub(r"\W", "_", facts.split), "path": path}
        entry = next((e for e in entries if e.get("config_name") == name), None)
        if entry is None:
            entry = {"config_name": name, "data_files": []}
            entries.append(entry)
        held = entry.get("data_files")
        others = [
            file
            for file in (held if isinstance(held, list) else [])
            if isinstance(file, dict)
            and file.get("split") != split["split"]
            and file.get("path") != path
        ]
        entry["data_files"] = [*others, split]
    return entries


def _with_section(body: str, prefix: str, facts: CardFacts) -> str:
    begin, end = _mark("begin", prefix), _mark("end", prefix)
    section = f"{begin}\n{_section(prefix, facts)}\n{end}"
    before, found, rest = body.partition(begin)
    if found and end in rest:
        return before + section + rest.partition(end)[2]
    return f"{body}\n\n{section}"


def _section(prefix: str, facts: CardFacts) -> str:
    where = f"`{prefix}/`" if prefix else "the root"
    lines = [
        f"## {facts.dataset} {facts.split}",
        "",
        f"Embeddings of recordings and of their captions, in {where}, written by e2i "
        f"{e2i.__version__}.",
    ]
    if facts.counts:
        lines += ["", f"Holds {' and '.join(facts.counts)}."]
    lines += ["", "| | audio | text |", "|---|---|---|"]
    lines += [
        _row("dimensions", {side: str(facts.dims[side]) for side in SIDES}),
        _row("fingerprint", {side: f"`{facts.fingerprints[side]}`" for side in SIDES}),
    ]
    names = dict.fromkeys(name for side in SIDES for name in facts.settings[side])
    lines += [
        _row(name.replace("_", " "), {side: _value(facts.settings[side], name) for side in SIDES})
        for name in names
    ]
    return "\n".join(lines)


def _row(name: str, values: Mapping[Side, str]) -> str:
    return f"| {name} | {values['audio']} | {values['text']} |"


def _value(settings: Settings, name: str) -> str:
    value = settings.get(name)
    return "" if value is None else str(value).replace("|", "\\|")


def _mark(which: str, prefix: str) -> str:
    return f"<!-- e2i {which} {prefix or '/'} -->"


def _slug(name: str) -> str:
    """A folder as part of a name: `pseudo_images/audio` is `pseudo-images-audio`."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
