"""Random search: what each trial is trained with.

Decides: a trial's settings follow from the seed and its number alone, so every arm and budget is
tried with the same ones, and more trials leave the earlier ones where they are. Each setting has a
stream of its own, so that another range moves that setting only.

Source: Bergstra and Bengio, "Random search for hyper-parameter optimization", 2012.
"""

from __future__ import annotations

import hashlib
import math

from e2i.sweep.config import Bounds, SearchConfig

_UNIFORM = frozenset({"dropout"})


def drawn_settings(search: SearchConfig, seed: int, trial: int) -> dict[str, float]:
    """The settings of a trial (from 0), by name: `lr`, `weight_decay`, `temperature`, `dropout`."""
    return {
        name: _in_range(getattr(search, name), _share(seed, trial, name), log=name not in _UNIFORM)
        for name in type(search).model_fields
    }


def _share(seed: int, trial: int, name: str) -> float:
    """Uniform in [0, 1)."""
    digest = hashlib.sha256(f"{name}:{seed}:{trial}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def _in_range(bounds: Bounds, share: float, *, log: bool) -> float:
    low, high = bounds
    if not log:
        return low + share * (high - low)
    drawn = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    return min(max(drawn, low), high)
