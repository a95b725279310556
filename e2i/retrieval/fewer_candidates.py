"""What a recall would be among fewer candidates, from the ranks among many.

Decides: of the wrong candidates, a number is drawn at random and the right one stays; the
expectation over all such draws follows from the rank alone (hypergeometric), so nothing is drawn.
It makes recalls of splits of different sizes comparable.

Conventions: one positive a query; N candidates that were ranked, M of them kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from e2i.errors import RetrievalInputError
from e2i.retrieval.ranks import PositiveRanks


def recall_among(ranks: PositiveRanks, k: int, candidates: int) -> NDArray[np.float64]:
    """Probability, per query, that its positive is among the first k of fewer candidates.

    Tied candidates count as every order of them does on average.

    Args:
        ranks: of one positive a query among N candidates.
        k: cut-off in [1, M].
        candidates: M, the positive among them, in [k, N].

    Returns:
        float64 (Q,).

    Raises:
        RetrievalInputError: a query has several positives, or k or M is out of range.
    """
    total = ranks.num_candidates
    if not 1 <= k <= candidates <= total or (ranks.num_positives != 1).any():
        raise RetrievalInputError(
            f"no recall among fewer candidates: got k {k}, {candidates} of {total} candidates and "
            f"up to {int(ranks.num_positives.max())} positives a query, expected k of at most the "
            "fewer candidates, these of at most all, and one positive. Choose others."
        )
    # found[g]: the chance that fewer than k of the g candidates above are drawn.
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])
    above = np.arange(total)[:, None]
    drawn = np.arange(k)[None, :]
    rest, left = total - 1 - above, candidates - 1 - drawn
    possible = (drawn <= above) & (left <= rest)
    ways = _log_choose(logs, above, np.minimum(drawn, above)) + _log_choose(
        logs, rest, np.minimum(left, rest)
    )
    whole = _log_choose(logs, np.array(total - 1), np.array(candidates - 1))
    found = np.where(possible, np.exp(ways - whole), 0.0).sum(axis=1)
    # The mean over the places that ties leave to the positive.
    summed = np.concatenate([[0.0], np.cumsum(found)])
    first = ranks.above[:, 0]
    behind = first + ranks.tied[:, 0]
    values: NDArray[np.float64] = (summed[behind] - summed[first]) / (behind - first)
    return values


def _log_choose(
    logs: NDArray[np.float64], many: NDArray[np.int64], few: NDArray[np.int64]
) -> NDArray[np.float64]:
    chosen: NDArray[np.float64] = logs[many] - logs[few] - logs[many - few]
    return chosen
