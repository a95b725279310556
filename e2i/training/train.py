"""Training projection heads on cached embeddings, the best epoch by validation kept.

Decides: everything lies on the device from the start, batches are index tensors, and nothing is
read back from the device but one loss an epoch. All randomness comes from generators of its own,
seeded by the configuration: on the CPU, equal calls give equal bits, and the global random state is
neither read nor changed.

Shape letters: B batch, C clips, N pairs, D embedding, P projection.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import e2i
from e2i.cache.embeddings import CachedEmbeddings
from e2i.errors import ConfigError, RunFailedError
from e2i.heads.build import ProjectionHeads, build_heads, seeded_generator
from e2i.heads.checkpoint import Checkpoint, CheckpointRecord, EpochSummary, TrainedOn
from e2i.heads.clip_roles import ClipRoles
from e2i.heads.config import HeadsConfig
from e2i.losses import contrastive_loss, positives_from_clips
from e2i.training.batches import DistinctClipBatches, EpochPlan, RandomPairBatches
from e2i.training.config import TrainingConfig
from e2i.training.device import resolve_device
from e2i.training.holdout import MIN_TRAIN_CLIPS, hold_out
from e2i.training.pairs import Pairs, PairTensors, check_alike, join
from e2i.training.pseudo_images import LoadStored
from e2i.training.selection import Validation, chosen_by, is_better


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
class TrainedHeads:
    """What a training leaves behind.

    Attributes:
        checkpoint: the heads of the best epoch and all that belongs to them.
        history: every epoch.
        best: the epoch that was kept.
        notes: what was done other than asked, in sentences.
        seconds: of the whole training.
    """

    checkpoint: Checkpoint
    history: tuple[EpochRecord, ...]
    best: EpochRecord
    notes: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class _Parts:
    """Pairs by role; `test` is empty where there is a validation cache."""

    train: Pairs
    validation: Pairs
    test: Pairs


@dataclass(frozen=True, slots=True)
class _Images:
    """Which pseudo-images the heads take, and what reads stored ones."""

    heads: HeadsConfig
    load_stored: LoadStored | None


def train_heads(
    train: Sequence[CachedEmbeddings],
    validation: CachedEmbeddings | None,
    heads: HeadsConfig,
    training: TrainingConfig,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    *,
    load_stored: LoadStored | None = None,
) -> TrainedHeads:
    """Train an audio and a text head into one joint space.

    Args:
        train: caches to train on, all by the same encoders.
        validation: cache to choose the epoch by. Without one, a validation and a test part are
            held out of the training clips; the checkpoint remembers which clips are which.
        heads: what a head looks like.
        training: how it is trained.
        on_epoch: called after each epoch; what it raises ends the training.
        load_stored: reads the stored pseudo-images of a cache (`stored_images_of`), for a CNN that
            takes its images from the disk.

    Raises:
        ConfigError: no cache, a clip in two of them, too few clips, no such device, or no images
            to read.
        ImageError: images have to come from the disk, and one is missing or made otherwise.
        CacheError: a cache is empty or holds NaN.
        FingerprintMismatchError: caches were made by different encoders.
        RunFailedError: the loss left the finite numbers.
    """
    started = time.perf_counter()
    parts = _parts(train, validation, training, _Images(heads, load_stored))
    device = resolve_device(training.device)
    model = build_heads(
        heads,
        parts.train.audio.shape[1],
        parts.train.text.shape[1],
        seed=training.seed,
        temperature=training.temperature,
        learn_temperature=training.learn_temperature,
    )
    run = _Run(model, parts, heads, training, device)
    history: list[EpochRecord] = []
    for epoch in range(1, training.epochs + 1):
        history.append(run.epoch(epoch))
        if on_epoch is not None:
            on_epoch(history[-1])
    best = next(record for record in reversed(history) if record.is_best)
    caches = [(cache, "train") for cache in train]
    if validation is not None:
        caches.append((validation, "validation"))
    record = _record(run, heads, caches, history, best)
    roles = ClipRoles.of(parts.train.keys, parts.validation.keys, parts.test.keys)
    return TrainedHeads(
        checkpoint=Checkpoint(record, run.best_weights, roles),
        history=tuple(history),
        best=best,
        notes=run.notes,
        seconds=time.perf_counter() - started,
    )


class _Run:
    """The state that epochs share: model, data, optimizer, generators, best weights."""

    def __init__(
        self,
        model: ProjectionHeads,
        parts: _Parts,
        heads: HeadsConfig,
        config: TrainingConfig,
        device: torch.device,
    ) -> None:
        self._model = model.to(device)
        self.config = config
        self._device = device
        self._pairs: PairTensors = parts.train.to(device, heads)
        model.audio.fit_standardization(self._pairs.audio)
        model.text.fit_standardization(self._pairs.text)
        self._validation = Validation(parts.validation.to(device, heads), config)
        pair_clip = torch.from_numpy(parts.train.pair_clip)
        plan = RandomPairBatches if config.repeat_clips else DistinctClipBatches
        self._batches = plan(pair_clip, config.batch_size)
        self._order = seeded_generator(config.seed, "batches")
        self._dropout = seeded_generator(config.seed, "dropout", device)
        self._optimizer = _optimizer(model, config, device)
        self._best: float | None = None
        self.best_weights: dict[str, Tensor] = {}
        self.notes = (*_batch_notes(self._batches.fits, parts, config), *self._validation.notes)

    def epoch(self, epoch: int) -> EpochRecord:
        """Pass all pairs once, score, and keep the weights if they are the best so far."""
        started = time.perf_counter()
        lr = cosine_lr(self.config.lr, epoch, self.config.epochs)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        train_loss = self._pass(self._batches.epoch(self._order).to(self._device))
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
        value = metrics[metric]
        is_best = is_better(metric, value, self._best)
        if is_best:
            self._best = value
            state = self._model.state_dict()
            self.best_weights = {
                name: weight.detach().to("cpu", copy=True) for name, weight in state.items()
            }
        return EpochRecord(
            epoch=epoch,
            num_epochs=self.config.epochs,
            lr=lr,
            train_loss=train_loss,
            metrics=metrics,
            is_best=is_best,
            seconds=time.perf_counter() - started,
            pairs_per_s=len(self._pairs.pair_clip) / (trained - started),
        )

    def _pass(self, plan: EpochPlan) -> float:
        """One optimizer step a batch; the mean loss over pairs."""
        model, pairs = self._model, self._pairs
        total = torch.zeros((), device=self._device)
        for batch in plan:
            clips = pairs.pair_clip[batch]
            loss = contrastive_loss(
                model.project_audio(pairs.audio[clips], self._dropout),
                model.project_text(pairs.text[batch], self._dropout),
                positives_from_clips(clips),
                model.logit_scale,
            )
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            if self.config.learn_temperature:
                model.clamp_logit_scale()
            total += loss.detach() * len(batch)
        return float(total) / len(plan.order)


def cosine_lr(lr: float, epoch: int, epochs: int) -> float:
    """Learning rate of an epoch (from 1): a half cosine from `lr` in the first towards 0.

    Source: Loshchilov and Hutter, "SGDR", 2017, eq. 5 without restarts; stepped once an epoch, as
    the original does.
    """
    return lr * 0.5 * (1.0 + math.cos(math.pi * (epoch - 1) / epochs))


def _optimizer(
    model: ProjectionHeads, config: TrainingConfig, device: torch.device
) -> torch.optim.AdamW:
    """AdamW; a learned logit scale is not decayed, since 0 is nothing that it should drift to."""
    decayed = [*model.audio.parameters(), *model.text.parameters()]
    groups: list[dict[str, object]] = [{"params": decayed, "weight_decay": config.weight_decay}]
    if config.learn_temperature:
        groups.append({"params": [model.logit_scale], "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=config.lr, fused=device.type in {"cpu", "cuda"})


def _parts(
    train: Sequence[CachedEmbeddings],
    validation: CachedEmbeddings | None,
    config: TrainingConfig,
    images: _Images,
) -> _Parts:
    """What to train on, to choose by, and to leave for the end."""
    pairs = join(train, images.heads, images.load_stored)
    if validation is None:
        cut = hold_out(
            pairs.keys,
            val_fraction=config.val_fraction,
            test_fraction=config.test_fraction,
            seed=config.seed,
        )
        return _Parts(*(pairs.of_clips(clips) for clips in (cut.train, cut.validation, cut.test)))
    check_alike(train[0], validation)
    held = join([validation], images.heads, images.load_stored)
    shared = set(pairs.keys) & set(held.keys)
    if shared:
        first = next(key for key in held.keys if key in shared)
        message = (
            f"validation shares clips with training: got {len(shared)}, the first "
            f"{'/'.join(first)!r}, expected none. Give another --val-cache-dir, or none to hold "
            "clips out."
        )
        raise ConfigError(message)
    if len(pairs.keys) < MIN_TRAIN_CLIPS:
        message = (
            f"too few clips to train on: got {len(pairs.keys)}, expected at least "
            f"{MIN_TRAIN_CLIPS}. Give more clips."
        )
        raise ConfigError(message)
    return _Parts(pairs, held, held.of_clips(np.array([], dtype=np.int64)))


def _batch_notes(fits: int, parts: _Parts, config: TrainingConfig) -> tuple[str, ...]:
    """Says so where the data cannot fill a batch of the size asked for."""
    if fits >= config.batch_size:
        return ()
    pairs, clips = len(parts.train.pair_clip), len(parts.train.keys)
    return (
        f"The batch size is cut from {config.batch_size} to {fits}: there are {pairs} training "
        f"pairs of {clips} clips"
        + ("." if config.repeat_clips else ", and a batch holds a clip at most once."),
    )


def _record(
    run: _Run,
    heads: HeadsConfig,
    caches: Sequence[tuple[CachedEmbeddings, str]],
    history: Sequence[EpochRecord],
    best: EpochRecord,
) -> CheckpointRecord:
    """All that a checkpoint says beside its weights; `caches` come with their role."""
    first, _ = caches[0]
    return CheckpointRecord(
        kind="projection_heads",
        schema_version=1,
        e2i_version=e2i.__version__,
        heads=heads,
        training=run.config,
        audio_dim=first.audio.shape[1],
        text_dim=first.text.shape[1],
        audio_fingerprint=first.audio_fingerprint,
        text_fingerprint=first.text_fingerprint,
        caches=tuple(_trained_on(cache, role) for cache, role in caches),
        best_epoch=best.epoch,
        history=tuple(
            EpochSummary(
                epoch=epoch.epoch,
                lr=epoch.lr,
                train_loss=epoch.train_loss,
                metrics=dict(epoch.metrics),
            )
            for epoch in history
        ),
        notes=run.notes,
    )


def _trained_on(cache: CachedEmbeddings, role: str) -> TrainedOn:
    return TrainedOn.model_validate(
        {
            "dataset": cache.dataset,
            "split": cache.split,
            "role": role,
            "num_clips": len(cache.clip_ids),
            "num_captions": len(cache.caption_ids),
        }
    )
