"""The program: help, wrong calls and what they cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flows.command_line import COMMANDS

PROGRAM = str(Path(sys.executable).with_name("e2i"))


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, check=False)


def test_the_overview_names_every_command() -> None:
    done = _run("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for name, command in COMMANDS.items():
        assert f"  {name}  " in done.stdout
        assert command.summary in done.stdout


def test_no_command_is_a_wrong_call() -> None:
    assert _run().returncode == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(name: str) -> None:
    done = _run(*name.split(), "--help")
    assert done.returncode == 0
    assert f"usage: e2i {name}" in done.stdout
    assert "--json" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cache-embedings"], ["cache-embedings", "Did you mean 'cache-embeddings'?"]),
        (["cache", "inf"], ["cache inf", "cache info"]),
        (["demo", "--wat"], ["--wat"]),
        (["cache-images"], ["--cache-dir"]),
        (
            ["train-projection", "--epochs", "0"],
            ["--epochs", "greater than or equal to 1"],
        ),
        (["run", "--training.epochs", "x"], ["--training.epochs"]),
        (["cache-embeddings", "--audio-encoder", "vgg"], ["--audio-encoder", "vgg", "logmel"]),
    ],
)
def test_a_wrong_call_ends_with_two_and_names_the_option(
    arguments: list[str], words: list[str]
) -> None:
    done = _run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from flows.command_line import main\n"
        "try:\n    main(['cache-embeddings', '--help'])\n"
        "except SystemExit:\n    pass\n"
        "print({'torch', 'prefect', 'numpy', 'pyarrow', 'fsspec'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
