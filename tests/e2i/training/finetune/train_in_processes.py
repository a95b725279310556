"""A training in two processes, whole or ended by whoever is told of its progress.

python train_in_processes.py ROOT OUTPUT whole|ended OPTIONS

It writes what came of it to OUTPUT/outcome.json, and how many processes are left.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from small_world import SmallWorld, shrink_architectures

from e2i.training.epochs import EpochRecord
from e2i.training.finetune.train import finetune

shrink_architectures()  # in each process: they all begin by importing this


class ToldEnoughError(Exception):
    """What whoever is told of progress raises."""


def main() -> None:
    root, output, how, options = sys.argv[1:]
    torch.set_num_threads(1)
    small = SmallWorld(Path(root))
    told: list[EpochRecord] = []
    batches: list[int] = []

    def on_epoch(record: EpochRecord) -> None:
        told.append(record)
        if how == "ended":
            raise ToldEnoughError

    config = small.config(**json.loads(options))
    error = ""
    try:
        finetune(small.inputs(Path(output)), config, on_epoch, batches.append)
    except ToldEnoughError as raised:
        error = type(raised).__name__
    outcome = {
        "history": [asdict(record) for record in told],
        "batches": sum(batches),
        "error": error,
        "left": len(multiprocessing.active_children()),
    }
    Path(output, "outcome.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main()
