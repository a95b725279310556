"""The program: help, wrong calls and what they cost."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from e2i.configuration import Configuration
from e2i.errors import E2IError
from flows import command_options, execution, parameters, preflight
from flows.commands import COMMANDS

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
            ["--epochs: got 0, expected a number greater than or equal to 1."],
        ),
        (["run", "--training.epochs", "0"], ["e2i run: --training.epochs: got 0, expected"]),
        (["train-projection", "--lr", "nan"], ["--lr: got nan, expected a finite number."]),
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


def test_output_that_nobody_reads_to_its_end_is_no_error() -> None:
    with subprocess.Popen(
        [PROGRAM, "cache-embeddings", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.close()
        assert program.stderr.read() == b""


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


def _fields_with_a_pattern(model: type[Configuration]) -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Configuration):
            found |= _fields_with_a_pattern(field.annotation)
        elif any(getattr(rule, "pattern", None) for rule in field.metadata):
            found.add(name)
    return found


def test_every_pattern_has_words() -> None:
    models = {getattr(parameters, command.parameters) for command in COMMANDS.values()}
    fields = set.union(*map(_fields_with_a_pattern, models))
    assert "split" in fields
    assert fields <= set(command_options._PATTERNS)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("s3:/bucket/cache", "s3:/bucket/cache"),
        ("s3://bucket/cache", "s3://bucket/cache"),
        ("simplecache::s3://bucket/cache", "simplecache::s3://bucket/cache"),
        ("cache", "{cwd}/cache"),
        ("odd:name/cache", "{cwd}/odd:name/cache"),
        ("~/cache", "{home}/cache"),
        ("/cache", "/cache"),
    ],
)
def test_a_relative_path_is_of_the_working_directory_and_a_url_is_none(
    given: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    options = command_options.parse_options(
        "cache info", "CacheInfoParameters", ["--cache-dir", given]
    )
    expected = meant.format(cwd=tmp_path, home=tmp_path / "home")
    assert options.parameters.cache_dir == expected


def test_a_server_that_is_set_up_and_away_ends_the_run_at_once(tmp_path: Path) -> None:
    started = time.monotonic()
    done = subprocess.run(
        [PROGRAM, "cache-images", "--cache-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={
            "HOME": str(tmp_path),
            "PATH": "",
            "PREFECT_API_URL": "http://me:hush@127.0.0.1:9/api",
        },
    )
    assert time.monotonic() - started < 20
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "e2i cache-images: the Prefect server that is set up does not answer: got nothing from "
        "http://127.0.0.1:9/api, expected its API. Start it (`make server`), or take "
        "PREFECT_API_URL out of the environment and the profile: the command then starts one of "
        "its own.\n"
    )


class _OfPrefect(Exception):
    __module__ = "prefect.exceptions"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (_OfPrefect("lost\nand more"), ["Prefect ended the run: got _OfPrefect: lost, expected"]),
        (MemoryError(), ["out of memory: got MemoryError, expected", "Lower --batch-size"]),
        (ZeroDivisionError("oh"), ["did not foresee: got ZeroDivisionError: oh,", "--log-level"]),
        (E2IError("what is wrong. What to do."), ["e2i demo: what is wrong. What to do.\n"]),
    ],
)
def test_every_failure_is_one_line(
    error: Exception,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(preflight, "check_call", fail)
    options = command_options.parse_options("demo", "PipelineParameters", ["--json"])
    assert execution.execute("demo", COMMANDS["demo"], options) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert all(word in shown.err for word in words)
