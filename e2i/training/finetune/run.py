"""Epochs of fine-tuning: pass the batches, score, keep the best weights, hand over the state.

Decides: a run is its state, at any step: one restored from it goes on as the one that it was taken
from, to the same weights, since all that is drawn depends on seed, epoch and step. The scores of
an epoch are those of `e2i.training.selection`, which heads on a cache are chosen by.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
from lightning.fabric import Fabric
from pydantic import TypeAdapter
from torch import Tensor, nn

from e2i.errors import RunFailedError
from e2i.heads.build import ProjectionHeads
from e2i.heads.cnn import UnsetBatchNorm
from e2i.training.epochs import EpochRecord
from e2i.training.finetune.batching import Batches, BatchPlans
from e2i.training.finetune.config import FinetuneConfig
from e2i.training.finetune.encoders import EncoderPair
from e2i.training.finetune.fabric import loss_scaler
from e2i.training.finetune.optimizer import Schedule, set_lr
from e2i.training.finetune.step import Batch, Learner
from e2i.training.selection import chosen_by, is_better
from e2i.training.state import TrainingState

Score = Callable[[], dict[str, float]]
"""Scores the validation clips with the weights as they are."""

_history = TypeAdapter(list[EpochRecord])
_counts = TypeAdapter(list[int])


@dataclass(frozen=True, slots=True)
class Parts:
    """What a run is made of.

    Attributes:
        encoders: on the device.
        heads: on the device.
        learner: makes gradients of batches.
        optimizer: of all that is trained.
        take_step: takes a step of it, as the precision has it.
        plans: the batches of each epoch.
        batches: what the encoders are given of them.
        score: scores the validation clips.
    """

    encoders: EncoderPair
    heads: ProjectionHeads
    learner: Learner
    optimizer: torch.optim.Optimizer
    take_step: Callable[[], object]
    plans: BatchPlans
    batches: Batches
    score: Score


@dataclass(slots=True)
class Place:
    """How far a run is.

    Attributes:
        epoch: the one in hand, from 1.
        batch: batches of it that have passed.
        loss: sum of their losses, each times its pairs.
        seconds: that they took.
    """

    epoch: int = 1
    batch: int = 0
    loss: float = 0.0
    seconds: float = 0.0


@dataclass(slots=True)
class FinetuneRun:
    """A run, from its beginning or from a state.

    Attributes:
        fabric: launched.
        config: how it is trained.
        parts: what it is made of.
        history: the epochs passed so far.
        best_weights: of the best of them, on the CPU.
        place: how far it is.
    """

    fabric: Fabric
    config: FinetuneConfig
    parts: Parts
    history: list[EpochRecord] = field(default_factory=list)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    place: Place = field(default_factory=Place)

    @property
    def best(self) -> EpochRecord | None:
        """The epoch whose weights are kept; None before the first."""
        return next((record for record in reversed(self.history) if record.is_best), None)

    @property
    def is_over(self) -> bool:
        """Whether all epochs have passed."""
        return len(self.history) >= self.config.epochs

    def epoch(self, save: Callable[[], None], on_batch: Callable[[int], None]) -> EpochRecord:
        """Pass what is left of the epoch in hand, score, keep the weights if they are the best.

        Args:
            save: stores the state; called every `save_every` steps.
            on_batch: told of batches passed.
        """
        place = self.place
        plan = self.parts.plans.epoch(place.epoch)
        schedule = Schedule.of(self.config, self._steps(len(plan.sizes)))
        self.parts.encoders.train()
        started, waiting = time.perf_counter(), []
        for batch in self.parts.batches.of(plan, place.epoch, place.batch):
            waiting.append(batch)
            ends = place.batch + len(waiting) == len(plan.sizes)
            if len(waiting) < self.config.accumulate and not ends:
                continue
            self._step(waiting, schedule, len(plan.sizes))
            on_batch(len(waiting))
            place.batch += len(waiting)
            waiting = []
            step = place.batch // self.config.accumulate
            if not ends and step % self.config.save_every == 0:
                place.seconds += time.perf_counter() - started
                started = time.perf_counter()
                save()
        place.seconds += time.perf_counter() - started
        return self._ended(len(plan.order), schedule)

    def _steps(self, num_batches: int) -> int:
        return -(-num_batches // self.config.accumulate)

    def _step(self, batches: list[Batch], schedule: Schedule, num_batches: int) -> None:
        """One optimizer step, of one batch or of several whose gradients are averaged."""
        config, parts, place = self.config, self.parts, self.place
        step = (place.epoch - 1) * self._steps(num_batches) + place.batch // config.accumulate
        lr = schedule.lr(step)
        set_lr(parts.optimizer, lr)
        parts.optimizer.zero_grad(set_to_none=True)
        for index, batch in enumerate(batches):
            # A place of its own for each batch, so that each has draws of its own.
            at = (place.epoch - 1) * num_batches + place.batch + index
            loss = parts.learner.backward(
                batch, at, share=1 / len(batches), last=index == len(batches) - 1
            )
            place.loss += float(loss) * len(batch.clip)
        if not math.isfinite(place.loss):
            message = (
                f"training diverged in epoch {place.epoch}: got a loss of {place.loss}, expected a "
                f"finite number. Train with a lower --max-lr than {config.max_lr:g}."
            )
            raise RunFailedError(message)
        parts.learner.average_head_gradients()
        if config.grad_clip_norm:
            self.fabric.clip_gradients(
                parts.heads,
                parts.optimizer,
                max_norm=config.grad_clip_norm,
                error_if_nonfinite=False,
            )
        parts.take_step()
        if config.learn_temperature:
            parts.heads.clamp_logit_scale()

    def _ended(self, num_pairs: int, schedule: Schedule) -> EpochRecord:
        """The end of an epoch: scores, and the weights if they are the best so far."""
        place, config = self.place, self.config
        started = time.perf_counter()
        metrics = self.parts.score()
        metric = chosen_by(config.selection_metric, metrics)
        best = self.best
        is_best = is_better(metric, metrics[metric], None if best is None else best.metrics[metric])
        if is_best:
            self.best_weights = self.weights()
        last_step = place.epoch * self._steps(place.batch) - 1
        self.history.append(
            EpochRecord(
                epoch=place.epoch,
                num_epochs=config.epochs,
                lr=schedule.lr(last_step),
                train_loss=place.loss / num_pairs,
                metrics=metrics,
                is_best=is_best,
                seconds=place.seconds + time.perf_counter() - started,
                pairs_per_s=num_pairs / max(place.seconds, 1e-9),
            )
        )
        self.place = Place(epoch=place.epoch + 1)
        return self.history[-1]

    def weights(self) -> dict[str, Tensor]:
        """All weights, trained or frozen, as copies on the CPU."""
        named = {
            **_named("audio", self.parts.encoders.audio),
            **_named("text", self.parts.encoders.text),
            **_named("heads", self.parts.heads),
        }
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in named.items()}

    def take(self, weights: dict[str, Tensor]) -> None:
        """Take weights as `weights` gives them."""
        sides = {
            "audio": self.parts.encoders.audio,
            "text": self.parts.encoders.text,
            "heads": self.parts.heads,
        }
        for side, module in sides.items():
            module.load_state_dict(_below(weights, side))

    def state(self) -> TrainingState:
        """All that the rest of the run depends on, as copies."""
        tensors = {f"model.{name}": tensor for name, tensor in self.weights().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best_weights.items()}
        for index, moments in self.parts.optimizer.state_dict()["state"].items():
            for name, value in moments.items():
                tensors[f"optimizer.{index}.{name}"] = value.detach().to("cpu", copy=True)
        scaler = loss_scaler(self.fabric)
        content: dict[str, object] = {
            "history": [asdict(record) for record in self.history],
            "place": asdict(self.place),
            "batches_seen": [norm.batches_seen for norm in self._norms()],
            "scaler": scaler.state_dict() if scaler is not None else {},
        }
        return TrainingState(tensors, content)

    def restore(self, state: TrainingState) -> None:
        """Become the run that the state was taken from, which has to be of the same fingerprint."""
        self.take(state.below("model"))
        self.best_weights = state.below("best")
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in state.below("optimizer").items():
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = tensor
        optimizer = self.parts.optimizer.state_dict()
        self.parts.optimizer.load_state_dict({**optimizer, "state": moments})
        seen = _counts.validate_python(state.content["batches_seen"])
        for norm, batches in zip(self._norms(), seen, strict=True):
            norm.batches_seen = batches
        scaler, stored = loss_scaler(self.fabric), state.content["scaler"]
        if scaler is not None and isinstance(stored, dict) and stored:
            scaler.load_state_dict(stored)
        self.history = _history.validate_python(state.content["history"])
        self.place = TypeAdapter(Place).validate_python(state.content["place"])

    def _norms(self) -> list[UnsetBatchNorm]:
        return [one for one in self.parts.heads.modules() if isinstance(one, UnsetBatchNorm)]


def _named(side: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{side}.{name}": tensor for name, tensor in module.state_dict().items()}


def _below(tensors: dict[str, Tensor], side: str) -> dict[str, Tensor]:
    start = f"{side}."
    return {
        name.removeprefix(start): tensor
        for name, tensor in tensors.items()
        if name.startswith(start)
    }
