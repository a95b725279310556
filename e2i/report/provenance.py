"""Where the numbers of a report come from, as facts that a reader can look up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import e2i
from e2i.cache.embeddings import CachedEmbeddings
from e2i.code_version import code_sha256
from e2i.encoders.protocols import Settings
from e2i.heads.checkpoint import Checkpoint
from e2i.retrieval.config import EvaluationConfig
from e2i.training.evaluate import Evaluation
from e2i.training.selection import chosen_by

Facts = Mapping[str, str]
"""Names and values, in the order in which they are shown."""


def provenance_of(
    cache: CachedEmbeddings,
    models: Sequence[tuple[str, Checkpoint | None, str, str]],
    result: Evaluation,
    evaluation: EvaluationConfig,
    encoders: Mapping[str, Settings],
) -> dict[str, Facts]:
    """Groups of facts by title: data, both encoders, each model, the evaluation.

    Args:
        cache: that was evaluated.
        models: name, checkpoint (None for the embeddings as they are), its location, and the
            sha256 of its bytes where known.
        result: of the first model; clips and captions are the same for all.
        evaluation: how they were evaluated.
        encoders: the settings behind the fingerprints, by side (`audio`, `text`), where known.
    """
    clips, captions = result.retrieval.num_clips, result.retrieval.num_captions
    groups: dict[str, Facts] = {
        "Data": {
            "data set": cache.dataset,
            "split": cache.split,
            "part": "all clips" if result.part == "all" else f"{result.part} part",
            "clips": f"{clips:,}",
            "captions": f"{captions:,}",
            "cache": cache.url,
        },
        "Audio encoder": {
            "fingerprint": cache.audio_fingerprint,
            "dim": str(cache.audio.shape[1]),
            **_plain(encoders.get("audio", {})),
        },
        "Text encoder": {
            "fingerprint": cache.text_fingerprint,
            "dim": str(cache.text.shape[1]),
            **_plain(encoders.get("text", {})),
        },
    }
    for name, checkpoint, url, sha256 in models:
        groups[f"Model {name}"] = _model_facts(checkpoint, url, sha256)
    groups["Evaluation"] = {
        "code": f"e2i {e2i.__version__}, sha256 {code_sha256()}",
        "intervals": f"95 %, bootstrap over clips, {evaluation.bootstrap_resamples:,} resamples"
        if evaluation.bootstrap_resamples
        else "none",
        "seed of the resamples": str(evaluation.bootstrap_seed),
        "ties": "expectation over the orders of tied candidates",
    }
    return groups


def _model_facts(checkpoint: Checkpoint | None, url: str, sha256: str) -> Facts:
    if checkpoint is None:
        return {"checkpoint": "none: the embeddings are compared as they are"}
    record = checkpoint.record
    trained_on = [
        f"{cache.dataset}/{cache.split} ({cache.role}, {cache.num_clips:,} clips, "
        f"{cache.num_captions:,} captions)"
        for cache in record.caches
    ]
    heads = record.heads.model_dump(mode="json")
    if heads.get("input_type") != "vision":
        heads = {name: value for name, value in heads.items() if not name.startswith("vision_")}
    heads = {name: value for name, value in heads.items() if value != ""}
    return {
        "checkpoint": url or "not stored",
        **({"checkpoint sha256": sha256} if sha256 else {}),
        "written by": f"e2i {record.e2i_version}",
        "epoch": f"{record.best_epoch} of {len(record.history)}, chosen by validation "
        f"{chosen_by(record.training.selection_metric, checkpoint.metrics)}",
        "seed": str(record.training.seed),
        "caches": "; ".join(trained_on),
        **_plain(heads),
        **_plain(record.training.model_dump(mode="json", exclude={"seed", "selection_metric"})),
    }


def _plain(settings: Mapping[str, object]) -> dict[str, str]:
    """Settings as words: names without underscores, yes and no."""
    words = {True: "yes", False: "no", None: "none"}
    return {
        name.replace("_", " "): words[value]
        if isinstance(value, bool) or value is None
        else str(value)
        for name, value in settings.items()
    }
