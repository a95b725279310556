"""The program `e2i`: one command a flow, made from the same configuration objects.

Conventions: progress goes to stderr, results to stdout; with `--json` stdout is one JSON object.
Exit codes: 0 done; 1 the run failed; 2 the call was wrong; 130 and 143 on Ctrl-C and SIGTERM.
Nothing heavy is imported before the call is known to be right.
"""

from __future__ import annotations

import difflib
import gc
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NamedTuple, NoReturn

USAGE = """\
usage: e2i COMMAND [OPTIONS]

Captioned recordings in, text-to-audio search out: Prefect flows over an object store.
"""


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


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [USAGE, "commands:"]
    lines += [f"  {name:<{width}}{command.summary}" for name, command in COMMANDS.items()]
    lines += [
        "",
        "`e2i COMMAND --help` lists the options of a command; `e2i --version` the version.",
    ]
    return "\n".join(lines)


def _refuse(message: str) -> NoReturn:
    sys.stderr.write(f"e2i: {message}\n")
    raise SystemExit(2)


def _split_command(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The command's name and its own arguments."""
    for length in (2, 1):
        name = " ".join(arguments[:length])
        if name in COMMANDS and len(arguments) >= length:
            return name, _with_location(name, list(arguments[length:]))
    groups = {name.split()[0] for name in COMMANDS if " " in name}
    if arguments[0] in groups:
        members = [name for name in COMMANDS if name.startswith(f"{arguments[0]} ")]
        rest = [a for a in arguments[1:] if a not in ("-h", "--help")]
        if not rest:
            width = max(map(len, members)) + 2
            lines = [f"  e2i {name:<{width}}{COMMANDS[name].summary}" for name in members]
            sys.stdout.write(
                "\n".join([f"usage: e2i {arguments[0]} COMMAND [OPTIONS]", "", *lines, ""])
            )
            raise SystemExit(0 if len(arguments) > 1 else 2)
        _refuse(f"unknown command: got '{arguments[0]} {rest[0]}', expected one of {members}.")
    close = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
    hint = f"Did you mean '{close[0]}'?" if close else "`e2i --help` lists the commands."
    _refuse(f"unknown command: got {arguments[0]!r}, expected one of {', '.join(COMMANDS)}. {hint}")


def _with_location(name: str, rest: list[str]) -> list[str]:
    """`e2i cache verify URL` for `e2i cache verify --cache-dir URL`."""
    if name.startswith("cache ") and rest and not rest[0].startswith("-"):
        return ["--cache-dir", *rest]
    return rest


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    raise SystemExit(128 + signum)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the program and end the process with its exit code."""
    try:
        _main(list(sys.argv[1:] if argv is None else argv))
    except BrokenPipeError:
        os._exit(128 + signal.SIGPIPE)  # whoever read the output has gone, as `head` does


def _main(arguments: list[str]) -> NoReturn:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(_overview() + "\n")
        raise SystemExit(0 if arguments else 2)
    if arguments[0] in ("--version", "-V"):
        from e2i import __version__

        sys.stdout.write(f"e2i {__version__}\n")
        raise SystemExit(0)
    name, rest = _split_command(arguments)
    signal.signal(signal.SIGTERM, _terminate)
    gc.disable()  # a tenth of the answer's time, and what is made here stays anyway
    try:
        from flows.command_options import parse_options

        options = parse_options(name, COMMANDS[name].parameters, rest)
    finally:
        gc.enable()
    from flows.execution import execute

    code = execute(name, COMMANDS[name], options)
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of libraries that are still winding down have nothing left to say.
    os._exit(code)


if __name__ == "__main__":
    main()
