"""Which chunks a run is at, so that runs side by side do not embed the same ones.

Conventions: a claim is an empty object named like the chunk, created before the chunk is begun. It
is no lock: who finds a chunk claimed leaves it for last, and embeds it then if nobody has stored
it, for its owner may be gone. So runs side by side repeat at most what they have in flight. Claims
are forgotten when the manifest is written.
"""

from __future__ import annotations

from e2i.cache.plan import AudioChunk, TextChunk
from e2i.storage import Folder

CLAIMS_FOLDER = "claims"


def claim(folder: Folder, chunk: AudioChunk | TextChunk) -> bool:
    """Claim a chunk; False if another run is at it, or was.

    Raises:
        StorageError: the store refused.
    """
    return folder.create(f"{CLAIMS_FOLDER}/{chunk.stamp.side}-{chunk.key}", b"")


def forget_claims(folder: Folder) -> None:
    """Delete all claims.

    Raises:
        StorageError: the store refused.
    """
    for file in folder.files(CLAIMS_FOLDER):
        folder.delete(file.name)
