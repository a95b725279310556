"""Which chunks a task run embeds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from e2i.cache.plan import AudioChunk, WantedClip
from e2i.cache.shards import ShardStamp
from tasks import embedding


def test_a_second_attempt_knows_the_claim_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp = ShardStamp("audio", "sounds", "all", "0" * 16, 0, 4)
    chunk = AudioChunk(0, 1, stamp, (WantedClip("a", "a.wav"),))
    attempt = SimpleNamespace(get_run_count=lambda: 1)
    monkeypatch.setattr(embedding, "task_run", attempt)
    assert embedding._claimed_by_this_run(str(tmp_path), chunk)
    assert not embedding._claimed_by_this_run(str(tmp_path), chunk), "another run's by now"
    attempt.get_run_count = lambda: 2
    assert embedding._claimed_by_this_run(str(tmp_path), chunk)
