"""Training projection heads on cached embeddings, the best epoch by validation kept.

Decides: what is trained on, chosen by and left for the end; which epochs are passed, and what a
killed training takes up again. The epochs themselves are those of `epochs`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

import e2i
from e2i.cache.embeddings import CachedEmbeddings
from e2i.device import resolve_device
from e2i.errors import ConfigError
from e2i.heads.backbone import read_backbone_weights
from e2i.heads.build import build_heads
from e2i.heads.checkpoint import Checkpoint, CheckpointRecord, EpochSummary, TrainedOn
from e2i.heads.clip_roles import ClipRoles
from e2i.heads.config import HeadsConfig
from e2i.images.standardization import Standardization
from e2i.training.config import TrainingConfig
from e2i.training.epochs import EpochRecord, Parts, TrainingRun, training_fingerprint
from e2i.training.exclusion import Exclusions
from e2i.training.holdout import MIN_TRAIN_CLIPS, hold_out
from e2i.training.pairs import Pairs, check_alike, clip_keys, join
from e2i.training.pseudo_images import LoadStored, stored_images
from e2i.training.state import StateFile
from e2i.training.windows import LoadWindows


@dataclass(frozen=True, slots=True)
class TrainedHeads:
    """What a training leaves behind.

    Attributes:
        checkpoint: the heads of the best epoch and all that belongs to them.
        history: every epoch.
        best: the epoch that was kept.
        num_excluded: clips of the training caches that were left out.
        num_captions_excluded: their captions.
        notes: what was done other than asked, in sentences.
        seconds: of the whole training, without what a killed one had done before.
    """

    checkpoint: Checkpoint
    history: tuple[EpochRecord, ...]
    best: EpochRecord
    num_excluded: int
    num_captions_excluded: int
    notes: tuple[str, ...]
    seconds: float


def train_heads(
    train: Sequence[CachedEmbeddings],
    validation: CachedEmbeddings | None,
    heads: HeadsConfig,
    training: TrainingConfig,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    *,
    load_stored: LoadStored | None = None,
    load_windows: LoadWindows | None = None,
    exclude: Exclusions | None = None,
    state: StateFile | None = None,
) -> TrainedHeads:
    """Train an audio and a text head into one joint space.

    Args:
        train: caches to train on, all by the same encoders.
        validation: cache to choose the epoch by. Without one, a validation and a test part are
            held out of the training clips; the checkpoint remembers which clips are which.
        heads: what a head looks like.
        training: how it is trained.
        on_epoch: called after each epoch, and at the start for each that a killed training had
            passed; what it raises ends the training.
        load_stored: reads the stored pseudo-images of a cache (`stored_images_of`), for a CNN that
            takes its images from the disk.
        load_windows: reads the windows of a cache (`stored_windows_of`), for attention and dropout
            over them.
        exclude: clips of the training caches to leave out.
        state: where the state is kept between epochs; a training of the same data and
            configuration that was killed goes on from it, to the same end.

    Raises:
        ConfigError: no cache, a clip in two of them, too few clips, no such device, or no images
            or windows to read.
        ImageError: images have to come from the disk, and one is missing or made otherwise.
        CheckpointError: the backbone's weights are not there, or not its own.
        CacheError: a cache is empty, holds NaN, or lacks windows that are asked for.
        FingerprintMismatchError: caches were made by different encoders.
        RunFailedError: the loss left the finite numbers.
        StorageError: the store refused.
    """
    started = time.perf_counter()
    backbone = None
    if heads.vision_backbone_weights:
        backbone = read_backbone_weights(heads.vision_backbone_weights)
        # From here on by what they are, not by where they lay.
        heads = heads.model_copy(update={"vision_backbone_weights": f"sha256:{backbone.sha256}"})
    attention = heads.audio_pooling == "attention"
    dropout = training.window_dropout > 0
    _require_images_of_all_windows(heads, training)
    pairs = join(train, load_windows, with_windows=attention or dropout)
    num_clips, num_captions = len(pairs.keys), len(pairs.pair_clip)
    if exclude is not None:
        pairs = pairs.of_clips(exclude.kept(pairs.keys))
    held = None
    if validation is not None:
        check_alike(train[0], validation)
        held = join([validation], load_windows, with_windows=attention)
    parts = _with_stored_images(
        _parts(pairs, held, training), train, validation, heads, load_stored
    )
    device = resolve_device(training.device)
    model = build_heads(
        heads,
        parts.train.audio.shape[1],
        parts.train.text.shape[1],
        seed=training.seed,
        temperature=training.temperature,
        learn_temperature=training.learn_temperature,
        backbone=backbone,
    )
    run = TrainingRun(model, parts, heads, training, device)
    best = _pass_epochs(run, training_fingerprint(parts, heads, training, device), state, on_epoch)
    caches = [(cache, "train") for cache in train]
    if validation is not None:
        caches.append((validation, "validation"))
    num_excluded = num_clips - len(pairs.keys)
    notes = (*run.notes, *_course_notes(run, num_excluded, num_clips, exclude))
    record = _record(run, heads, caches, best, notes)
    roles = ClipRoles.of(parts.train.keys, parts.validation.keys, parts.test.keys)
    return TrainedHeads(
        checkpoint=Checkpoint(record, run.best_weights, roles),
        history=tuple(run.history),
        best=best,
        num_excluded=num_excluded,
        num_captions_excluded=num_captions - len(pairs.pair_clip),
        notes=notes,
        seconds=time.perf_counter() - started,
    )


def _require_images_of_all_windows(heads: HeadsConfig, training: TrainingConfig) -> None:
    """Refuse to drop windows from images that are stored."""
    if training.window_dropout and heads.input_type == "vision":
        source = heads.vision_image_source
        if source == "disk":
            message = (
                "stored pseudo-images show clips with all their windows: got window_dropout "
                f"{training.window_dropout:g} and vision_image_source 'disk', expected one of the "
                "two. Use --vision-image-source generated."
            )
            raise ConfigError(message)


def _pass_epochs(
    run: TrainingRun,
    fingerprint: str,
    state: StateFile | None,
    on_epoch: Callable[[EpochRecord], None] | None,
) -> EpochRecord:
    """Pass what epochs there are to pass; the best of all."""
    stored = state.load(fingerprint) if state is not None else None
    if stored is not None:
        run.restore(stored)
        if on_epoch is not None:
            for record in run.history:
                on_epoch(record)
    while not run.is_over:
        record = run.epoch()
        if state is not None and state.is_due:
            state.save(fingerprint, run.state())
        if on_epoch is not None:
            on_epoch(record)
    return next(record for record in reversed(run.history) if record.is_best)


def _course_notes(
    run: TrainingRun, num_excluded: int, num_clips: int, exclude: Exclusions | None
) -> list[str]:
    """Says so where clips were left out or epochs not passed."""
    notes = []
    if exclude is not None:
        notes.append(
            f"{num_excluded} of {num_clips} clips are left out of training, as the list of "
            "excluded clips asks."
        )
    if len(run.history) < run.config.epochs:
        notes.append(
            f"Training ended after epoch {len(run.history)} of {run.config.epochs}: none of the "
            f"last {run.config.patience} was better than the one kept."
        )
    return notes


def _parts(pairs: Pairs, held: Pairs | None, config: TrainingConfig) -> Parts:
    """What to train on, to choose by, and to leave for the end."""
    if held is None:
        cut = hold_out(
            pairs.keys,
            val_fraction=config.val_fraction,
            test_fraction=config.test_fraction,
            seed=config.seed,
        )
        return Parts(*(pairs.of_clips(clips) for clips in (cut.train, cut.validation, cut.test)))
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
    return Parts(pairs, held, held.of_clips(np.array([], dtype=np.int64)))


def _with_stored_images(
    parts: Parts,
    train: Sequence[CachedEmbeddings],
    validation: CachedEmbeddings | None,
    heads: HeadsConfig,
    load_stored: LoadStored | None,
) -> Parts:
    """The parts with the stored pseudo-images that the audio head asks for.

    Read once it is known which clips are trained on, whose statistics they may have to have.
    """
    standardization = Standardization.of(parts.train.audio) if heads.standardize_input else None
    keys = tuple(key for cache in train for key in clip_keys(cache))
    images = stored_images(train, heads, load_stored, standardization)
    trained = parts.train.with_images(keys, images)
    if validation is not None:
        keys = clip_keys(validation)
        images = stored_images([validation], heads, load_stored, standardization)
    return Parts(trained, parts.validation.with_images(keys, images), parts.test)


def _record(
    run: TrainingRun,
    heads: HeadsConfig,
    caches: Sequence[tuple[CachedEmbeddings, str]],
    best: EpochRecord,
    notes: tuple[str, ...],
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
            for epoch in run.history
        ),
        notes=notes,
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
