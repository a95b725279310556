"""Learning rates: a linear warm-up by step, then half a cosine by epoch.

Source: Loshchilov and Hutter, "SGDR", 2017, eq. 5 without restarts, stepped once an epoch, as the
original does; the warm-up is that of Goyal et al., "Accurate, large minibatch SGD", 2017, 2.2.
"""

from __future__ import annotations

import math


def cosine_lr(lr: float, epoch: int, epochs: int) -> float:
    """Learning rate of an epoch (from 1): a half cosine from `lr` in the first towards 0."""
    return lr * 0.5 * (1.0 + math.cos(math.pi * (epoch - 1) / epochs))


def step_lrs(lr: float, epoch: int, epochs: int, warmup_epochs: int, steps: int) -> list[float]:
    """Learning rates of the steps of one epoch.

    Args:
        lr: the highest.
        epoch: from 1.
        epochs: of the whole training.
        warmup_epochs: in which the rate rises by step; fewer than `epochs`, 0 for none. The cosine
            has the epochs that are left.
        steps: of this epoch, taken to be those of each.
    """
    if epoch > warmup_epochs:
        return [cosine_lr(lr, epoch - warmup_epochs, epochs - warmup_epochs)] * steps
    before = (epoch - 1) * steps
    return [lr * (before + step + 1) / (warmup_epochs * steps) for step in range(steps)]
