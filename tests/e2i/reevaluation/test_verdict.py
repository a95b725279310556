"""The rule of acceptance, case by case."""

from __future__ import annotations

import pytest

from e2i.reevaluation.config import ReevaluationConfig
from e2i.reevaluation.verdict import drop_in_words, judge
from e2i.retrieval.comparison import Difference

FIRST, OTHER, RANK = "text_to_audio_mAP@10", "audio_to_text_R@5", "text_to_audio_median_rank"
SAME = Difference(0.5, 0.5, 0.0, 0.0, 0.0, 1.0, 1.0)


def moved(by: float, p: float) -> Difference:
    return Difference(0.5 + by, 0.5, by, by - 0.1, by + 0.1, p, p)


@pytest.mark.parametrize(
    ("differences", "outcome", "accepted", "dropped"),
    [
        ({FIRST: SAME, OTHER: SAME}, "unchanged", True, ()),
        ({FIRST: moved(0.2, 0.001)}, "accepted", True, ()),
        ({FIRST: moved(-0.009, 0.6)}, "accepted", True, ()),
        ({FIRST: moved(-0.2, 0.05)}, "lower", False, ()),  # not more than luck, but much
        ({FIRST: moved(-0.009, 0.001)}, "lower", False, ()),  # more than luck, but little
        ({FIRST: moved(-0.02, 0.049)}, "dropped", False, (FIRST,)),
        ({FIRST: SAME, OTHER: moved(-0.2, 0.6)}, "accepted", True, ()),
        ({FIRST: moved(0.2, 0.001), OTHER: moved(-0.2, 0.001)}, "dropped", False, (OTHER,)),
        (
            {FIRST: moved(-0.2, 0.001), OTHER: moved(-0.3, 0.001)},
            "dropped",
            False,
            (OTHER, FIRST),
        ),
        ({FIRST: SAME, RANK: moved(-9.0, 0.001)}, "accepted", True, ()),  # another unit
        ({}, "incomparable", False, ()),
    ],
)
def test_what_a_comparison_comes_to(
    differences: dict[str, Difference], outcome: str, accepted: bool, dropped: tuple[str, ...]
) -> None:
    found = judge(differences, ReevaluationConfig(), moved=False, damaged=False)
    assert (found.outcome, found.accepted, found.dropped) == (outcome, accepted, dropped)
    assert found.failed == (outcome in ("dropped", "incomparable"))
    by_hand = judge(differences, ReevaluationConfig(accept=True), moved=False, damaged=False)
    assert (by_hand.outcome, by_hand.accepted, by_hand.failed) == (outcome, True, False)


def test_as_much_as_is_tolerated_is_tolerated() -> None:
    config = ReevaluationConfig(max_drop=0.125)
    for by, outcome in ((-0.125, "lower"), (-0.1251, "dropped")):
        assert (
            judge({FIRST: moved(by, 0.001)}, config, moved=False, damaged=False).outcome == outcome
        )


@pytest.mark.parametrize(
    ("moves", "damaged", "by", "outcome", "failed"),
    [
        (True, False, 0.0, "drifted", False),
        (True, False, -0.2, "dropped", True),
        (True, True, -0.2, "damaged", True),
        (False, True, 0.0, "damaged", True),
    ],
)
def test_what_moved_or_is_damaged_is_not_accepted(
    moves: bool, damaged: bool, by: float, outcome: str, failed: bool
) -> None:
    differences = {FIRST: moved(by, 0.001) if by else SAME}
    found = judge(differences, ReevaluationConfig(), moved=moves, damaged=damaged)
    assert (found.outcome, found.accepted, found.failed) == (outcome, False, failed)
    assert found.dropped == ((FIRST,) if by else ())
    by_hand = judge(differences, ReevaluationConfig(accept=True), moved=moves, damaged=damaged)
    assert (by_hand.accepted, by_hand.failed) == (not damaged, damaged)


def test_a_drop_is_told_with_its_interval() -> None:
    assert drop_in_words(FIRST, Difference(0.3, 0.5, -0.2, -0.27, -0.13, 0.0004, 0.0004)) == (
        "text_to_audio_mAP@10 fell by 0.200 (0.500 to 0.300, 95 % interval 0.130 to 0.270, "
        "p = 0.0004)"
    )
    assert drop_in_words(OTHER, Difference(0.3, 0.5, -0.2, None, None, 1.0, 1.0)) == (
        "audio_to_text_R@5 fell by 0.200 (0.500 to 0.300, p = 1.0000)"
    )
