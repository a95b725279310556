"""A small run that logs, as a program of its own: `python tracked_program.py LOG_DIR MODE KEY`.

Prints one JSON object: the warnings, the seconds that each call took, and where the logs are.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
import time

import wandb  # noqa: F401 - so that its import is in no measurement

from e2i.tracking.config import TrackingConfig
from e2i.tracking.opening import RunIdentity, open_tracker
from e2i.tracking.tracker import StoredArtifact
from e2i.tracking.wandb_run import RunLabels, WandbAccess


def main() -> None:
    log_dir, mode, has_key = sys.argv[1:4]
    warnings: list[str] = []
    seconds: dict[str, float] = {}
    config = TrackingConfig(log_dir=log_dir, run_name="small")
    labels = RunLabels("train-projection", "sounds-logmel-hashing", ("sounds", "logmel", "x" * 70))
    run = RunIdentity("0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0", dt.datetime.now(dt.UTC), labels)
    heads = StoredArtifact(
        "projection heads",
        "model",
        "s3://key:hush@bucket/checkpoints/heads.safetensors",
        "0f" * 32,
        {"audio_fingerprint": "a1b2"},
    )
    access = WandbAccess(mode.replace("unset", ""), has_key == "key")
    tracker = open_tracker("train", config, run, access, warnings.append)
    for name, call in (
        ("start", lambda: tracker.start({"lr": 0.5, "heads": {"hidden_dim": 512}})),
        ("log", lambda: [tracker.log({"loss": 1.0 / epoch}, epoch) for epoch in (1, 2, 3)]),
        ("artifact", lambda: tracker.artifact(heads)),
        ("summary", lambda: tracker.summary({"text_to_audio_R@10": 0.75})),
        ("finish", lambda: tracker.finish("completed")),
    ):
        started = time.monotonic()
        call()
        seconds[name] = time.monotonic() - started
    answer = {"warnings": warnings, "seconds": seconds, "links": tracker.links()}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


main()
