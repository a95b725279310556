"""Every option of the original: there under its name, and it does what it says.

Each row of the table is tried twice on tiny data, without the option and with it: the parameters
that the command line comes to differ in that one field, and so does what the command leaves behind.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from option_outcomes import BASE, World
from option_table import CNN, TABLE, Row, audio_of, loss_of, pixels_of, weights_of
from original_options import ABSENT, DEPARTURES, NOT_STATED, ORIGINAL, default_of

from e2i.datasets.config import MetadataConfig
from flows.caching import default_cache_url
from flows.command_options import parse_options
from flows.commands import COMMANDS

# Each command's mandatory words, where it has any.
MANDATORY = {
    "cache-images": ["--cache-dir", "x"],
    "download-embeddings": ["--cache-dir", "x"],
}


def fields_of(command: str, words: list[str]) -> dict[str, object]:
    """All parameters and output options that a call comes to, by dotted name."""
    options = parse_options(command, COMMANDS[command].parameters, words)
    found: dict[str, object] = asdict(options.output)

    def add(prefix: str, values: dict[str, object]) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                add(f"{prefix}{name}.", value)
            else:
                found[prefix + name] = value

    add("", options.parameters.model_dump())
    return found


def test_each_option_of_the_original_is_tried_or_absent_for_a_reason() -> None:
    wanted = [(command, option) for command, options in ORIGINAL.items() for option in options]
    tried = [(row.command, row.option) for row in TABLE]
    assert len(set(tried)) == len(tried)
    assert set(tried).isdisjoint(ABSENT)
    assert set(tried) | set(ABSENT) == set(wanted)
    assert all(ABSENT.values())


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.command} {row.option}")
def test_an_option_changes_its_own_parameter_alone(
    row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    world = World(tmp_path)
    mandatory = (
        [] if row.option in MANDATORY.get(row.command, ()) else MANDATORY.get(row.command, [])
    )
    typed = world.arguments({row.option: row.typed}, tmp_path)
    after = fields_of(row.command, [*mandatory, *typed])
    resolved = row.resolved
    if isinstance(resolved, str):
        (resolved,) = world.arguments({resolved: None}, tmp_path)
    elif isinstance(resolved, tuple):
        resolved = tuple(world.arguments(dict.fromkeys(resolved), tmp_path))
    assert after[row.field] == resolved
    before = fields_of(row.command, MANDATORY.get(row.command, []))
    assert {name for name in before if before[name] != after[name]} == {row.field}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.command} {row.option}")
def test_a_default_is_the_originals_or_a_known_departure(
    row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    default = default_of(row.command, row.option)
    if default is NOT_STATED:
        assert (row.command, row.option) not in DEPARTURES
        return
    got = fields_of(row.command, MANDATORY.get(row.command, []))[row.field]
    local = isinstance(got, str) and got.startswith(f"{tmp_path}/")
    assert (got.removeprefix(f"{tmp_path}/") if local else got) == default


def test_the_default_cache_is_the_originals_where_the_metadata_is() -> None:
    metadata = default_of("cache-embeddings", "--metadata")
    assert isinstance(metadata, str)
    expected = f"{Path('~/data/CLOTHO_v2.1').expanduser()}/embeddings/development"
    assert default_cache_url(MetadataConfig(metadata=metadata)) == expected


TRIED = [
    # Encoders are loaded and stored in each.
    pytest.param(row, marks=[pytest.mark.slow] if row.command == "finetune" else [])
    for row in TABLE
]


@pytest.mark.parametrize("row", TRIED, ids=lambda row: f"{row.command} {row.option}")
def test_an_option_changes_the_outcome(row: Row, world: World) -> None:
    words = {**BASE[row.command], **row.given}
    without = {option: value for option, value in words.items() if option != row.option}
    if row.otherwise is not None:
        without[row.option] = row.otherwise
    before = world.run(row.command, without, again=row.again, json=row.json)
    words = {**without, row.option: row.typed}
    after = world.run(row.command, words, again=row.again, json=row.json)
    assert row.proof(before, after), f"before: {before.said}\nafter: {after.said}"
    assert row.proof(before, before) is row.neutral, "this proof needs no option"


def test_the_same_call_gives_the_same(world: World) -> None:
    """What makes a difference in the table a difference by the option."""
    for given in ({}, CNN):
        words = {**BASE["train-projection"], **given}
        once, twice = (world.run("train-projection", words, again=again) for again in (False, True))
        assert weights_of(once) == weights_of(twice)
        assert loss_of(once) == loss_of(twice)
    words = {**BASE["cache-embeddings"], "--with-images": None}
    once = world.run("cache-embeddings", words)
    twice = world.run("cache-embeddings", {**words, "--force": None}, again=True)
    assert audio_of(once) == audio_of(twice)
    assert pixels_of(once) == pixels_of(twice)


@pytest.mark.parametrize("command", ["cache-embeddings", "train-projection", "eval-projection"])
def test_a_device_that_does_not_exist_is_refused(command: str, world: World) -> None:
    ran = world.run(command, {**BASE[command], "--device": "abacus"})
    assert ran.code == 2
    assert "device" in ran.refusal
    assert "abacus" in ran.refusal


def test_either_name_of_the_clamp_is_taken_beside_embedding() -> None:
    fields = [fields_of("cache-embeddings", [name]) for name in ("--clip-images", "--clip-values")]
    assert fields[0] == fields[1]
    assert fields[0]["images.clip_values"] is True


def test_a_checkpoints_own_words_are_no_options_of_its_evaluation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        fields_of("eval-projection", ["--hidden-dim", "512"])
    assert ended.value.code == 2
    assert "--hidden-dim" in capsys.readouterr().err
