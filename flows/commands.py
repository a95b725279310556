"""What `e2i` can be told to do: one command a flow.

Conventions: parameters and flows stand here by name, so that nothing is imported for the list.
"""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """One command of the program.

    Attributes:
        summary: one line for the overview.
        parameters: name of its parameter class in `flows.parameters`.
        runs: `module:function`, a flow or, for a quick command, a plain function.
        needs_prefect: whether it runs a flow.
    """

    summary: str
    parameters: str
    runs: str
    needs_prefect: bool = True


COMMANDS: dict[str, Command] = {
    "demo": Command(
        "the full pipeline on generated recordings, offline, nothing to configure",
        "PipelineParameters",
        "flows.full_pipeline:full_pipeline",
    ),
    "run": Command(
        "the full pipeline: embed, render, train, evaluate",
        "PipelineParameters",
        "flows.full_pipeline:full_pipeline",
    ),
    "download-dataset": Command(
        "fetch, check and unpack Clotho, or what is missing of it",
        "DownloadDatasetParameters",
        "flows.downloading:download_dataset",
    ),
    "download-embeddings": Command(
        "restore a cache from the Hugging Face Hub, or from S3",
        "DownloadEmbeddingsParameters",
        "flows.downloading:download_embeddings",
    ),
    "cache-embeddings": Command(
        "embed the recordings and captions of one split",
        "CacheEmbeddingsParameters",
        "flows.caching:cache_embeddings",
    ),
    "cache-images": Command(
        "fold cached embeddings into pseudo-images",
        "CacheImagesParameters",
        "flows.caching:cache_images",
    ),
    "train-projection": Command(
        "train projection heads on cached embeddings",
        "TrainProjectionParameters",
        "flows.learning:train_projection",
    ),
    "eval-projection": Command(
        "retrieval scores of a checkpoint on a cache",
        "EvalProjectionParameters",
        "flows.learning:eval_projection",
    ),
    "finetune": Command(
        "train the encoders themselves, with heads behind them",
        "FinetuneParameters",
        "flows.finetuning:finetune",
    ),
    "compare": Command(
        "whether two evaluations of the same clips differ by more than luck",
        "CompareParameters",
        "flows.compare_command:compare",
        needs_prefect=False,
    ),
    "wandb-dashboard": Command(
        "create the dashboard of a Weights & Biases project",
        "WandbDashboardParameters",
        "flows.dashboard_command:create",
        needs_prefect=False,
    ),
    "publish": Command(
        "put a checkpoint in use, take it back, or show what is in use",
        "PublishParameters",
        "flows.publish_command:publish",
        needs_prefect=False,
    ),
    "reevaluate": Command(
        "whether what is published is still as good as it was",
        "ReevaluateParameters",
        "flows.reevaluating:reevaluate",
    ),
    "doctor": Command(
        "say what is missing before a long run",
        "DoctorParameters",
        "flows.doctor_command:run_doctor",
        needs_prefect=False,
    ),
    "setup-blocks": Command(
        "credentials of this environment into Prefect blocks, for runs on workers",
        "SetupBlocksParameters",
        "flows.blocks_command:setup_blocks",
        needs_prefect=False,
    ),
    "cache info": Command(
        "what a cache holds",
        "CacheInfoParameters",
        "flows.cache_commands:cache_info",
        needs_prefect=False,
    ),
    "cache verify": Command(
        "check every shard of a cache against its manifest",
        "CacheVerifyParameters",
        "flows.cache_commands:cache_verify",
        needs_prefect=False,
    ),
    "cache repair": Command(
        "embed again what is broken in a cache, and only that",
        "CacheRepairParameters",
        "flows.repairing:cache_repair",
    ),
    "cache compact": Command(
        "merge a cache's small shards while readers go on",
        "CacheCompactParameters",
        "flows.cache_commands:cache_compact",
        needs_prefect=False,
    ),
    "cache prune": Command(
        "delete the shards and rows that a cache no longer counts",
        "CachePruneParameters",
        "flows.cache_commands:cache_prune",
        needs_prefect=False,
    ),
}
