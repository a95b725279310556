"""Runs of a sweep: planned on equal terms, made once, resumed by what is stored; the report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_caches import tiny_cache

from e2i.errors import ConfigError, RunFailedError, SeenClipsError
from e2i.heads.checkpoint import load_checkpoint
from e2i.report.sweep_content import SweepContent, sweep_content
from e2i.report.sweep_page import write_sweep_report
from e2i.retrieval.config import EvaluationConfig
from e2i.storage import Folder
from e2i.sweep import runs as runs_module
from e2i.sweep.best import FEWER_KEY, score_best
from e2i.sweep.config import SweepConfig
from e2i.sweep.data import SweepData, of_clips, sweep_data
from e2i.sweep.outcome import CONTROLS, arm_outcomes, best_arm
from e2i.sweep.runs import (
    RunResult,
    SweepRun,
    checkpoint_name,
    make_run,
    planned_trials,
    selection_value,
    steps_an_epoch,
    stored_result,
    winners,
)
from e2i.training.evaluate import evaluate_checkpoint

Made = list[tuple[SweepRun, RunResult]]


@pytest.fixture(scope="module")
def swept(
    config: SweepConfig, data: SweepData, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Folder, Made, Made]:
    """A whole sweep of all arms, made once for this file."""
    folder = Folder(tmp_path_factory.mktemp("sweep"))
    trials = [(run, make_run(run, data, folder)) for run in planned_trials(config, data)]
    chosen = winners(config, *map(list, zip(*trials, strict=True)))
    return folder, trials, [(run, make_run(run, data, folder)) for run in chosen]


@pytest.fixture(scope="module")
def content(config: SweepConfig, data: SweepData, swept: tuple[Folder, Made, Made]) -> SweepContent:
    folder, trials, fresh = swept
    outcomes = arm_outcomes(config, data, trials, fresh, folder)
    best = score_best(config, best_arm(config, outcomes), data, folder)
    return sweep_content(config, data, outcomes, best, notes=("<b>held</b>",), date="today")


def test_all_arms_are_tried_on_equal_terms(config: SweepConfig, data: SweepData) -> None:
    planned = planned_trials(config.model_copy(update={"budgets": (6000, 9000)}), data)
    assert len(planned) == 6 * 2 * 2
    assert len({run.fingerprint(data.digest) for run in planned}) == len(planned)
    for trial in (1, 2):
        same = [run for run in planned if run.number == trial]
        assert len({run.training for run in same}) == 1
        assert len({run.heads.dropout for run in same}) == 1
    assert {run.training.epochs for run in planned} == {2}
    assert steps_an_epoch(data, config.batch_size) == 4


def test_more_trials_leave_the_earlier_ones_where_they_are(
    config: SweepConfig, data: SweepData
) -> None:
    few = {run.fingerprint(data.digest) for run in planned_trials(config, data)}
    more = config.model_copy(update={"trials": 5, "seeds": 3, "resamples": 200})
    assert few < {run.fingerprint(data.digest) for run in planned_trials(more, data)}


def test_an_evaluation_on_which_the_metric_says_nothing_is_refused_at_once(
    config: SweepConfig, data: SweepData
) -> None:
    few = replace(data, evaluation=of_clips(data.evaluation, np.arange(10)))
    with pytest.raises(ConfigError, match=r"too small for text_to_audio_mAP@10: got 10 candidates"):
        planned_trials(config, few)
    with pytest.raises(ConfigError, match=r"got 20 candidates, expected more than 25"):
        planned_trials(config.model_copy(update={"metric": "audio_to_text_R@25"}), few)


def test_a_fingerprint_knows_data_heads_and_training(config: SweepConfig, data: SweepData) -> None:
    run = planned_trials(config, data)[0]
    others = [
        run.model_copy(update={"training": run.training.model_copy(update={"lr": 0.1})}),
        run.model_copy(update={"heads": run.heads.model_copy(update={"dropout": 0.2})}),
        run.model_copy(update={"arm": "mlp-decoded"}),
        run.model_copy(update={"kind": "winner"}),
        run.model_copy(update={"view_seed": 1}),
    ]
    prints = {one.fingerprint(data.digest) for one in (run, *others)} | {run.fingerprint("x")}
    assert len(prints) == 7


def test_winners_are_the_best_trials_with_fresh_seeds(
    config: SweepConfig, swept: tuple[Folder, Made, Made]
) -> None:
    _, trials, fresh = swept
    assert len(fresh) == 6 * config.seeds
    for arm in config.arms:
        values = [selection_value(config, result) for run, result in trials if run.arm == arm]
        best = [run for run, _ in trials if run.arm == arm][int(np.argmax(values))]
        mine = [run for run, _ in fresh if run.arm == arm]
        assert [run.training.seed for run in mine] == [14, 15]
        for run in mine:
            assert run.heads == best.heads
            assert run.training == best.training.model_copy(update={"seed": run.training.seed})


def test_a_run_is_made_once_and_gives_the_same_again(
    config: SweepConfig, data: SweepData, swept: tuple[Folder, Made, Made], tmp_path: Path
) -> None:
    folder, trials, fresh = swept
    for run, result in (*trials, *fresh):
        assert stored_result(run, data.digest, folder) == result
    assert stored_result(trials[0][0], "other data", folder) is None
    run, result = fresh[-1]
    again = make_run(run, data, Folder(tmp_path))
    assert again.model_copy(update={"seconds": 0.0}) == result.model_copy(update={"seconds": 0.0})
    for table in result.queries.values():
        assert Folder(tmp_path).read(table) == folder.read(table)


def test_a_run_that_was_cut_off_is_made_anew(
    config: SweepConfig, data: SweepData, swept: tuple[Folder, Made, Made], tmp_path: Path
) -> None:
    _, _, fresh = swept
    run, result = fresh[0]
    folder = Folder(tmp_path)

    def cut(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_run(run, data, folder, cut)
    assert stored_result(run, data.digest, folder) is None
    folder.write(f"runs/{result.fingerprint}.json", b'{"name": "half')
    assert stored_result(run, data.digest, folder) is None
    made = make_run(run, data, folder)
    assert made.evaluation == result.evaluation
    assert stored_result(run, data.digest, folder) == made
    for lost in (checkpoint_name(made), made.queries["audio_to_text"]):
        kept = folder.read(lost)
        folder.delete(lost)
        assert stored_result(run, data.digest, folder) is None
        folder.write(lost, kept)


def test_only_winners_are_scored_and_on_clips_they_have_not_seen(
    data: SweepData, swept: tuple[Folder, Made, Made]
) -> None:
    folder, trials, fresh = swept
    assert all(not result.evaluation and not result.queries for _, result in trials)
    assert all("text_to_audio_mAP@10" in result.evaluation for _, result in fresh)
    run, result = next(pair for pair in fresh if pair[0].arm == "mlp")
    checkpoint = load_checkpoint(folder, checkpoint_name(result))
    again = evaluate_checkpoint(checkpoint, data.evaluation, EvaluationConfig(), device="cpu")
    assert {n: s.value for n, s in again.retrieval.scores.items()} == result.evaluation
    leaky = replace(data, evaluation=data.validation)
    with pytest.raises(SeenClipsError, match="has seen clips"):
        make_run(run, leaky, folder)


def test_a_trial_that_diverges_is_a_result_and_a_winner_that_does_is_an_error(
    config: SweepConfig, data: SweepData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: object, **__: object) -> None:
        raise RunFailedError("training diverged")

    monkeypatch.setattr(runs_module, "train_heads", diverge)
    folder = Folder(tmp_path)
    trials = planned_trials(config, data)
    results = [make_run(run, data, folder) for run in trials]
    assert all(result.diverged for result in results)
    assert selection_value(config, results[0]) == 0.0
    assert stored_result(trials[0], data.digest, folder) == results[0]
    with pytest.raises(RunFailedError, match=r"every trial .* 'linear' at 6,000 parameters in 2 "):
        winners(config, trials, results)
    with pytest.raises(RunFailedError, match="training diverged"):
        make_run(trials[0].model_copy(update={"kind": "winner"}), data, folder)


def test_every_arm_is_held_against_the_mlp(config: SweepConfig, content: SweepContent) -> None:
    by_arm = {one.arm: one for one in content.outcomes}
    assert tuple(by_arm) == config.arms
    assert by_arm["mlp"].difference is None
    for arm, one in by_arm.items():
        assert len(one.curve) == len(one.trial_values) == config.trials
        assert one.trial_values[one.winner - 1] == max(one.trial_values)
        if arm != "mlp":
            assert one.difference is not None
            apart = one.mean(config.metric) - by_arm["mlp"].mean(config.metric)
            assert one.difference.value == pytest.approx(apart, abs=1e-12)
            assert one.difference.low < one.difference.value < one.difference.high
    assert content.best.outcome.arm not in CONTROLS
    assert by_arm["mlp-decoded"].mean(config.metric) == pytest.approx(
        by_arm["mlp"].mean(config.metric), abs=0.05
    )


def test_the_best_head_stands_beside_its_corrections(content: SweepContent) -> None:
    variants = content.best.variants
    assert list(variants) == [
        "single model",
        "corrected for hubs",
        "ensemble of two seeds",
        "ensemble, corrected",
    ]
    assert variants["single model"] != variants["ensemble of two seeds"]
    assert not content.best.seen
    for scores in variants.values():
        assert FEWER_KEY not in scores  # 40 clips are fewer already
        assert scores["text_to_audio_R@10"].value > 2 * scores["text_to_audio_R@10"].chance


def test_among_more_clips_the_recall_among_a_hundred_is_stated(
    config: SweepConfig, data: SweepData, swept: tuple[Folder, Made, Made]
) -> None:
    folder, trials, fresh = swept
    outcomes = arm_outcomes(config, data, trials, fresh, folder)
    wide = sweep_data([*data.train], data.validation, tiny_cache("wide", 150, 9), seed=13)
    scores = score_best(config, best_arm(config, outcomes), wide, folder).variants["single model"]
    few, many = scores[FEWER_KEY], scores["text_to_audio_R@10"]
    assert few.chance == 0.1
    assert many.value < few.value < 1.0
    assert few.low is not None
    assert few.high is not None
    assert few.low < few.value < few.high


def test_the_report_says_all_of_it_in_one_page_and_in_json(
    content: SweepContent, tmp_path: Path
) -> None:
    folder = Folder(tmp_path)
    folder.write("report/gone.png", b"of an earlier report")
    locations = write_sweep_report(folder, content)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert locations["report"] == f"{folder.url}/report.html"
    assert f"<h1>{content.sentence}</h1>" in page
    assert "&lt;b&gt;held&lt;/b&gt;" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    stored = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert stored["sentence"] == content.sentence
    assert [arm["arm"] for arm in stored["arms"]] == list(content.config.arms)
    for arm in stored["arms"]:
        assert arm["words"] in page
        assert f"{arm['parameters']:,}" in page
        assert f"{100 * arm['mean']:.1f}" in page
        assert len(arm["evaluation"]) == 2
        assert (arm["difference"] is None) == (arm["arm"] == "mlp")
    names = sorted(path.stem for path in (tmp_path / "report").glob("*.png"))
    plots = ("differences", "seeds", "trials-6000")
    assert names == sorted([*plots, *(f"{name}-dark" for name in plots)])


def test_tables_that_are_gone_or_differ_are_told(
    config: SweepConfig, data: SweepData, swept: tuple[Folder, Made, Made], tmp_path: Path
) -> None:
    _, trials, fresh = swept
    with pytest.raises(RunFailedError, match=r"the scores of a run are gone: got no runs/.*\.par"):
        arm_outcomes(config, data, trials, fresh, Folder(tmp_path))
