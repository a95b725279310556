"""How many cores this process may use: those it may run on, and its share of their time.

Conventions: a share (the CPU quota of a container) counts in whole cores, rounded up.

Source: the Linux kernel's documentation of control groups, version 1 (cpu.cfs_quota_us) and 2
(cpu.max).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(share) for share in _shares())]))


def _shares() -> Iterator[float]:
    """Cores' worth of time of each group that this process is in."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            root = _GROUPS
        elif "cpu" in controllers.split(","):
            root = _GROUPS / "cpu"
        else:
            continue
        # A container sees its own group as the root, whatever its path is outside.
        place = root / path.lstrip("/")
        for folder in [place, *place.parents]:
            if folder.is_relative_to(root) and (share := _share(folder)) is not None:
                yield share


def _share(folder: Path) -> float | None:
    """The quota of one group in periods; None where it has none."""
    for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        try:
            quota, period = " ".join((folder / name).read_text() for name in names).split()
            if int(quota) > 0:
                return int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return None
