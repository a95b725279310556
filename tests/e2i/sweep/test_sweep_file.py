"""Files that say what a sweep is: three notations, one meaning, and errors that name the field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from e2i.errors import ConfigError
from e2i.sweep.config import SearchConfig, SweepConfig
from e2i.sweep.sweep_file import read_sweep

DOCS = Path(__file__).parents[3] / "docs"

YAML = """
arms: [mlp, cnn-native]
budgets: [1000]
trials: 3
search:
  lr: [1e-3, 1e-2]
"""
TOML = """
arms = ["mlp", "cnn-native"]
budgets = [1000]
trials = 3
[search]
lr = [1e-3, 1e-2]
"""
WANTED = SweepConfig(
    arms=("mlp", "cnn-native"), budgets=(1000,), trials=3, search=SearchConfig(lr=(1e-3, 1e-2))
)


def _read(tmp_path: Path, name: str, text: str | bytes) -> SweepConfig:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_sweep(str(path))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", YAML),
        ("a.YML", YAML),
        ("a.toml", TOML),
        ("a.json", json.dumps(yaml.safe_load(YAML))),
        ("bom.yaml", "\ufeff" + YAML),
    ],
)
def test_each_notation_means_the_same(tmp_path: Path, name: str, text: str) -> None:
    assert _read(tmp_path, name, text) == WANTED


@pytest.mark.parametrize("text", ["", "# nothing said\n", "{}"])
def test_what_is_left_out_takes_its_default(tmp_path: Path, text: str) -> None:
    assert _read(tmp_path, "a.yaml", text) == SweepConfig()


def test_the_documented_file_states_every_default() -> None:
    assert read_sweep(str(DOCS / "sweep.yaml")) == SweepConfig()
    stated = yaml.safe_load((DOCS / "sweep.yaml").read_text(encoding="utf-8"))
    assert set(stated) == set(SweepConfig.model_fields)
    assert set(stated["search"]) == set(SearchConfig.model_fields)
    assert read_sweep(str(DOCS / "sweep-small.yaml")) != SweepConfig()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trials: 0", r"a\.yaml: trials: got 0, expected .*greater than or equal to 1\. Correct"),
        ("trails: 3", r"a\.yaml: trails: no such field: got 'trails', expected one of arms, budge"),
        ("search: {lr: [3, 1]}", r"a\.yaml: search: lr is no range to draw from: got 3 to 1, exp"),
        ("search: {lr: [0, 1]}", r"lr is no range to draw from: got 0 to 1"),
        ("search: {temperature: [.nan, 1]}", r"temperature is no range to draw from: got nan to 1"),
        ("trails: 3", r"Did you mean 'trials'\?$"),
        (
            "unknown: 3",
            r"no such field: got 'unknown', expected one of .*, device\. Take it out\.$",
        ),
        (
            "search: {temprature: [1, 2]}",
            r"a\.yaml: search\.temprature: no such field: got 'search\.temprature', expected one "
            r"of lr, weight_decay, temperature, dropout\. Did you mean 'temperature'\?$",
        ),
        ("arms: [mpl]", r"^[^\n]*a\.yaml: arms\.0: got 'mpl', expected 'linear'[^\n]*$"),
        (
            "arms: [mlp]",
            r"a\.yaml: arms: got \['mlp'\], expected at least 2 of them\. Correct it\.",
        ),
        ("budgets: [" + "5, " * 11 + "]", r"expected at most 10 of them\. Correct it\."),
        ("arms: [linear, cnn-128]", r"nothing to compare with: got arms linear, cnn-128, expected"),
        ("arms: [mlp, mlp]", r"arms stand twice: got mlp, mlp, expected each once"),
        ("arms: [mlp, rnn]", r"a\.yaml: arms\.1: got 'rnn', expected 'linear', 'mlp', 'mlp-deco"),
        ("budgets: [10, 10]", r"budgets stand twice: got 10, 10"),
        ("budgets: [0]", r"a budget without parameters: got 0, expected at least 1"),
        ("seeds: 1", r"seeds: got 1, expected .*greater than or equal to 2"),
        ("metric: text_to_audio_median_rank", r"metric: got 'text_to_audio_median_rank', expected"),
        ("- mlp", r"the sweep's file holds no fields: got a list in .*a\.yaml"),
        ("trials: 1\ntrials: 2", r"the sweep's file cannot be read: got 'trials' twice .*line 1"),
        ("trials: [", r"the sweep's file cannot be read: got .*expected YAML"),
        ("x: !!python/object/apply:os.getcwd []", r"cannot be read: got could not determine a con"),
    ],
)
def test_a_fault_is_told_with_file_and_field(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _read(tmp_path, "a.yaml", text)


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        _read(tmp_path, "a.yaml", "trials: 0\nseeds: 1\nsteps: x")
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == [
        "trials",
        "seeds",
        "steps",
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.toml", "trials = ", "expected TOML"),
        ("a.json", "{", "expected JSON"),
        ("a.json", '{"trials": 1, "trials": 2}', "got 'trials' twice"),
        ("a.txt", "trials: 1", r"of no known kind: got .*a\.txt, expected a name that ends with"),
        ("a.yaml", b"\xff\xfe\x00", "is no text: got byte 0xff at 0"),
    ],
)
def test_what_cannot_be_read_is_refused(
    tmp_path: Path, name: str, text: str | bytes, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        _read(tmp_path, name, text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not there: got .*none\.yaml.*Correct --sweep\."):
        read_sweep(str(tmp_path / "none.yaml"))
