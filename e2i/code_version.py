"""Which code computes here: the version of e2i, and a digest of its own source.

The version alone does not tell two checkouts apart; the digest does, whether they are committed or
not.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import e2i

_SHOWN = 16


@lru_cache(maxsize=1)
def code_version() -> dict[str, str]:
    """`e2i_version`, and `code_sha256` over the names and contents of the package's modules."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return {"e2i_version": e2i.__version__, "code_sha256": digest.hexdigest()[:_SHOWN]}
