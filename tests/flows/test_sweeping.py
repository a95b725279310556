"""The flow of a sweep on a Prefect test server: what it makes, what it makes once, what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from prefect.utilities.callables import parameter_schema

from e2i.errors import RunFailedError
from e2i.storage import Folder
from e2i.tracking.config import TrackingConfig
from flows.learning import eval_projection, train_projection
from flows.sweeping import sweep_heads
from original_files import tensor_file
from plain_program import e2i, plain_program
from tasks import sweeping

SWEEP = """
arms: [mlp, cnn-permuted]
budgets: [6000]
tolerance: 0.1
trials: 2
seeds: 2
steps: 4
batch_size: 20
out_dim: 8
resamples: 100
device: cpu
"""

pytestmark = [
    # Prefect's own client leaves a socket to its test server.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def _write_cache(root: Path, split: str, clips: int, seed: int) -> None:
    """The original's three files, audio and text being views of one hidden point."""
    views = np.random.default_rng(5)
    audio_view, text_view = views.normal(size=(4, 12)), views.normal(size=(4, 10))
    generator = np.random.default_rng(seed)
    hidden = np.repeat(generator.normal(size=(clips, 4)), 2, axis=0)
    folder = Folder(root / split)
    audio = hidden @ audio_view
    text = hidden @ text_view + 0.2 * generator.normal(size=(2 * clips, 10))
    folder.write("audio_embeddings.pt", tensor_file(torch.from_numpy(audio).float()))
    folder.write("text_embeddings.pt", tensor_file(torch.from_numpy(text).float()))
    metadata = {
        "ids": [f"{split} {clip}.wav#{n}" for clip in range(clips) for n in (1, 2)],
        "audio_embedding_shape": list(audio.shape),
        "text_embedding_shape": list(text.shape),
        "audio_sample_rate": 32000,
        "audio_encoder": "AudioEncoder",
        "text_encoder": "TextEncoder",
        "num_pairs": 2 * clips,
        "metadata_source": f"/data/tiny/clotho_csv_files/clotho_captions_{split}.csv",
    }
    folder.write("metadata.json", json.dumps(metadata).encode())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Path]:
    """Three caches side by side, and a sweep's file."""
    for number, (split, clips) in enumerate(
        (("development", 40), ("validation", 20), ("evaluation", 24))
    ):
        _write_cache(tmp_path / "embeddings", split, clips, number)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


def _swept(world: Path, **changes: object):
    call: dict[str, object] = {
        "cache_dir": (str(world / "embeddings" / "development"),),
        "output_dir": str(world / "out"),
        "sweep": str(world / "sweep.yaml"),
        "tracking": TrackingConfig(
            log_dir=str(world / "logs"), run_name="mine", wandb_mode="disabled"
        ),
    }
    return train_projection(**{**call, **changes})


@pytest.mark.usefixtures("prefect_harness")
def test_a_sweep_is_made_once_and_leaves_a_report_and_a_checkpoint(world: Path) -> None:
    first = _swept(world)
    assert (first.counts["runs_made"], first.counts["runs_reused"]) == (8, 0)
    assert first.notes[0].startswith("By text→audio mAP@10, ")
    report = Path(first.locations["report"])
    assert report == world / "out" / "sweep" / "report.html"
    assert first.notes[0] in report.read_text(encoding="utf-8")
    stored = json.loads(Path(first.locations["report_json"]).read_text(encoding="utf-8"))
    assert stored["data"]["num_clips"] == 24
    assert first.details["best"] == "mlp-6000"  # the other arm is a control
    logs = sorted(path.name for path in (world / "logs" / "sweep").glob("*.jsonl"))
    assert logs[0] == "mine-cnn-permuted-6000-trial-01.jsonl"
    assert len(logs) == 8

    scored = eval_projection(
        str(world / "embeddings" / "evaluation"),
        first.locations["checkpoint"],
        tracking=TrackingConfig(log_dir=str(world / "logs"), wandb_mode="disabled"),
    )
    for name, score in scored.metrics.items():
        assert score["value"] == pytest.approx(first.metrics[name]["value"])

    again = _swept(world)
    assert (again.counts["runs_made"], again.counts["runs_reused"]) == (0, 8)
    assert again.metrics == first.metrics
    (world / "sweep.yaml").write_text(SWEEP.replace("trials: 2", "trials: 3"))
    more = _swept(world)
    assert more.counts["runs_made"] >= 2
    assert more.counts["runs_reused"] >= 4


@pytest.mark.usefixtures("prefect_harness")
def test_a_run_that_fails_costs_itself_and_the_next_sweep_makes_it(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = sweeping.make_run, []

    def spoiled(run, *arguments):
        made.append(run.name)
        if len(made) == 2:
            raise ValueError("out of order")
        return make(run, *arguments)

    monkeypatch.setattr(sweeping, "make_run", spoiled)
    with pytest.raises(RunFailedError, match=r"1 of 4 runs of the sweep failed: got out of order"):
        _swept(world)
    assert len(made) == 4
    resumed = _swept(world)
    assert (resumed.counts["runs_made"], resumed.counts["runs_reused"]) == (5, 3)


@pytest.mark.usefixtures("prefect_harness")
def test_one_cache_alone_is_cut_for_the_whole_sweep(world: Path) -> None:
    _write_cache(world / "alone", "development", 200, 7)
    found = _swept(world, cache_dir=(str(world / "alone" / "development"),))
    assert 130 < found.counts["clips"] < 190
    assert found.notes[1].startswith("The scores are those of the best head by validation: ")
    assert "are held out" in found.notes[2]


def test_the_form_has_every_field_with_its_bounds() -> None:
    schema = parameter_schema(sweep_heads.fn).model_dump()
    fields = schema["definitions"]["SweepConfig"]["properties"]
    assert fields["trials"]["minimum"] == 1
    assert fields["trials"]["description"].startswith("Trials of the random search")
    assert "cnn-unpooled" in json.dumps(schema["definitions"])
    assert schema["properties"]["cache_dir"]["description"]


def test_what_is_wrong_with_a_sweep_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sweep.yaml").write_text("trials: 0")
    with plain_program():
        wrong = e2i("train-projection", "--cache-dir", "x", "--sweep", "sweep.yaml")
        absent = e2i("train-projection", "--cache-dir", "x", "--sweep", "none.yaml")
        both = e2i("train-projection", "--sweep", "sweep.yaml", "--epochs", "3")
        alone = e2i("train-projection", "--eval-cache-dir", "x")
    assert [said.code for said in (wrong, absent, both, alone)] == [2, 2, 2, 2]
    assert "sweep.yaml: trials: got 0, expected" in wrong.err
    assert "the sweep's file is not there" in absent.err
    assert "a sweep draws heads and training itself" in both.err
    assert "nothing is evaluated while one head is trained" in alone.err


def test_changed_caches_are_not_mixed_with_what_was_planned(world: Path) -> None:
    caches = str(world / "embeddings")
    parts = sweeping.SweepParts(
        (f"{caches}/development",), f"{caches}/validation", f"{caches}/evaluation", digest="other"
    )
    with pytest.raises(RunFailedError, match="the caches have changed while the sweep ran"):
        sweeping._read_again(parts)
