"""Whether what is about to be written fits on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from e2i.errors import StorageFullError


def require_space(needs: Iterable[tuple[Path, int]], purpose: str) -> None:
    """Refuse to begin what cannot be finished.

    Args:
        needs: folders, which need not exist yet, and the bytes that each will take. Folders on one
            file system are added up.
        purpose: what the space is for, as in "no space is left to <purpose>".

    Raises:
        StorageFullError: a file system has less left than that.
    """
    needed: dict[int, int] = {}
    shown: dict[int, Path] = {}
    for folder, size_bytes in needs:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        device = existing.stat().st_dev
        needed[device] = needed.get(device, 0) + size_bytes
        shown.setdefault(device, existing)
    for device, size_bytes in needed.items():
        free = shutil.disk_usage(shown[device]).free
        if size_bytes > free:
            raise StorageFullError(
                f"too little space to {purpose}: got {in_words(free)} free in {shown[device]}, "
                f"expected at least {in_words(size_bytes)}. Free some, or choose another "
                "--data-root: what is there already is used."
            )


def in_words(size_bytes: int) -> str:
    """A size as people read it: `4.5 GB`."""
    size = float(size_bytes)
    for unit in ("bytes", "kB", "MB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
