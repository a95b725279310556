"""A training that kills its own process with SIGKILL, so many batches after the first epoch.

python train_until_killed.py ROOT OUTPUT BATCHES
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from small_world import SmallWorld, shrink_architectures

from e2i.training.epochs import EpochRecord
from e2i.training.finetune.train import finetune

CHANGES: dict[str, object] = {
    "max_audio_seconds": 0.21,
    "patchout_time": 5,
    "word_dropout": 0.2,
    "text_dropout": 0.2,
    "dropout": 0.3,
    "accumulate": 2,
    "grad_cache": 2,
    "learn_temperature": True,
    "save_every": 1,
}


def main() -> None:
    root, output, batches = sys.argv[1:]
    torch.set_num_threads(1)
    shrink_architectures()
    small = SmallWorld(Path(root))
    left = [int(batches)]
    passed: list[EpochRecord] = []

    def count(number: int) -> None:
        if passed:
            left[0] -= number
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    finetune(small.inputs(Path(output)), small.config(**CHANGES), passed.append, count)


if __name__ == "__main__":
    main()
