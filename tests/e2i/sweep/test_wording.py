"""The one sentence on top, for each way that a sweep can come out."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

from e2i.sweep.config import SweepConfig
from e2i.sweep.wording import about_the_scores, points, sentence


@dataclass
class _Difference:
    value: float
    reading: str


@dataclass
class _Outcome:
    arm: str
    budget: int
    difference: _Difference | None


def _said(*rows: tuple[str, int, float, str], margin: float = 0.02) -> str:
    budgets = {row[1] for row in rows}
    outcomes = [_Outcome("mlp", budget, None) for budget in budgets]
    outcomes += [_Outcome(arm, at, _Difference(value, how)) for arm, at, value, how in rows]
    return sentence(SweepConfig(margin=margin), outcomes)  # type: ignore[arg-type]


def test_where_nothing_beats_the_mlp_it_says_so() -> None:
    assert _said(
        ("linear", 1000, -0.001, "equivalent"),
        ("linear", 2000, -0.004, "equivalent"),
        ("cnn-native", 1000, -0.05, "worse"),
        ("cnn-native", 2000, -0.03, "worse"),
        ("cnn-128", 1000, -0.02, "undecided"),
        ("cnn-128", 2000, -0.03, "worse"),
    ) == (
        "By text→audio mAP@10, no head beats the MLP on the embedding at equal parameters; "
        "equivalent within 2 points: linear (\u22120.1 and \u22120.4); "
        "worse: CNN, native size (\u22125.0 and \u22123.0) and CNN, 128 px at 2,000 (\u22123.0); "
        "undecided: CNN, 128 px at 1,000 (\u22122.0)."
    )


def test_what_beats_the_mlp_comes_first() -> None:
    assert _said(
        ("cnn-128", 1000, 0.031, "better"), ("linear", 1000, 0.0, "equivalent"), margin=0.01
    ) == (
        "By text→audio mAP@10, the MLP on the embedding is beaten by CNN, 128 px (+3.1); "
        "equivalent within 1 point: linear (+0.0)."
    )


def test_points_have_a_sign() -> None:
    assert [points(value) for value in (0.0123, -0.5, 0.0)] == ["+1.2", "\u221250.0", "+0.0"]


def test_the_scores_say_whose_they_are() -> None:
    best = SimpleNamespace(arm="linear", matched=SimpleNamespace(parameters=49216))
    assert about_the_scores(best, 395) == (  # type: ignore[arg-type]
        "The scores are those of the best head by validation: linear of 49,216 parameters, the "
        "better one of its seeds by validation, after 395 steps."
    )
