"""All that a report shows, as plain values, apart from how it looks.

Conventions: everything of one report is measured on the same clips and captions of one cache, by
one or several models side by side; the first model is the one that headline and examples are about.
Scores are fractions, ranks start at 1, durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

import e2i
from e2i.cache.embeddings import CachedEmbeddings
from e2i.encoders.protocols import Settings
from e2i.errors import ConfigError
from e2i.heads.checkpoint import Checkpoint
from e2i.images.config import ImagesConfig
from e2i.images.fold import encode_images
from e2i.report.breakdown import Breakdown, breakdown, edge_labels, rank_edges, rank_shares
from e2i.report.config import ReportConfig
from e2i.report.examples import ExampleFinder, Rows, rows_of
from e2i.report.provenance import Facts, provenance_of
from e2i.report.queries import LoadRecording, QueryExample, query_examples
from e2i.report.sheet import SheetRow
from e2i.retrieval.config import EvaluationConfig
from e2i.retrieval.evaluation import RECALL_CUTOFFS, Score
from e2i.training.evaluate import Evaluation
from e2i.training.selection import chosen_by


@dataclass(frozen=True, slots=True)
class ScoredModel:
    """One model and what it scored: what a report is made from.

    Attributes:
        name: what the reader calls it, such as `MLP`; no two are the same.
        evaluation: on the report's cache.
        checkpoint: what was scored; None for the embeddings as they are.
        checkpoint_url: where it lies, without credentials; empty where there is none.
        checkpoint_sha256: of its bytes, where known.
    """

    name: str
    evaluation: Evaluation
    checkpoint: Checkpoint | None = None
    checkpoint_url: str = ""
    checkpoint_sha256: str = ""


@dataclass(frozen=True, slots=True)
class ReportOrigin:
    """What the data and models do not say themselves.

    Attributes:
        date: when the report was made, as it is to be shown.
        encoders: the settings behind each fingerprint, by side (`audio`, `text`).
    """

    date: str = ""
    encoders: Mapping[str, Settings] | None = None


@dataclass(frozen=True, slots=True)
class TrainingCurve:
    """How a training went, epoch by epoch; all tuples are equally long.

    Attributes:
        metric: validation metric that the epoch was chosen by.
        epochs: from 1.
        train_loss: mean over the training pairs.
        validation_loss: likewise on validation; empty where it was not measured.
        values: `metric` on validation; empty where it was not measured.
        best_epoch: the epoch whose weights were kept.
    """

    metric: str
    epochs: tuple[int, ...]
    train_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    values: tuple[float, ...]
    best_epoch: int


@dataclass(frozen=True, slots=True)
class ModelContent:
    """One model's column of the report.

    Attributes:
        name: what the reader calls it.
        seen: whether it was trained or selected on clips among these.
        scores: by key, such as `text_to_audio_R@10`.
        rank_shares: share of captions in each bin of ranks.
        curve: how it was trained; None for embeddings as they are.
    """

    name: str
    seen: bool
    scores: Mapping[str, Score]
    rank_shares: tuple[float, ...]
    curve: TrainingCurve | None


@dataclass(frozen=True, slots=True)
class ReportContent:
    """A report.

    Attributes:
        dataset: name of the data set.
        split: name of the split.
        part: `all` clips of the split, or its `test` part.
        num_clips: C, the candidates of a caption.
        num_captions: N, the queries.
        headline: key of the score that stands on top, such as `text_to_audio_R@10`.
        models: at least one.
        notes: what a reader of the scores has to know, in sentences.
        rank_labels: names of the bins of ranks.
        rank_chance: share of captions in each bin if the order were random.
        breakdowns: the headline metric by caption length and by clip duration, where known.
        images: pseudo-images, each clip's beside one of its captions'.
        best: captions that the first model did best on, the best first.
        worst: likewise, the worst first.
        provenance: groups of facts by title.
        date: when the report was made; may be empty.
        e2i_version: that made it.
    """

    dataset: str
    split: str
    part: str
    num_clips: int
    num_captions: int
    headline: str
    models: tuple[ModelContent, ...]
    notes: tuple[str, ...]
    rank_labels: tuple[str, ...]
    rank_chance: tuple[float, ...]
    breakdowns: tuple[Breakdown, ...]
    images: tuple[SheetRow, ...]
    best: tuple[QueryExample, ...]
    worst: tuple[QueryExample, ...]
    provenance: Mapping[str, Facts]
    date: str
    e2i_version: str

    @property
    def seen(self) -> bool:
        """Whether any model was trained or selected on clips among these."""
        return any(model.seen for model in self.models)


def report_content(
    models: Sequence[ScoredModel],
    cache: CachedEmbeddings,
    evaluation: EvaluationConfig,
    config: ReportConfig,
    *,
    origin: ReportOrigin | None = None,
    load_recording: LoadRecording | None = None,
    device: str = "auto",
) -> ReportContent:
    """Gather what a report shows.

    Args:
        models: at least one, all evaluated on the same clips and captions of `cache`.
        cache: the embeddings that they were evaluated on.
        evaluation: how they were evaluated; its resamples and seed serve the groups too.
        config: sizes.
        origin: what data and models do not say themselves.
        load_recording: asked for the recordings of the clips shown; None leaves them out.
        device: where the first model projects the captions shown: a device's name, or `auto`.

    Raises:
        ConfigError: no model, two of one name, or models scored on different clips.
        CacheError: the models were scored on another cache.
        CheckpointError: the first checkpoint does not fit its own configuration.
    """
    _check_models(models)
    origin = origin or ReportOrigin()
    first = models[0].evaluation
    retrieval = first.retrieval
    rows = rows_of(first, cache)
    headline = _headline(retrieval.scores)
    edges = rank_edges(retrieval.num_clips)
    respects = _respects(cache, rows, retrieval.text_to_audio.clip)
    tables = [model.evaluation.retrieval.text_to_audio for model in models]
    metric = headline.removeprefix("text_to_audio_")
    worst, best = _examples(models[0], cache, config, load_recording, device)
    return ReportContent(
        dataset=cache.dataset,
        split=cache.split,
        part=first.part,
        num_clips=retrieval.num_clips,
        num_captions=retrieval.num_captions,
        headline=headline,
        models=tuple(_model(model, edges) for model in models),
        notes=_notes(models),
        rank_labels=edge_labels(edges),
        rank_chance=tuple(
            (after - start) / retrieval.num_clips for start, after in pairwise(edges)
        ),
        breakdowns=tuple(
            breakdown(respect, values, tables, metric, groups=config.bins, config=evaluation)
            for respect, values in respects
        ),
        images=_images(cache, rows.clips, config.sheet_clips),
        best=best,
        worst=worst,
        provenance=provenance_of(
            cache,
            [(m.name, m.checkpoint, m.checkpoint_url, m.checkpoint_sha256) for m in models],
            first,
            evaluation,
            origin.encoders or {},
        ),
        date=origin.date,
        e2i_version=e2i.__version__,
    )


def _check_models(models: Sequence[ScoredModel]) -> None:
    if not models:
        raise ConfigError(
            "a report needs scores: got 0 models, expected at least 1. Evaluate one first."
        )
    names = [model.name for model in models]
    if len(set(names)) != len(names):
        raise ConfigError(
            f"two models of a report share a name: got {', '.join(names)}, expected a name each. "
            "Rename one."
        )
    first = models[0].evaluation
    for model in models[1:]:
        ids = (model.evaluation.clip_ids, model.evaluation.caption_ids)
        if ids != (first.clip_ids, first.caption_ids):
            raise ConfigError(
                "models side by side were scored on different clips or captions: got "
                f"{len(ids[0])} clips and {len(ids[1])} captions for {model.name}, expected the "
                f"{len(first.clip_ids)} and {len(first.caption_ids)} of {models[0].name}. "
                "Evaluate both on one cache, or write a report each."
            )


def _headline(scores: Mapping[str, Score]) -> str:
    """The recall with the largest cut-off that the candidates suffice for."""
    cutoffs = sorted(RECALL_CUTOFFS, reverse=True)
    return next(key for k in cutoffs if (key := f"text_to_audio_R@{k}") in scores)


def _notes(models: Sequence[ScoredModel]) -> tuple[str, ...]:
    """Of the evaluations and trainings, each once; with its model's name where not all have it."""
    by_model = [
        (model.name, (*model.evaluation.notes, *_training_notes(model.checkpoint)))
        for model in models
    ]
    notes: dict[str, None] = {}
    for name, own in by_model:
        for note in own:
            shared = all(note in others for _, others in by_model)
            notes[note if shared else f"{name}: {note}"] = None
    return tuple(notes)


def _training_notes(checkpoint: Checkpoint | None) -> tuple[str, ...]:
    return () if checkpoint is None else checkpoint.record.notes


def _model(model: ScoredModel, edges: tuple[int, ...]) -> ModelContent:
    retrieval = model.evaluation.retrieval
    return ModelContent(
        name=model.name,
        seen=model.evaluation.seen,
        scores=retrieval.scores,
        rank_shares=tuple(rank_shares(retrieval.text_to_audio.ranks, edges).tolist()),
        curve=None if model.checkpoint is None else _curve(model.checkpoint),
    )


def _curve(checkpoint: Checkpoint) -> TrainingCurve:
    record = checkpoint.record
    metric = chosen_by(record.training.selection_metric, record.history[0].metrics)

    def series(name: str) -> tuple[float, ...]:
        values = [epoch.metrics.get(name) for epoch in record.history]
        known = tuple(value for value in values if value is not None)
        return known if len(known) == len(values) else ()

    return TrainingCurve(
        metric=metric,
        epochs=tuple(epoch.epoch for epoch in record.history),
        train_loss=tuple(epoch.train_loss for epoch in record.history),
        validation_loss=series("val_loss"),
        values=series(metric),
        best_epoch=record.best_epoch,
    )


def _respects(
    cache: CachedEmbeddings, rows: Rows, query_clip: NDArray[np.int64]
) -> list[tuple[tuple[str, str], NDArray[np.float64] | NDArray[np.int64]]]:
    """What captions are grouped by: name, unit, and the value of each; known ones only."""
    captions = [cache.captions[row] for row in rows.captions]
    seconds = cache.duration_s[rows.clips][query_clip]
    found: list[tuple[tuple[str, str], NDArray[np.float64] | NDArray[np.int64]]] = []
    if all(captions):
        found.append((("caption length", "words"), np.array([len(c.split()) for c in captions])))
    if np.isfinite(seconds).all():
        found.append((("clip duration", "s"), seconds))
    return found


def _images(cache: CachedEmbeddings, clips: NDArray[np.int64], count: int) -> tuple[SheetRow, ...]:
    """Clips from all over the split, each with its first caption, at native size."""
    if not count:
        return ()
    spread = np.unique(np.linspace(0, len(clips) - 1, min(count, len(clips))).round().astype(int))
    chosen = clips[spread]
    first = _first_captions(cache)
    captions = np.array([first[clip] for clip in chosen.tolist()])
    native = ImagesConfig(image_size="native")
    audio = encode_images(cache.audio[chosen], native).pixels
    text = encode_images(cache.text[captions], native).pixels
    return tuple(
        SheetRow(cache.clip_ids[clip], cache.shown_caption(caption), audio[row], text[row])
        for row, (clip, caption) in enumerate(zip(chosen.tolist(), captions.tolist(), strict=True))
    )


def _first_captions(cache: CachedEmbeddings) -> dict[int, int]:
    """For each clip the index of its first caption."""
    clips, first = np.unique(cache.caption_clip, return_index=True)
    return dict(zip(clips.tolist(), first.tolist(), strict=True))


def _examples(
    model: ScoredModel,
    cache: CachedEmbeddings,
    config: ReportConfig,
    load_recording: LoadRecording | None,
    device: str,
) -> tuple[tuple[QueryExample, ...], tuple[QueryExample, ...]]:
    """The worst and the best captions of a model; recordings go to the worst first."""
    if not config.examples:
        return (), ()
    finder = ExampleFinder(model.checkpoint, cache, model.evaluation, device)
    best, worst = finder.choose(config.examples)
    shown = query_examples(finder, cache, np.concatenate([worst, best]), load_recording, config)
    return shown[: len(worst)], shown[len(worst) :]
