"""What the flows and the commands take, made of the library's configuration objects.

Conventions: a location is a local path or any fsspec URL. Empty means "the default", which the
field's description gives. Nothing here imports Prefect or torch, so that help and forms are quick.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import tyro
from pydantic import Field, SecretStr, StringConstraints, WithJsonSchema, model_validator

from e2i.cache.config import CacheConfig
from e2i.configuration import Configuration
from e2i.datasets.config import MetadataConfig
from e2i.datasets.download_config import DownloadConfig
from e2i.datasets.soundscapes.config import SoundscapesConfig
from e2i.encoders.config import EncodersConfig
from e2i.heads.config import HeadsConfig
from e2i.hub.config import DEFAULT_REPO, HubConfig
from e2i.images.config import ImagesConfig
from e2i.reevaluation.config import ReevaluationConfig
from e2i.retrieval.config import (
    ComparisonConfig,
    EvaluationConfig,
    RankingConfig,
    ScoreFilesConfig,
)
from e2i.tracking.config import TrackingConfig
from e2i.training.config import TrainingConfig
from e2i.training.finetune.config import PRESETS, FinetuneConfig
from flows.blocks_parameters import SetupBlocksParameters  # noqa: F401 - found here by name
from flows.dashboard_parameters import WandbDashboardParameters  # noqa: F401 - found by name
from flows.doctor_parameters import DoctorParameters  # noqa: F401 - found here by name
from flows.runner_parameters import RunnerConfig

DATA_ROOT = "~/data/CLOTHO_v2.1"
TRAINING_CACHE = f"{DATA_ROOT}/embeddings/development"
DATASETS = ("clotho", "soundscapes")
DatasetName = Literal["clotho", "soundscapes"]
Placement = Literal["here", "pools"]
# Options of such a concern keep their bare names on the command line (`--audio-encoder`); where two
# concerns share a name, as in the full pipeline, theirs carry the concern's (`--training.device`).
_Bare = tyro.conf.arg(name="")

CHECKPOINT_NAME = "projection_heads.safetensors"
VISION_CHECKPOINT_NAME = "projection_heads_vision.safetensors"
CheckpointName = Annotated[str, StringConstraints(pattern=r"^[\w][\w.+=@-]*\.safetensors$")]


CNN_HEADS = HeadsConfig(input_type="vision", vision_image_size="native", dropout=0.3)
CNN_TRAINING = TrainingConfig(epochs=8, batch_size=128, lr=1e-3, weight_decay=0.05)
"""Chosen on the validation split of the generated data set."""


class PipelineParameters(Configuration):
    """The full pipeline: recordings and captions in, a retrieval score out."""

    store_url: str = Field(
        DATA_ROOT,
        min_length=1,
        description="Folder or URL that everything is stored below: data, embeddings, "
        "checkpoints, reports.",
    )
    dataset: DatasetName = Field(
        "clotho",
        description="'clotho', read from <store>/data/clotho and downloaded to it where it is "
        "missing, or 'soundscapes', generated.",
    )
    download: DownloadConfig = DownloadConfig()
    soundscapes: Annotated[SoundscapesConfig, _Bare] = SoundscapesConfig()
    encoders: Annotated[EncodersConfig, _Bare] = EncodersConfig()
    cache: Annotated[CacheConfig, _Bare] = CacheConfig()
    images: Annotated[ImagesConfig, _Bare] = ImagesConfig()
    heads: HeadsConfig = HeadsConfig()
    training: TrainingConfig = TrainingConfig()
    vision_arm: bool = Field(
        False,
        description="Whether a CNN is trained on the pseudo-images as well, and both are scored.",
    )
    vision_heads: HeadsConfig = CNN_HEADS
    vision_training: TrainingConfig = CNN_TRAINING
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: Annotated[TrackingConfig, _Bare] = TrackingConfig(log_dir="")
    runner: Annotated[RunnerConfig, _Bare] = RunnerConfig()
    placement: Placement = Field(
        "here",
        description="'here': every step in this run; 'pools': embedding and training as runs of "
        "their own on the work pool e2i-gpu, the rest here. That needs a Prefect server with the "
        "deployments of `make deploy`, workers for both pools, and a store that all reach.",
    )


DEMO = PipelineParameters(
    store_url="demo",
    dataset="soundscapes",
    encoders=EncodersConfig(audio_encoder="logmel", text_encoder="hashing"),
    images=ImagesConfig(image_size="native"),
    vision_arm=True,
)
"""The same pipeline on generated data, offline, with nothing to configure."""


class DownloadDatasetParameters(Configuration):
    """Fetch, check and unpack Clotho, or what is missing of it."""

    data_root: str = Field(
        DATA_ROOT, min_length=1, description="Local folder that the data set is kept in."
    )
    download: Annotated[DownloadConfig, _Bare] = DownloadConfig()


class EmbeddingImagesConfig(ImagesConfig):
    """The same pseudo-images; beside embedding, the original calls its clamp `--clip-images`."""

    clip_values: Annotated[bool, tyro.conf.arg(name="clip-images", aliases=["--clip-values"])] = (
        Field(default=False, description=ImagesConfig.model_fields["clip_values"].description)
    )


_SECRET = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="TOKEN",
    instance_from_str=lambda words: SecretStr(words[0]),
    is_instance=lambda value: value is None or isinstance(value, SecretStr),
    str_from_instance=lambda value: ["none" if value is None else str(value)],
)


# Prefect stores and shows what a run of a deployment is given, so its form takes no token.
_IN_NO_FORM = WithJsonSchema(
    {
        "type": "null",
        "title": "Hf Token",
        "description": "Not here, where it would be stored: a run takes it from the Prefect block "
        "e2i-hub or from HF_TOKEN.",
    }
)


class HubOptions(HubConfig):
    """The same, with a token that can be typed and is not shown."""

    hf_token: Annotated[SecretStr | None, _SECRET, _IN_NO_FORM] = Field(
        default=None, description=HubConfig.model_fields["hf_token"].description
    )


class CacheEmbeddingsParameters(Configuration):
    """Embed the recordings and captions of one split, once each, and store them."""

    source: Annotated[MetadataConfig, _Bare] = MetadataConfig(
        metadata=f"{DATA_ROOT}/clotho_csv_files/clotho_captions_development.csv"
    )
    cache_dir: str = Field(
        "",
        description="Folder or URL of the cache; default: embeddings/<split> below the data set.",
    )
    encoders: Annotated[EncodersConfig, _Bare] = EncodersConfig()
    cache: Annotated[CacheConfig, _Bare] = CacheConfig()
    with_images: bool = Field(
        False, description="Fold the embeddings into pseudo-images too, as cache-images does."
    )
    images: Annotated[EmbeddingImagesConfig, _Bare] = EmbeddingImagesConfig()
    hub: Annotated[HubOptions, _Bare] = HubOptions()
    runner: Annotated[RunnerConfig, _Bare] = RunnerConfig()


class CacheImagesParameters(Configuration):
    """Fold the cached embeddings into pseudo-images and store them as PNGs."""

    cache_dir: str = Field(min_length=1, description="Folder or URL of the cache.")
    images: Annotated[ImagesConfig, _Bare] = ImagesConfig()
    hub: Annotated[HubOptions, _Bare] = HubOptions()
    include_embeddings: bool = Field(
        False,
        description="Mirror the embeddings as well: shards, manifest, and the tensors of the "
        "original's form where they are stored.",
    )
    runner: Annotated[RunnerConfig, _Bare] = RunnerConfig()


class TrainProjectionParameters(Configuration):
    """Train projection heads on cached embeddings; keep the best epoch by validation."""

    cache_dir: tyro.conf.UseAppendAction[tuple[str, ...]] = Field(
        (),
        description="Folder or URL of a cache to train on; give it again for more caches, by the "
        f"same encoders. Default: {TRAINING_CACHE}.",
    )
    exclude_ids: str = Field(
        "",
        description="CSV of clips to leave out of training: a column clip_id or file_name, or "
        "sound_id as in the DCASE lists of Freesound ids; dataset and split hold a row to one.",
    )
    val_cache_dir: str = Field(
        "",
        description="Cache to select on; default: the cache 'validation' beside the training "
        "cache, if that is the only one and it is there; else a part of the training clips.",
    )
    eval_cache_dir: str = Field(
        "",
        description="With --sweep: cache that its winners are scored on; default: the cache "
        "'evaluation' beside the training cache, if it is there; else a part of the training "
        "clips.",
    )
    output_dir: str = Field(
        "checkpoints", min_length=1, description="Folder or URL that the checkpoint is written to."
    )
    checkpoint_name: CheckpointName = Field(
        CHECKPOINT_NAME, description="File name of the checkpoint there, *.safetensors."
    )
    sweep: str = Field(
        "",
        description="YAML, TOML or JSON file or URL that says which heads are compared, by how "
        "many trials, steps and seeds: many trainings in place of one, and a report. The heads "
        "and training options are not used then.",
    )
    heads: Annotated[HeadsConfig, _Bare] = HeadsConfig()
    training: Annotated[TrainingConfig, _Bare] = TrainingConfig()
    tracking: Annotated[TrackingConfig, _Bare] = TrackingConfig()

    @model_validator(mode="after")
    def _sweep_says_it_all(self) -> Self:
        if self.eval_cache_dir and not self.sweep:
            message = (
                f"nothing is evaluated while one head is trained: got eval_cache_dir "
                f"{self.eval_cache_dir!r} without sweep, expected both. Give --sweep, or evaluate "
                "with eval-projection."
            )
            raise ValueError(message)
        if self.sweep and (self.heads != HeadsConfig() or self.training != TrainingConfig()):
            message = (
                f"a sweep draws heads and training itself: got {self.sweep!r} beside other options "
                "of these, expected the file alone. Say it in the file, or leave --sweep out."
            )
            raise ValueError(message)
        return self


class EvalProjectionParameters(Configuration):
    """Score a checkpoint on a cache that it has not seen."""

    cache_dir: str = Field(
        f"{DATA_ROOT}/embeddings/evaluation",
        min_length=1,
        description="Folder or URL of the cache to evaluate on.",
    )
    checkpoint: str = Field(
        f"checkpoints/{CHECKPOINT_NAME}",
        min_length=1,
        description="Checkpoint file or URL; 'none' compares the embeddings themselves.",
    )
    batch_size: int = Field(
        1024, ge=1, le=1_000_000, description="Embeddings projected in one forward pass."
    )
    device: str = Field("auto", min_length=1, description="auto, cpu, cuda, cuda:<n> or mps.")
    allow_seen: bool = Field(
        False,
        description="Score clips that the checkpoint was trained or selected on too; every "
        "output then says 'seen'.",
    )
    ranking: Annotated[RankingConfig, _Bare] = RankingConfig()
    evaluation: Annotated[EvaluationConfig, _Bare] = EvaluationConfig()
    files: Annotated[ScoreFilesConfig, _Bare] = ScoreFilesConfig()
    tracking: Annotated[TrackingConfig, _Bare] = TrackingConfig()

    @model_validator(mode="after")
    def _score_one_or_several(self) -> Self:
        default = type(self).model_fields["checkpoint"].default
        if self.ranking.ensemble and self.checkpoint != default:
            message = (
                f"checkpoint and ensemble exclude each other: got {self.checkpoint!r} beside "
                f"{len(self.ranking.ensemble)} checkpoints, expected one of the two. Name all "
                "checkpoints with --ensemble."
            )
            raise ValueError(message)
        return self


class FinetuneParameters(Configuration):
    """Train PaSST, a text model and a head behind each, end to end; keep the best epoch."""

    source: Annotated[MetadataConfig, _Bare] = MetadataConfig(
        metadata=f"{DATA_ROOT}/clotho_csv_files/clotho_captions_development.csv"
    )
    val_metadata: str = Field(
        "",
        description="Caption file to choose the epoch by; default: the one of the split "
        "'validation' beside --metadata, if it is there; else a part of the clips.",
    )
    test_metadata: str = Field(
        "",
        description="Caption file to test the best epoch on; default: the one of the split "
        "'evaluation' beside --metadata; else a part of the clips, where validation is one.",
    )
    output_dir: str = Field(
        "checkpoints",
        min_length=1,
        description="Folder or URL of finetune_<model type>.safetensors (the best epoch) and "
        "finetune_<model type>_last.safetensors.",
    )
    waveform_dir: str = Field(
        "",
        description="Folder or URL that decoded recordings are kept in, 16 bits at the encoder's "
        "rate (64 kB a second); default: waveforms below the data set.",
    )
    finetuning: Annotated[FinetuneConfig, _Bare] = FinetuneConfig()
    tracking: Annotated[TrackingConfig, _Bare] = TrackingConfig()


def finetune_defaults(preset: str) -> FinetuneParameters:
    """The defaults of `finetune` under a preset; of an unknown one those without."""
    known = preset if preset in PRESETS else "none"
    return FinetuneParameters(finetuning=FinetuneConfig.model_validate({"preset": known}))


class CompareParameters(Configuration):
    """Say whether two evaluations of the same clips differ by more than luck."""

    first: Annotated[str, tyro.conf.Positional] = Field(
        min_length=1,
        description="Score record (<reports-dir>/<run name>.json), or a checkpoint whose record "
        "lies in --reports-dir.",
    )
    second: Annotated[str, tyro.conf.Positional] = Field(
        min_length=1, description="The one that it is compared with, likewise."
    )
    reports_dir: str = Field(
        "reports", min_length=1, description="Folder or URL of the records of checkpoints."
    )
    comparison: Annotated[ComparisonConfig, _Bare] = ComparisonConfig()


class PublishParameters(Configuration):
    """Put a checkpoint in use, take it back, or show what is in use."""

    store_url: str = Field(
        DATA_ROOT,
        min_length=1,
        description="Folder or URL of the store: published.json says there what is in use.",
    )
    checkpoint: str = Field(
        "",
        description="Checkpoint file or URL; it is copied into the store. Default: "
        f"checkpoints/{CHECKPOINT_NAME} in the store.",
    )
    cache_dir: str = Field(
        "",
        description="Cache that it is evaluated on, now and later; default: embeddings/evaluation "
        "in the store. Caches that it was trained on are looked for beside it.",
    )
    rollback: bool = Field(
        False, description="Put in use again what the published one took the place of."
    )
    show: bool = Field(False, description="Show what is in use, and change nothing.")
    device: str = Field("auto", min_length=1, description="auto, cpu, cuda, cuda:<n> or mps.")

    @model_validator(mode="after")
    def _do_one_thing(self) -> Self:
        asked = [n for n in ("checkpoint", "rollback", "show") if getattr(self, n)]
        if len(asked) > 1:
            message = (
                f"{' and '.join(asked)} exclude each other: got {len(asked)} of them, expected one "
                "at most. Leave the others out."
            )
            raise ValueError(message)
        return self


class ReevaluateParameters(Configuration):
    """Evaluate what is published on today's recordings, by today's code; fail where it dropped.

    Metadata and encoders are those that the cache has on record, unless they are given.
    """

    store_url: str = Field(
        DATA_ROOT, min_length=1, description="Folder or URL of the store that it is published in."
    )
    source: Annotated[MetadataConfig, _Bare] = MetadataConfig()
    encoders: Annotated[EncodersConfig, _Bare] = EncodersConfig()
    cache: Annotated[CacheConfig, _Bare] = CacheConfig()
    reevaluation: Annotated[ReevaluationConfig, _Bare] = ReevaluationConfig()
    evaluation: Annotated[EvaluationConfig, _Bare] = EvaluationConfig()
    comparison: Annotated[ComparisonConfig, _Bare] = ComparisonConfig()
    tracking: Annotated[TrackingConfig, _Bare] = TrackingConfig(log_dir="")


class DownloadEmbeddingsParameters(Configuration):
    """Restore a cache from the Hugging Face Hub, or from another folder."""

    cache_dir: str = Field(min_length=1, description="Folder or URL that the cache is restored to.")
    repo_id: str = Field(
        DEFAULT_REPO,
        min_length=1,
        description="Data set on the Hugging Face Hub, 'owner/name', or the folder that caches are "
        "kept in (s3://bucket/embeddings, /data/embeddings or ./embeddings).",
    )
    subset: str = Field(
        "",
        description="Folder of the cache there; default: the name of cache_dir, or else the root.",
    )
    revision: str | None = Field(
        None, min_length=1, description="Branch, tag or commit of the data set; default: main."
    )
    force: bool = Field(
        False, description="Replace what cache_dir holds, if that is something else."
    )
    print_stats: bool = Field(
        False, description="Print figures about the embeddings: shape, lengths, values."
    )


_CACHE = "Folder or URL of the cache; first behind the command it needs no `--cache-dir` before it."


class CacheInfoParameters(Configuration):
    """What a cache holds."""

    cache_dir: str = Field(min_length=1, description=_CACHE)


class CacheVerifyParameters(Configuration):
    """Check every shard of a cache against its manifest; exit code 1 if anything is wrong."""

    cache_dir: str = Field(min_length=1, description=_CACHE)


class CacheRepairParameters(Configuration):
    """Embed again what is broken in a cache, and only that; delete what no manifest counts.

    Metadata and encoders are those that the cache has on record, unless they are given.
    """

    cache_dir: str = Field(min_length=1, description=_CACHE)
    source: Annotated[MetadataConfig, _Bare] = MetadataConfig()
    encoders: Annotated[EncodersConfig, _Bare] = EncodersConfig()
    cache: Annotated[CacheConfig, _Bare] = CacheConfig()
    runner: Annotated[RunnerConfig, _Bare] = RunnerConfig()


class CacheCompactParameters(Configuration):
    """Merge a cache's small shards under a new manifest, while readers go on."""

    cache_dir: str = Field(min_length=1, description=_CACHE)


class CachePruneParameters(Configuration):
    """Delete the shards and rows that a cache's manifest does not count."""

    cache_dir: str = Field(min_length=1, description=_CACHE)
