"""What a sweep compares, and how hard it tries, without torch.

Conventions: everything that is not given takes a default, so an empty file is a whole sweep.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from e2i.configuration import Configuration

ArmName = Literal[
    "linear",
    "mlp",
    "mlp-decoded",
    "cnn-native",
    "cnn-128",
    "cnn-permuted",
    "cnn-unpooled",
]
"""The kinds of audio heads that are compared; `e2i.sweep.arms` says what each is."""

ALL_ARMS: tuple[ArmName, ...] = (
    "linear",
    "mlp",
    "mlp-decoded",
    "cnn-native",
    "cnn-128",
    "cnn-permuted",
    "cnn-unpooled",
)
REFERENCE: ArmName = "mlp"
"""The arm that all others are held against."""

SweepMetric = Literal[
    "text_to_audio_mAP@10",
    "text_to_audio_R@1",
    "text_to_audio_R@5",
    "text_to_audio_R@10",
    "audio_to_text_mAP@10",
    "audio_to_text_R@1",
    "audio_to_text_R@5",
    "audio_to_text_R@10",
]
"""Metrics that are means over queries, which is what seeds and clips can be drawn anew of."""

Bounds = tuple[float, float]


class SearchConfig(Configuration):
    """The ranges that random search draws from, lowest and highest value."""

    lr: Bounds = Field(
        (3e-4, 3e-2), description="Highest learning rate of a trial, drawn log-uniformly."
    )
    weight_decay: Bounds = Field(
        (1e-4, 0.3), description="Weight decay of AdamW, drawn log-uniformly."
    )
    temperature: Bounds = Field(
        (0.02, 0.2), description="Temperature of the contrastive softmax, drawn log-uniformly."
    )
    dropout: Bounds = Field(
        (0.0, 0.5), description="Share of hidden units dropped in training, drawn uniformly."
    )

    @model_validator(mode="after")
    def _are_ranges_of_what_training_takes(self) -> Self:
        limits = {
            "lr": (1e-8, 10.0),
            "weight_decay": (1e-12, 10.0),
            "temperature": (0.01, 1.0),
            "dropout": (0.0, 0.99),
        }
        for name, (least, most) in limits.items():
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                message = (
                    f"{name} is no range to draw from: got {low:g} to {high:g}, expected two "
                    f"numbers from {least:g} to {most:g}, the lower one first. Correct it."
                )
                raise ValueError(message)
        return self


class SweepConfig(Configuration):
    """Heads compared on equal terms: arms, budgets, trials, seeds, and the margin that counts."""

    arms: tuple[ArmName, ...] = Field(
        ALL_ARMS,
        min_length=2,
        description="Which audio heads are compared; 'mlp', which the others are held against, has "
        "to be among them.",
    )
    budgets: tuple[int, ...] = Field(
        (100_000, 400_000),
        min_length=1,
        max_length=10,
        description="Trainable parameters of an audio head; each arm's width is solved for each.",
    )
    tolerance: float = Field(
        0.02,
        gt=0.0,
        le=0.5,
        description="How far a head may be from its budget, as a share of it.",
    )
    trials: int = Field(
        12, ge=1, le=10_000, description="Trials of the random search, for each arm and budget."
    )
    seeds: int = Field(
        5, ge=2, le=100, description="Fresh seeds that each winner is trained with and scored on."
    )
    steps: int = Field(
        400,
        ge=1,
        le=10_000_000,
        description="Optimizer steps of a run, rounded to whole epochs, the same for all.",
    )
    batch_size: int = Field(
        128, ge=2, le=1_048_576, description="Pairs in a training batch, at most."
    )
    out_dim: int = Field(
        128, ge=1, le=65_536, description="Length of a projection, the same in all arms."
    )
    convolution_share: float = Field(
        0.5,
        gt=0.0,
        lt=1.0,
        description="Share of a CNN's budget that its convolutions take, at most; the layers "
        "behind them take the rest.",
    )
    standardize_input: bool = Field(
        True,
        description="Give each dimension of the embeddings mean 0 and deviation 1 over the "
        "training clips; pseudo-images are folded from what comes out.",
    )
    metric: SweepMetric = Field(
        "text_to_audio_mAP@10",
        description="What epochs and winners are selected by on validation, and arms compared by.",
    )
    margin: float = Field(
        0.02,
        gt=0.0,
        lt=1.0,
        description="Margin of equivalence: a difference of the metric that is known to be smaller "
        "counts as none.",
    )
    resamples: int = Field(
        10_000,
        ge=100,
        le=1_000_000,
        description="Resamples of seeds and clips behind the intervals of the differences.",
    )
    search: SearchConfig = Field(
        SearchConfig(), description="The ranges that the trials' settings are drawn from."
    )
    seed: int = Field(
        13,
        ge=0,
        lt=2**31,
        description="Of the search, of its trials, of the cells' permutation and of the parts held "
        "out; the winners' fresh seeds are those behind it.",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="What training multiplies in, in all arms."
    )
    device: str = Field(
        "auto", min_length=1, description="auto, cpu, cuda, cuda:<n> or mps; auto takes the best."
    )

    @model_validator(mode="after")
    def _can_be_compared(self) -> Self:
        faults = []
        if REFERENCE not in self.arms:
            faults.append(
                f"nothing to compare with: got arms {', '.join(self.arms)}, expected "
                f"'{REFERENCE}' among them. Add it."
            )
        for name in ("arms", "budgets"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                faults.append(
                    f"{name} stand twice: got {', '.join(map(str, values))}, expected each once. "
                    "Take one out."
                )
        if min(self.budgets) < 1:
            faults.append(
                f"a budget without parameters: got {min(self.budgets)}, expected at least 1. "
                "Raise it."
            )
        if faults:
            raise ValueError("\n".join(faults))
        return self
