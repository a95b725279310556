"""Which files make up Clotho, and their checksums.

Source: Zenodo record 4783391 (Clotho 2.1), https://zenodo.org/records/4783391.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from e2i.errors import ConfigError

_SUM_LINE = re.compile(r"\\?([0-9a-fA-F]{32}) [ *](.+)")


@dataclass(frozen=True, slots=True)
class RecordFile:
    """One file of a record.

    Attributes:
        name: its name, below the base address as well as on the disk.
        md5: 32 hexadecimal digits, lower case.
        unpacked_bytes: for an archive, about what it takes unpacked; 0 where that is not known.
    """

    name: str
    md5: str
    unpacked_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ArchiveRecord:
    """The files of a data set in Clotho's form.

    Attributes:
        archives: split to the 7z archive of its recordings.
        captions: split to its caption file.
    """

    archives: Mapping[str, RecordFile]
    captions: Mapping[str, RecordFile]


def _archive(split: str, md5: str, unpacked_bytes: int) -> RecordFile:
    return RecordFile(f"clotho_audio_{split}.7z", md5, unpacked_bytes)


def _captions(split: str, md5: str) -> RecordFile:
    return RecordFile(f"clotho_captions_{split}.csv", md5)


CLOTHO = ArchiveRecord(
    # Unpacked: 16 bit, 44.1 kHz, mono, 22 s a clip on average.
    archives={
        "development": _archive("development", "c8b05bc7acdb13895bb3c6a29608667e", 7_500_000_000),
        "validation": _archive("validation", "7dba730be08bada48bd15dc4e668df59", 2_000_000_000),
        "evaluation": _archive("evaluation", "4569624ccadf96223f19cb59fe4f849f", 2_000_000_000),
    },
    captions={
        "development": _captions("development", "d4090b39ce9f2491908eebf4d5b09bae"),
        "validation": _captions("validation", "5879e023032b22a2c930aaa0528bead4"),
        "evaluation": _captions("evaluation", "1b16b9e57cf7bdb7f13a13802aeb57e2"),
    },
)
"""The published record."""


def with_checksums(record: ArchiveRecord, text: str, source: str) -> ArchiveRecord:
    """The record with other MD5 sums: those of files that are named like the published ones.

    Args:
        record: whose names count.
        text: lines as md5sum writes them: `<sum>  <name>`; other files' lines are passed over.
        source: where the text comes from, for messages.

    Raises:
        ConfigError: a line is none of md5sum's, or none of them names a file of the record.
    """
    sums: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        found = _SUM_LINE.fullmatch(line.rstrip())
        if found is None:
            raise ConfigError(
                f"cannot read the checksums: got {line[:80]!r} in line {number} of {source}, "
                "expected 32 hexadecimal digits, two spaces and a name. Write them with md5sum."
            )
        sums[found[2].rpartition("/")[2]] = found[1].lower()

    def changed(files: Mapping[str, RecordFile]) -> dict[str, RecordFile]:
        return {
            split: replace(file, md5=sums[file.name], unpacked_bytes=0)
            if file.name in sums
            else file
            for split, file in files.items()
        }

    names = {file.name for file in (*record.archives.values(), *record.captions.values())}
    if not names & sums.keys():
        raise ConfigError(
            f"no checksum of a file of the record: got {len(sums)} other names in {source}, "
            f"expected some of {', '.join(sorted(names))}. Correct --checksums."
        )
    return ArchiveRecord(changed(record.archives), changed(record.captions))
