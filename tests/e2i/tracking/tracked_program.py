"""A small run that logs, as a program of its own: `python tracked_program.py LOG_DIR MODE KEY`.

Prints one JSON object: the warnings, and the seconds that each call took.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
import time

import wandb  # noqa: F401 - so that its import is in no measurement

from e2i.tracking.config import TrackingConfig
from e2i.tracking.opening import RunIdentity, open_tracker
from e2i.tracking.wandb_run import WandbAccess


def main() -> None:
    log_dir, mode, has_key = sys.argv[1:4]
    warnings: list[str] = []
    seconds: dict[str, float] = {}
    config = TrackingConfig(log_dir=log_dir, run_name="small")
    run = RunIdentity("0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0", dt.datetime.now(dt.UTC))
    access = WandbAccess(mode.replace("unset", ""), has_key == "key")
    tracker = open_tracker("train", config, run, access, warnings.append)
    for name, call in (
        ("start", lambda: tracker.start({"lr": 0.5, "heads": {"hidden_dim": 512}})),
        ("log", lambda: [tracker.log({"loss": 1.0 / epoch}, epoch) for epoch in (1, 2, 3)]),
        ("summary", lambda: tracker.summary({"text_to_audio_R@10": 0.75})),
        ("finish", lambda: tracker.finish("completed")),
    ):
        started = time.monotonic()
        call()
        seconds[name] = time.monotonic() - started
    sys.stdout.write(json.dumps({"warnings": warnings, "seconds": seconds}) + "\n")
    sys.stdout.flush()


main()
