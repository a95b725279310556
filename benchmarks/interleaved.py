"""Two ways to do one thing, timed in turns, so that a busy machine slows both alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

Way = Callable[[], object]


def seconds(way: Way) -> float:
    """Of one call."""
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


def compare(theirs: Way, ours: Way, rounds: int) -> tuple[float, float, float]:
    """Median seconds of either way, and the median over the rounds of how many times as fast."""
    seconds(theirs), seconds(ours)  # warm up
    pairs = [(seconds(theirs), seconds(ours)) for _ in range(rounds)]
    first, second = zip(*pairs, strict=True)
    ratio = statistics.median(their / our for their, our in pairs)
    return statistics.median(first), statistics.median(second), ratio
