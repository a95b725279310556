"""File names of pseudo-images: readable, and different for different ids.

Conventions: `<side>_<readable part of the id>-<16 hexadecimal digits>.png`, in letters, digits,
`_`, `.` and `-` alone. The digits are a SHA-256 over the whole id: ids that differ only in what
the readable part drops (`#`, `[`, `&#39;`), in letter case (on file systems that ignore it), or
behind the part that is kept, still get names of their own.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Literal

Side = Literal["audio", "text"]
"""Whose embedding it is: a clip's or a caption's."""

_READABLE_LENGTH = 120
_HASH_LENGTH = 16
_NAME = re.compile(rf"(audio|text)_[A-Za-z0-9_.-]*-[0-9a-f]{{{_HASH_LENGTH}}}\.png")


def png_name(side: Side, item_id: str) -> str:
    """Name of the PNG of a clip or a caption, at most 147 bytes.

    Args:
        side: whose embedding it is.
        item_id: clip id or caption id; any text, lone surrogates of undecodable file names too.
    """
    digest = hashlib.sha256(item_id.encode("utf-8", "surrogatepass")).hexdigest()
    plain = unicodedata.normalize("NFKD", item_id).encode("ascii", "ignore").decode()
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", plain)[:_READABLE_LENGTH].strip("_.-")
    return f"{side}_{readable}-{digest[:_HASH_LENGTH]}.png"


def is_png_name(name: str) -> bool:
    """Whether a file name has the form that `png_name` gives."""
    return _NAME.fullmatch(name) is not None
