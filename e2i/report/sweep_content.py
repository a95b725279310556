"""All that the report of a sweep shows, as plain values; and the same as JSON.

Conventions: scores are fractions; differences are an arm's score less that of the MLP on the
embedding at the same budget.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

import e2i
from e2i.cache.embeddings import CachedEmbeddings
from e2i.report.provenance import Facts
from e2i.report.wording import metric_words
from e2i.sweep.arms import ARM_EXPLANATIONS, ARM_WORDS
from e2i.sweep.best import FEWER_KEY, BestHead
from e2i.sweep.config import SweepConfig
from e2i.sweep.data import SweepData
from e2i.sweep.outcome import ArmOutcome
from e2i.sweep.runs import steps_an_epoch
from e2i.sweep.wording import sentence

BEST_KEYS = (
    "text_to_audio_R@1",
    "text_to_audio_R@10",
    FEWER_KEY,
    "text_to_audio_mAP@10",
    "audio_to_text_R@10",
)
"""Scores that are stated of the best head, where it has them."""


@dataclass(frozen=True, slots=True)
class SweepContent:
    """What the report of a sweep shows.

    Attributes:
        config: of the sweep.
        sentence: what came out.
        metric: that is compared, in words.
        outcomes: budget by budget, in the order of the arms.
        best: the best head in more ways.
        steps: optimizer steps of a run.
        split: data set and split of the evaluation.
        num_clips: of the evaluation.
        num_captions: of the evaluation.
        notes: what was held out or left out.
        provenance: facts by title.
        date: when it was made, as it is shown.
    """

    config: SweepConfig
    sentence: str
    metric: str
    outcomes: tuple[ArmOutcome, ...]
    best: BestHead
    steps: int
    split: tuple[str, str]
    num_clips: int
    num_captions: int
    notes: tuple[str, ...]
    provenance: Mapping[str, Facts]
    date: str

    def at(self, budget: int) -> tuple[ArmOutcome, ...]:
        """The arms at one budget."""
        return tuple(one for one in self.outcomes if one.budget == budget)

    def summary(self) -> dict[str, object]:
        """The short of it, for a run's own summary."""
        return {
            "sentence": self.sentence,
            "best": self.best.outcome.runs[0].name.partition("-winner-")[0],
            "variants": {
                name: {key: asdict(score) for key, score in scores.items()}
                for name, scores in self.best.variants.items()
            },
            "differences": [
                {"arm": one.arm, "budget": one.budget, **asdict(one.difference)}
                for one in self.outcomes
                if one.difference is not None
            ],
        }

    def as_json(self) -> dict[str, object]:
        """Everything that the page shows, and the values behind its plots."""
        return {
            "kind": "e2i sweep",
            "e2i_version": e2i.__version__,
            "date": self.date,
            "sentence": self.sentence,
            "config": self.config.model_dump(mode="json"),
            "data": {
                "dataset": self.split[0],
                "split": self.split[1],
                "num_clips": self.num_clips,
                "num_captions": self.num_captions,
            },
            "notes": list(self.notes),
            "steps": self.steps,
            "arms": [self._arm(one) for one in self.outcomes],
            **{key: value for key, value in self.summary().items() if key != "sentence"},
            "provenance": {title: dict(facts) for title, facts in self.provenance.items()},
        }

    def _arm(self, one: ArmOutcome) -> dict[str, object]:
        metric = self.config.metric
        return {
            "arm": one.arm,
            "words": ARM_WORDS[one.arm],
            "explanation": ARM_EXPLANATIONS[one.arm],
            "budget": one.budget,
            "parameters": one.matched.parameters,
            "is_matched": one.matched.is_matched,
            "text_parameters": one.matched.text_parameters,
            "flops_a_clip": one.matched.flops,
            "flops_a_caption": one.matched.text_flops,
            "heads": one.runs[0].heads.model_dump(mode="json"),
            "training": one.runs[0].training.model_dump(mode="json", exclude={"seed"}),
            "winner": one.winner,
            "trials": list(one.trial_values),
            "trials_diverged": one.num_diverged,
            "expected_best": list(one.curve),
            "seconds_a_run": one.seconds,
            "epochs": one.epochs,
            "seeds": [run.training.seed for run in one.runs],
            "fingerprints": [result.fingerprint for result in one.results],
            "validation": [dict(result.validation) for result in one.results],
            "evaluation": [dict(result.evaluation) for result in one.results],
            "mean": one.mean(metric),
            "deviation": one.deviation(metric),
            "difference": None if one.difference is None else asdict(one.difference),
        }


def sweep_content(
    config: SweepConfig,
    data: SweepData,
    outcomes: Sequence[ArmOutcome],
    best: BestHead,
    *,
    notes: Sequence[str],
    date: str,
) -> SweepContent:
    """Gather what the report shows.

    Args:
        config: of the sweep.
        data: that it worked on.
        outcomes: every arm at every budget.
        best: the best head in more ways.
        notes: what was held out or left out.
        date: when it was made, as it is to be shown.
    """
    evaluation = data.evaluation
    epochs = outcomes[0].epochs
    return SweepContent(
        config=config,
        sentence=sentence(config, outcomes),
        metric=metric_words(config.metric),
        outcomes=tuple(outcomes),
        best=best,
        steps=epochs * steps_an_epoch(data, config.batch_size),
        split=(evaluation.dataset, evaluation.split),
        num_clips=len(evaluation.clip_ids),
        num_captions=len(evaluation.caption_ids),
        notes=tuple(notes),
        provenance=_provenance(config, data, outcomes, epochs),
        date=date,
    )


def _provenance(
    config: SweepConfig, data: SweepData, outcomes: Sequence[ArmOutcome], epochs: int
) -> dict[str, Facts]:
    devices = sorted({result.device for one in outcomes for result in one.results})
    searched = {
        name: f"{low:g} to {high:g}" for name, (low, high) in config.search.model_dump().items()
    }
    return {
        "Data": {
            "training": "; ".join(_words(cache) for cache in data.train),
            "validation": _words(data.validation),
            "evaluation": _words(data.evaluation),
            "audio fingerprint": data.train[0].audio_fingerprint,
            "text fingerprint": data.train[0].text_fingerprint,
            "digest": data.digest[:16],
        },
        "Terms": {
            "steps of a run": f"{epochs * steps_an_epoch(data, config.batch_size):,} "
            f"({epochs} epoch{'' if epochs == 1 else 's'})",
            "batch size": str(config.batch_size),
            "trials": f"{config.trials} for each arm and budget, the same settings for all",
            "fresh seeds": f"{config.seeds} ({config.seed + 1} to {config.seed + config.seeds})",
            "search": "; ".join(f"{name.replace('_', ' ')} {it}" for name, it in searched.items()),
            "length of a projection": str(config.out_dim),
            "inputs standardized": "yes" if config.standardize_input else "no",
            "convolutions' share of a budget": f"at most {100 * config.convolution_share:g} %",
            "tolerance of the budgets": f"{100 * config.tolerance:g} %",
            "text head": f"MLP, {' and '.join(_text_sizes(outcomes))} parameters, the same in all "
            "arms of a budget",
        },
        "Machine": {
            "device": ", ".join(devices),
            "threads": str(torch.get_num_threads()),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "e2i": e2i.__version__,
            "time of all runs": f"{_total_seconds(outcomes, config) / 60:.1f} min",
        },
    }


def _text_sizes(outcomes: Sequence[ArmOutcome]) -> list[str]:
    return list(dict.fromkeys(f"{one.matched.text_parameters:,}" for one in outcomes))


def _total_seconds(outcomes: Sequence[ArmOutcome], config: SweepConfig) -> float:
    return float(np.sum([one.seconds * (config.trials + config.seeds) for one in outcomes]))


def _words(cache: CachedEmbeddings) -> str:
    return (
        f"{cache.dataset}/{cache.split}: {len(cache.clip_ids):,} clips, "
        f"{len(cache.caption_ids):,} captions"
    )
