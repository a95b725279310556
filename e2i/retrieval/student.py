"""Student's t distribution: its upper tail, and the value that leaves a given tail.

Decides: with t = √ν tan θ the density becomes cos^(ν - 1) θ, which Gauss-Legendre quadrature
integrates to 1e-7 for any ν of at least 1, whole or not.

Source: Abramowitz and Stegun, "Handbook of mathematical functions", 26.7.1.
"""

from __future__ import annotations

import math

import numpy as np

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)
_MOST_DEGREES = 1e6
"""Beyond these t is a normal value to 1e-6, and the normal tail is taken."""


def upper_tail(t: float, degrees: float) -> float:
    """P(T > t) with `degrees` of freedom, at least 1; infinite t is allowed."""
    if math.isinf(t):
        return 0.0 if t > 0 else 1.0
    if t < 0:
        return 1.0 - upper_tail(-t, degrees)
    if degrees > _MOST_DEGREES:
        return 0.5 * math.erfc(t / math.sqrt(2.0))
    start = math.atan(t / math.sqrt(degrees))
    half = (math.pi / 2 - start) / 2
    cosines = np.cos(start + half * (1.0 + _NODES))
    area = half * float(_WEIGHTS @ np.power(np.maximum(cosines, 0.0), degrees - 1.0))
    scale = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - 0.5 * math.log(math.pi)
    return min(1.0, math.exp(scale) * area)


def quantile(tail: float, degrees: float) -> float:
    """The t that leaves `tail`, in (0, 0.5], above it."""
    low, high = 0.0, 1.0
    while upper_tail(high, degrees) > tail:
        low, high = high, 2.0 * high
    for _ in range(100):
        middle = (low + high) / 2.0
        if upper_tail(middle, degrees) > tail:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0
