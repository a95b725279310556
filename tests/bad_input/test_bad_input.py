"""Bad input of every kind: a clear error, the right exit code, no traceback, nothing lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bad_input_metadata import CSV, HEADER, JSON
from bad_input_options import OPTIONS
from bad_input_program import Case, World, e2i, embed
from bad_input_stored import CACHES, CHECKPOINTS, SCORES

TABLE = [*CSV, *JSON, *OPTIONS, *CACHES, *CHECKPOINTS, *SCORES]


def test_the_table_holds_each_case_once() -> None:
    names = [case.name for case in TABLE]
    assert len(set(names)) == len(names) >= 50


@pytest.mark.parametrize("case", TABLE, ids=[case.name for case in TABLE])
def test_bad_input_is_refused_in_words(
    case: Case, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = case.make(world, tmp_path)
    before = world.state()
    outcome = e2i(*arguments)
    for said in case.words:
        assert said in " ".join(outcome.err.split())
    assert outcome.code == case.code
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert world.state() == before


def test_a_wrong_metadata_file_leaves_no_cache_behind(world: World, tmp_path: Path) -> None:
    for case in (*CSV, *JSON):
        assert e2i(*case.make(world, tmp_path)).code == 1
        assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("name", "text", "captions"),
    [
        ("bom.csv", "\ufeff" + HEADER + '"good 0.wav",x,y\n', 2),
        ("long.csv", HEADER + f'"good 0.wav",{"bark " * 20_000},y\n', 2),
        ("bom.json", '\ufeff[{"id": 1, "audio": "good 0.wav", "text": ["x", "y", "z"]}]', 3),
        ("long.jsonl", json.dumps({"id": 1, "audio": "good 0.wav", "text": "bark " * 20_000}), 1),
    ],
)
def test_odd_input_that_is_right_is_taken(
    world: World, tmp_path: Path, name: str, text: str, captions: int
) -> None:
    (tmp_path / name).write_text(text)
    outcome = e2i(
        *embed(tmp_path / name, tmp_path / "cache"),
        *("--audio-root", str(world.metadata.parent), "--json"),
    )
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["counts"]["captions"] == captions
