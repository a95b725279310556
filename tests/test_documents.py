"""What the documents name is there: commands, options, targets of make, files and programs."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2i.configuration import Configuration
from flows import parameters as models
from flows.command_line import COMMANDS
from flows.command_options import OutputOptions

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
ELSEWHERE = {"help", "param", "watch", "no-header", "no-annotate", "group"}
"""Options that every command has, and those of Prefect's and uv's own."""
RENAMED = {"clip-images"}
"""Options that are not named like their field."""


def _options(model: type[Configuration]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield name.replace("_", "-")
        if isinstance(field.default, Configuration):
            yield from _options(type(field.default))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_option_is_one_of_a_command(path: Path) -> None:
    known = {name.replace("_", "-") for name in OutputOptions.__dataclass_fields__}
    for command in COMMANDS.values():
        known |= set(_options(getattr(models, command.parameters)))
    named = set(re.findall(r"(?<![\w-])--(?:[a-z]+\.)?([a-z][a-z0-9-]+)", path.read_text("utf-8")))
    assert named - known - ELSEWHERE - RENAMED == set()


def test_every_command_is_there_and_in_the_table() -> None:
    in_code = re.findall(r"^\s*(?:\.venv/bin/)?e2i ((?:cache )?[a-z-]+)", README, re.M)
    in_code += re.findall(r"`e2i ((?:cache )?[a-z-]+)", README)
    assert set(in_code) - set(COMMANDS) == set()
    table = README.split("## Commands")[1].split("\n\n`e2i COMMAND")[0]
    groups = {"cache": re.findall(r"`(\w+)`", table.split("`e2i cache verify`")[1].split("|")[0])}
    named = set(re.findall(r"`e2i ((?:cache )?[a-z-]+)", table))
    named |= {f"cache {name}" for name in groups["cache"]}
    assert named == set(COMMANDS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_target_is_one_of_the_makefile(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))
    text = path.read_text("utf-8")
    named = set(re.findall(r"(?:`|^|; )make ([a-z-]+)", text, re.M))
    assert named - targets == set()


def test_every_file_that_is_linked_is_there() -> None:
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    programs = [f"{name.replace('.', '/')}.py" for name in re.findall(r"python -m (\S+\w)", README)]
    programs += re.findall(r"python (\S+\.py)", README)
    assert linked
    assert programs
    assert [name for name in (*linked, *programs) if not (ROOT / name).exists()] == []


def test_cleaning_up_leaves_the_store() -> None:
    """`store/` is where deployments keep their work unless they are told otherwise."""
    said = subprocess.run(
        ["make", "-n", "-C", str(ROOT), "clean"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"]},
    )
    (words,) = [line.split() for line in said.stdout.splitlines() if line.startswith("rm ")]
    assert words == ["rm", "-rf", ".venv", "demo"]
