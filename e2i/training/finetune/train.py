"""Fine-tuning from one end to the other: load, train, choose, test, store.

Decides: what is trained on, chosen by and tested on; where a killed run goes on; that the weights
of the best epoch are tested, and stored beside those of the last one. With several devices each has
a process of its own; the first of them stores and tells.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric

import e2i
from e2i.clips import ClipKey
from e2i.encoders.load import passt_options, passt_weights
from e2i.encoders.passt_architectures import DIM
from e2i.encoders.passt_training import PasstNoise
from e2i.errors import ConfigError
from e2i.heads.build import build_heads
from e2i.heads.checkpoint import Checkpoint, EpochSummary, TrainedOn
from e2i.heads.clip_roles import ClipRoles
from e2i.images.config import ImagesConfig
from e2i.report.scores import Metrics
from e2i.retrieval.config import EvaluationConfig
from e2i.storage import Folder
from e2i.training.epochs import EpochRecord
from e2i.training.finetune.batching import Batches, BatchPlans, Sides
from e2i.training.finetune.checkpoint import (
    EncoderWeights,
    encoder_record,
    heads_record,
    save_finetuned,
    side_files,
)
from e2i.training.finetune.config import FinetuneConfig
from e2i.training.finetune.embed import Embedder
from e2i.training.finetune.encoders import CaptionReader, load_encoders
from e2i.training.finetune.examples import CaptionTokens, Examples, Hearing, Listener
from e2i.training.finetune.fabric import make_fabric
from e2i.training.finetune.optimizer import build_optimizer
from e2i.training.finetune.processes import OnBatch, OnEpoch, in_processes
from e2i.training.finetune.run import FinetuneRun, Parts
from e2i.training.finetune.scoring import Scorer, frozen_tables
from e2i.training.finetune.step import Draws, Learner
from e2i.training.finetune.waveforms import WaveformStore
from e2i.training.holdout import MIN_TRAIN_CLIPS, hold_out
from e2i.training.selection import places_that_choose
from e2i.training.state import StateFile

# What changes neither the weights nor the scores, or only where the work is done.
_NOT_IN_FINGERPRINT = {
    *("weights_dir", "audio_weights", "text_model", "num_workers", "save_every"),
    *("decode_timeout", "max_failures", "metric_mode", "devices", "preset"),
}


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is trained on, chosen by and tested on, and where things lie.

    Attributes:
        train: clips and captions to train on.
        validation: to choose the epoch by; None holds some of the training clips out.
        test: to test with the best weights; None likewise, or tests nothing where validation is
            given.
        waveforms: folder of the stored waveforms.
        output: folder of checkpoints and state.
        name: of the checkpoint's file, without its ending.
        evaluation: of the test.
    """

    train: Examples
    validation: Examples | None
    test: Examples | None
    waveforms: Folder
    output: Folder
    name: str
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def best_name(self) -> str:
        """File of the best epoch's weights."""
        return f"{self.name}.safetensors"

    @property
    def last_name(self) -> str:
        """File of the last epoch's weights."""
        return f"{self.name}_last.safetensors"


@dataclass(frozen=True, slots=True)
class Finetuned:
    """What a fine-tuning leaves behind.

    Attributes:
        history: every epoch.
        best: the epoch that was kept.
        test: scores of its weights on the test part; empty where there is none.
        num_tested: clips of the test part.
        notes: what was done other than asked, in sentences.
    """

    history: tuple[EpochRecord, ...]
    best: EpochRecord
    test: Metrics
    num_tested: int
    notes: tuple[str, ...]


def _ignore(*_: object) -> None:
    """Told of progress by nobody who wants to know."""


def finetune(
    inputs: Inputs,
    config: FinetuneConfig,
    on_epoch: OnEpoch = _ignore,
    on_batch: OnBatch = _ignore,
) -> Finetuned:
    """Train both encoders and their heads; store the best and the last weights.

    A run of the same data and configuration that was killed is gone on with.

    Args:
        inputs: what is trained on, and where things lie.
        config: which encoders and heads, and how they are trained.
        on_epoch: called after each epoch, and at the start for each that a killed run had passed.
        on_batch: called with the number of batches that have passed since the last call.

    Raises:
        ConfigError: clips in two parts, too few clips, no such device, options that do not fit.
        EncoderUnavailableError: weights cannot be had or do not fit.
        RunFailedError: the loss left the finite numbers.
        StorageError: the store refused.
    """
    inputs = with_parts_held_out(inputs, config)
    fabric = make_fabric(config)
    if config.devices == 1:
        fabric.launch()
        return _work(fabric, on_epoch, on_batch, inputs=inputs, config=config)
    work = partial(_work, inputs=inputs, config=config)
    return in_processes(fabric, work, on_epoch, on_batch)


def with_parts_held_out(inputs: Inputs, config: FinetuneConfig) -> Inputs:
    """The same inputs with a validation part, and each clip in one part only.

    Raises:
        ConfigError: clips stand in two parts, or too few are left to train on, or for the
            selection metric to choose an epoch by.
    """
    if inputs.validation is None:
        cut = hold_out(
            inputs.train.keys,
            val_fraction=config.val_fraction,
            test_fraction=0.0 if inputs.test is not None else config.test_fraction,
            seed=config.seed,
        )
        test = inputs.test
        if test is None and len(cut.test):
            test = inputs.train.of_clips(cut.test)
        validation = inputs.train.of_clips(cut.validation)
        inputs = replace(
            inputs, train=inputs.train.of_clips(cut.train), validation=validation, test=test
        )
    parts = [
        ("validation", "--val-metadata", inputs.validation),
        ("test", "--test-metadata", inputs.test),
    ]
    seen = set(inputs.train.keys)
    for name, option, part in parts:
        shared = [key for key in part.keys if key in seen] if part is not None else []
        if part is not None and shared:
            raise ConfigError(
                f"the {name} part shares clips with another part: got {len(shared)}, the first "
                f"{'/'.join(shared[0])!r}, expected none. Give another {option}."
            )
        seen |= set(part.keys) if part is not None else set()
    if len(inputs.train.keys) < MIN_TRAIN_CLIPS:
        raise ConfigError(
            f"too few clips to train on: got {len(inputs.train.keys)}, expected at least "
            f"{MIN_TRAIN_CLIPS}. Give more clips."
        )
    smallest = min(BatchPlans(inputs.train, config).epoch(1).sizes)
    if smallest < config.devices:
        raise ConfigError(
            f"a device would be left without a pair: got batches of {smallest} of "
            f"{len(inputs.train.keys)} training clips for {config.devices} devices, expected at "
            "least one pair each. Lower --devices."
        )
    if inputs.validation is not None:  # now, and not when an epoch has been passed
        counts = len(inputs.validation.keys), len(inputs.validation.captions)
        places_that_choose(config.selection_metric, *counts)
    return inputs


def batches_in_all(inputs: Inputs, config: FinetuneConfig) -> int:
    """How many batches all epochs have, of inputs whose parts are held out.

    Raises:
        ConfigError: no batch is full, and what does not fill one is to be left out.
    """
    return BatchPlans(inputs.train, config).num_batches * config.epochs


def _work(
    fabric: Fabric,
    on_epoch: OnEpoch,
    on_batch: OnBatch,
    *,
    inputs: Inputs,
    config: FinetuneConfig,
) -> Finetuned:
    """The whole training, in one process of it."""
    store = WaveformStore(inputs.waveforms, config.resampler)
    listener = Listener(store, config.num_workers)
    try:
        return _Work(fabric, inputs, config, listener).train(on_epoch, on_batch)
    finally:
        listener.close()


class _Work:
    """What one process has in hand."""

    def __init__(
        self, fabric: Fabric, inputs: Inputs, config: FinetuneConfig, listener: Listener
    ) -> None:
        self._fabric, self._inputs, self._config = fabric, inputs, config
        self._encoders, self._reader = load_encoders(config)
        self._encoders.to(fabric.device)
        self._heads = build_heads(
            config.heads(),
            DIM,
            self._encoders.text_dim,
            seed=config.seed,
            temperature=config.temperature,
            learn_temperature=config.learn_temperature,
        ).to(fabric.device)
        options = passt_options(config.encoders("cpu"))
        embedder = Embedder(fabric, self._encoders, listener, Hearing.whole(options))
        self._scorer = self._scorer_of(embedder, inputs.validation or inputs.train)
        self._tester = None if inputs.test is None else self._scorer_of(embedder, inputs.test)
        self._plans = BatchPlans(inputs.train, config)
        self._run = FinetuneRun(
            fabric,
            config,
            self._parts(embedder, listener, Hearing.in_training(options, config)),
        )

    def _scorer_of(self, embedder: Embedder, examples: Examples) -> Scorer:
        return Scorer(embedder, self._encoders, examples, self._reader, self._config)

    def _parts(self, embedder: Embedder, listener: Listener, hearing: Hearing) -> Parts:
        fabric, config, encoders = self._fabric, self._config, self._encoders
        examples = self._inputs.train
        optimizer = build_optimizer(encoders, self._heads, config, fabric.device)
        wrapped: Any = None
        if not (encoders.audio_frozen and encoders.text_frozen):
            wrapped = fabric.setup_module(encoders)
        stepper: Any = fabric.setup_optimizers(optimizer)
        tokens = CaptionTokens(self._reader, examples.captions)
        tables = frozen_tables(embedder, encoders, examples, tokens)
        return Parts(
            encoders=encoders,
            heads=self._heads,
            learner=Learner(
                fabric,
                wrapped,
                self._heads,
                images_of(config),
                Draws(noise_of(config), config.seed),
            ),
            optimizer=optimizer,
            take_step=stepper.step,
            plans=self._plans,
            batches=Batches(fabric, config, examples, Sides(tokens, listener, hearing, *tables)),
            score=lambda: self._scorer.validation(self._heads),
        )

    def train(self, on_epoch: OnEpoch, on_batch: OnBatch) -> Finetuned:
        """Pass all epochs, or those that a killed run left; test and store."""
        run, inputs = self._run, self._inputs
        fingerprint = run_fingerprint(inputs, self._config, self._reader, self._fabric.device)
        with StateFile(inputs.output, f"{inputs.name}.training-state") as file:
            stored = file.load(fingerprint)
            if stored is not None:
                run.restore(stored)
                for record in run.history:
                    on_epoch(record)
                on_batch(len(run.history) * self._plans.num_batches + run.place.batch)
            del stored

            def save() -> None:
                if self._fabric.is_global_zero:
                    file.save(fingerprint, run.state())

            while not run.is_over:
                record = run.epoch(save, on_batch)
                save()
                on_epoch(record)
            outcome = self._finished()
            if self._fabric.is_global_zero:
                file.discard()
        self._fabric.barrier()
        return outcome

    def _finished(self) -> Finetuned:
        """Store the last weights, then test and store the best."""
        run, inputs = self._run, self._inputs
        best = run.best
        if best is None:
            raise ConfigError("no epoch was passed: got 0, expected at least 1. Raise --epochs.")
        notes = (*self._plans.notes, *self._scorer.notes)
        if self._fabric.is_global_zero:
            self._store(inputs.last_name, len(run.history), notes)
        run.take(run.best_weights)
        if self._fabric.is_global_zero:
            self._store(inputs.best_name, best.epoch, notes)
        scores: Metrics = {}
        num_tested = 0
        if self._tester is not None and inputs.test is not None:
            found = self._tester.test(self._heads, inputs.evaluation)
            scores = {key: asdict(score) for key, score in found.scores.items()}
            num_tested = len(inputs.test.keys)
        return Finetuned(tuple(run.history), best, scores, num_tested, notes)

    def _store(self, name: str, epoch: int, notes: tuple[str, ...]) -> None:
        """Store the weights as they are, as those of an epoch."""
        config, inputs, weights = self._config, self._inputs, self._run.weights()
        sides = {
            side: {
                key.removeprefix(f"{side}."): tensor
                for key, tensor in weights.items()
                if key.startswith(f"{side}.")
            }
            for side in ("audio", "text", "heads")
        }
        encoders = EncoderWeights(
            audio=sides["audio"],
            text=sides["text"],
            files=side_files(self._reader.files),
            record=encoder_record(config, self._reader.max_length, self._reader.form),
        )
        record = heads_record(
            config,
            (DIM, self._encoders.text_dim),
            encoders.fingerprints(config),
            caches=_trained_on(inputs),
            best_epoch=epoch,
            history=tuple(
                EpochSummary(
                    epoch=one.epoch,
                    lr=one.lr,
                    train_loss=one.train_loss,
                    metrics=dict(one.metrics),
                )
                for one in self._run.history
            ),
            notes=notes,
        )
        held_out = inputs.validation
        roles = ClipRoles.of(
            inputs.train.keys, () if held_out is None else held_out.keys, _test_keys(inputs)
        )
        checkpoint = Checkpoint(record, sides["heads"], roles)
        save_finetuned(inputs.output, [name], encoders, checkpoint, config)


def images_of(config: FinetuneConfig) -> ImagesConfig | None:
    """How audio embeddings are folded; None where the head takes them as they are."""
    return config.heads().images() if config.model_type == "vision" else None


def noise_of(config: FinetuneConfig) -> PasstNoise:
    """What training changes at random in the audio encoder."""
    return PasstNoise(
        patchout_time=config.patchout_time,
        patchout_frequency=config.patchout_frequency,
        mel_jitter_low=config.mel_jitter_low,
        mel_jitter_high=config.mel_jitter_high,
    )


def run_fingerprint(
    inputs: Inputs, config: FinetuneConfig, reader: CaptionReader, device: torch.device
) -> str:
    """A hash over all that the course of a run depends on."""
    facts = {
        "e2i": e2i.__version__,
        "torch": torch.__version__,
        "device": device.type,
        "config": config.model_dump(mode="json", exclude=_NOT_IN_FINGERPRINT),
        "audio_weights": passt_weights(config.encoders("cpu")).sha256,
        "text_model": reader.files.pins,
        "parts": [
            None
            if part is None
            else [part.keys, part.captions, [one.name for one in part.waveforms]]
            for part in (inputs.train, inputs.validation, inputs.test)
        ],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _test_keys(inputs: Inputs) -> tuple[ClipKey, ...]:
    """Clips held out of the training data for the test; those of other metadata are new anyway."""
    if inputs.test is None:
        return ()
    trained = {(key.dataset, key.split) for key in inputs.train.keys}
    return tuple(key for key in inputs.test.keys if (key.dataset, key.split) in trained)


def _trained_on(inputs: Inputs) -> tuple[TrainedOn, ...]:
    found = []
    for role, part in (("train", inputs.train), ("validation", inputs.validation)):
        if part is None:
            continue
        for dataset, split in dict.fromkeys((key.dataset, key.split) for key in part.keys):
            of = np.array([(key.dataset, key.split) == (dataset, split) for key in part.keys])
            found.append(
                TrainedOn.model_validate(
                    {
                        "dataset": dataset,
                        "split": split,
                        "role": role,
                        "num_clips": int(of.sum()),
                        "num_captions": int(of[part.pair_clip].sum()),
                    }
                )
            )
    return tuple(found)
