"""Which code computes here, told by its bytes: a version number alone does not tell two states."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import e2i


@functools.cache
def code_sha256() -> str:
    """A digest of the library's source files, their names and bytes."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        for part in (path.relative_to(root).as_posix().encode(), path.read_bytes()):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def code_version() -> dict[str, str]:
    """The version and the digest, as logs and records have them."""
    return {"e2i_version": e2i.__version__, "code_sha256": code_sha256()}
