"""Epochs of training: pass all pairs, score, keep the best weights, and hand over the state.

Decides: everything lies on the device from the start, batches are index tensors, and nothing is
read back from the device but one loss an epoch. All randomness comes from generators of its own,
seeded by the configuration: on the CPU, equal calls give equal bits, and the global random state is
neither read nor changed. Between two epochs the run is its `state`: one restored from it goes on
as the one that it was taken from.

Shape letters: B batch, C clips, N pairs, D embedding, P projection.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import Tensor

import e2i
from e2i.errors import RunFailedError
from e2i.heads.build import ProjectionHeads, seeded_generator
from e2i.heads.cnn import UnsetBatchNorm
from e2i.heads.config import HeadsConfig
from e2i.heads.pooling import windows_dropped
from e2i.images.standardization import Standardization
from e2i.losses import contrastive_loss, positives_from_clips
from e2i.training.batches import DistinctClipBatches, EpochPlan, RandomPairBatches
from e2i.training.config import TrainingConfig
from e2i.training.pairs import Pairs, PairTensors
from e2i.training.schedule import step_lrs
from e2i.training.selection import Validation, chosen_by, is_better
from e2i.training.state import TrainingState


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """What one epoch came to.

    Attributes:
        epoch: from 1.
        num_epochs: of the whole training.
        lr: learning rate of the epoch.
        train_loss: mean over the training pairs, as the weights moved.
        metrics: validation scores by name, `val_loss` among them.
        is_best: whether these are the best weights so far.
        seconds: of the epoch, validation included.
        pairs_per_s: training pairs per second, validation left out.
    """

    epoch: int
    num_epochs: int
    lr: float
    train_loss: float
    metrics: Mapping[str, float]
    is_best: bool
    seconds: float
    pairs_per_s: float


@dataclass(frozen=True, slots=True)
class Parts:
    """Pairs by role; `test` is empty where there is a validation cache."""

    train: Pairs
    validation: Pairs
    test: Pairs


class TrainingRun:
    """What epochs share: model, data, optimizer, generators, history, best weights.

    Attributes:
        config: how it is trained.
        history: the epochs passed so far.
        best_weights: of the best of them, on the CPU.
        notes: what was done other than asked, in sentences.
    """

    def __init__(
        self,
        model: ProjectionHeads,
        parts: Parts,
        heads: HeadsConfig,
        config: TrainingConfig,
        device: torch.device,
    ) -> None:
        """Bring model and data to the device; the model is trained in place."""
        self._model = model.to(device)
        self.config = config
        self._device = device
        if heads.standardize_input:
            model.audio.standardize_by(Standardization.of(parts.train.audio))
            model.text.standardize_by(Standardization.of(parts.train.text))
        by = model.audio.standardization
        self._pairs: PairTensors = parts.train.to(device, heads, by)
        self._validation = Validation(parts.validation.to(device, heads, by), config)
        self._pair_clip = torch.from_numpy(parts.train.pair_clip)
        plan = RandomPairBatches if config.repeat_clips else DistinctClipBatches
        self._batches = plan(self._pair_clip, config.batch_size)
        self._order = seeded_generator(config.seed, "batches")
        self._dropout = seeded_generator(config.seed, "dropout", device)
        self._optimizer = _optimizer(model, config, device)
        self.history: list[EpochRecord] = []
        self.best_weights: dict[str, Tensor] = {}
        self.notes = (*_batch_notes(self._batches.fits, parts, config), *self._validation.notes)

    @property
    def best(self) -> EpochRecord | None:
        """The epoch whose weights are kept; None before the first."""
        return next((record for record in reversed(self.history) if record.is_best), None)

    @property
    def is_over(self) -> bool:
        """Whether all epochs have passed, or too many without a better one."""
        passed = len(self.history)
        if passed >= self.config.epochs:
            return True
        best = self.best
        return best is not None and 0 < self.config.patience <= passed - best.epoch

    def epoch(self) -> EpochRecord:
        """Pass all pairs once, score, and keep the weights if they are the best so far."""
        started = time.perf_counter()
        epoch = len(self.history) + 1
        plan = self._batches.epoch(self._order).to(self._device)
        lrs = step_lrs(
            self.config.lr,
            epoch,
            self.config.epochs,
            self.config.warmup_epochs,
            len(plan.sizes),
        )
        train_loss = self._pass(plan, lrs)
        if not math.isfinite(train_loss):
            message = (
                f"training diverged in epoch {epoch}: got a loss of {train_loss}, expected a "
                f"finite number. Train with a lower --lr than {self.config.lr:g}, or look for huge "
                "values among the embeddings."
            )
            raise RunFailedError(message)
        trained = time.perf_counter()
        metrics = self._validation.scores(self._model)
        metric = chosen_by(self.config.selection_metric, metrics)
        best = self.best
        is_best = is_better(metric, metrics[metric], None if best is None else best.metrics[metric])
        if is_best:
            self.best_weights = _on_cpu(self._model.state_dict())
        self.history.append(
            EpochRecord(
                epoch=epoch,
                num_epochs=self.config.epochs,
                lr=lrs[-1],
                train_loss=train_loss,
                metrics=metrics,
                is_best=is_best,
                seconds=time.perf_counter() - started,
                pairs_per_s=len(self._pairs.pair_clip) / (trained - started),
            )
        )
        return self.history[-1]

    def _pass(self, plan: EpochPlan, lrs: list[float]) -> float:
        """One optimizer step a batch; the mean loss over pairs."""
        model, pairs = self._model, self._pairs
        total = torch.zeros((), device=self._device)
        longest = self._longest(plan)
        for number, (batch, lr) in enumerate(zip(plan, lrs, strict=True)):
            for group in self._optimizer.param_groups:
                group["lr"] = lr
            clips = pairs.pair_clip.index_select(0, batch)  # several times as fast as [batch]
            heard = self._heard(clips, longest[number] if longest else 0)
            with torch.autocast(
                self._device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"
            ):
                audio = model.project_audio(heard, self._dropout)
                text = model.project_text(pairs.text.index_select(0, batch), self._dropout)
            positives = positives_from_clips(clips) if self.config.repeat_clips else None
            loss = contrastive_loss(audio, text, positives, model.logit_scale)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            if self.config.learn_temperature:
                model.clamp_logit_scale()
            total += loss.detach() * len(batch)
        return float(total) / len(plan.order)

    def _longest(self, plan: EpochPlan) -> list[int]:
        """Most windows of a clip in each batch; empty where windows are not looked at."""
        if self._pairs.windows is None:
            return []
        counts = self._pairs.windows.counts[self._pair_clip[plan.order.cpu()]]
        return [int(part.max()) for part in torch.split(counts, list(plan.sizes))]

    def _heard(self, clips: Tensor, longest: int) -> Tensor:
        """What the audio head is given for a batch."""
        pairs = self._pairs
        if pairs.windows is None:
            return pairs.audio.index_select(0, clips)
        windows = pairs.windows.batch(clips, longest)
        kept = windows_dropped(windows, self.config.window_dropout, self._dropout)
        return self._model.pool(kept)

    def state(self) -> TrainingState:
        """All that the next epoch depends on, as copies."""
        tensors = {f"model.{name}": it for name, it in _on_cpu(self._model.state_dict()).items()}
        if not self.history[-1].is_best:  # else they are those of the model
            tensors |= {f"best.{name}": tensor for name, tensor in self.best_weights.items()}
        for index, moments in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": it for name, it in _on_cpu(moments).items()}
        tensors["generator.batches"] = self._order.get_state()
        tensors["generator.dropout"] = self._dropout.get_state()
        content: dict[str, object] = {
            "history": [asdict(record) for record in self.history],
            "batches_seen": [norm.batches_seen for norm in self._norms()],
        }
        return TrainingState(tensors, content)

    def restore(self, state: TrainingState) -> None:
        """Become the run that the state was taken from, which has to be of the same fingerprint."""
        self._model.load_state_dict(state.below("model"))
        self.best_weights = state.below("best") or state.below("model")
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in state.below("optimizer").items():
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = tensor
        optimizer = self._optimizer.state_dict()
        self._optimizer.load_state_dict({**optimizer, "state": moments})
        generators = state.below("generator")
        self._order.set_state(generators["batches"])
        self._dropout.set_state(generators["dropout"])
        seen = _counts.validate_python(state.content["batches_seen"])
        for norm, batches in zip(self._norms(), seen, strict=True):
            norm.batches_seen = batches
        self.history = _history.validate_python(state.content["history"])

    def _norms(self) -> list[UnsetBatchNorm]:
        return [one for one in self._model.modules() if isinstance(one, UnsetBatchNorm)]


_history = TypeAdapter(list[EpochRecord])
_counts = TypeAdapter(list[int])


def training_fingerprint(
    parts: Parts, heads: HeadsConfig, config: TrainingConfig, device: torch.device
) -> str:
    """A hash over all that the course of a training depends on."""
    facts = {
        "e2i": e2i.__version__,
        "torch": torch.__version__,
        "device": str(device),
        "heads": heads.model_dump(mode="json"),
        "training": config.model_dump(mode="json"),
        "clips": [part.keys for part in (parts.train, parts.validation, parts.test)],
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for part in (parts.train, parts.validation):
        arrays: list[NDArray[Any]] = [part.audio, part.text, part.pair_clip]
        if part.windows is not None:
            arrays += [part.windows.rows, part.windows.counts, part.windows.shares]
        for array in arrays:
            digest.update(str(array.shape).encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def _optimizer(
    model: ProjectionHeads, config: TrainingConfig, device: torch.device
) -> torch.optim.AdamW:
    """AdamW; a learned logit scale is not decayed, since 0 is nothing that it should drift to."""
    decayed = [*model.audio.parameters(), *model.text.parameters()]
    if model.pooling is not None:
        decayed += model.pooling.parameters()
    groups: list[dict[str, object]] = [{"params": decayed, "weight_decay": config.weight_decay}]
    if config.learn_temperature:
        groups.append({"params": [model.logit_scale], "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=config.lr, fused=device.type in {"cpu", "cuda"})


def _batch_notes(fits: int, parts: Parts, config: TrainingConfig) -> tuple[str, ...]:
    """Says so where the data cannot fill a batch of the size asked for."""
    if fits >= config.batch_size:
        return ()
    pairs, clips = len(parts.train.pair_clip), len(parts.train.keys)
    return (
        f"The batch size is cut from {config.batch_size} to {fits}: there are {pairs} training "
        f"pairs of {clips} clips"
        + ("." if config.repeat_clips else ", and a batch holds a clip at most once."),
    )
