"""The commands about caches: what they print, what they return, what they mend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from e2i.cache.claims import claim
from e2i.cache.config import CacheConfig
from e2i.cache.header import SideSettings
from e2i.cache.plan import plan_cache
from e2i.cache.reader import open_cache
from e2i.datasets.config import MetadataConfig
from e2i.datasets.tabular import read_metadata
from e2i.encoders.config import EncodersConfig
from e2i.encoders.load import load_audio_encoder, load_text_encoder
from e2i.encoders.logmel import LogMelEncoder
from e2i.errors import CacheNotFoundError, ConfigError, RunFailedError
from e2i.storage import Folder
from flows.cache_commands import cache_compact, cache_prune, cache_verify
from flows.caching import cache_embeddings
from flows.command_line import _split_command
from flows.parameters import CacheCompactParameters, CachePruneParameters, CacheVerifyParameters
from flows.repairing import cache_repair
from flows.summary import RunSummary

WEIGHTLESS = EncodersConfig(audio_encoder="logmel", text_encoder="hashing")
CLIPS = 6

pytestmark = [
    pytest.mark.usefixtures("prefect_harness"),
    # Prefect's own client leaves a socket to its test server.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def metadata(tmp_path: Path) -> MetadataConfig:
    rng = np.random.default_rng(0)
    lines = ["file_name,caption_1,caption_2"]
    for number in range(CLIPS):
        soundfile.write(tmp_path / f"clip {number}.wav", 0.1 * rng.standard_normal(4000), 8000)
        lines.append(f"clip {number}.wav,noise number {number},hiss {number}")
    path = tmp_path / "sounds.csv"
    path.write_text("\n".join(lines))
    return MetadataConfig(metadata=str(path))


@pytest.fixture
def cache(tmp_path: Path, metadata: MetadataConfig) -> Folder:
    cache_embeddings(metadata, str(tmp_path / "cache"), WEIGHTLESS, CacheConfig(chunk_size=2))
    return Folder(tmp_path / "cache")


def verify(cache: Folder) -> RunSummary:
    return cache_verify(CacheVerifyParameters(cache_dir=cache.url))


def test_a_cache_is_checked_mended_merged_and_pruned(cache: Folder) -> None:
    before = open_cache(cache).load()
    sound = verify(cache)
    assert (sound.counts["problems"], sound.counts["shards"], sound.counts["rows"]) == (0, 6, 18)
    assert sound.notes == ("Nothing is wrong with the cache.",)

    broken = cache.files("audio")[0].name
    cache.write(broken, cache.read(broken)[:-5])
    cache.write("text/shard-stray.parquet", cache.read(cache.files("text")[0].name))
    found = verify(cache)
    assert found.counts["problems"] == 2
    assert [fault["name"] for fault in found.details["faults"]] == [
        broken, "text/shard-stray.parquet",
    ]  # fmt: skip
    assert found.notes[-1].startswith("`e2i cache repair` embeds again")

    mended = cache_repair(cache.url)
    assert (mended.counts["faults"], mended.counts["set_aside"]) == (2, 1)
    assert (mended.counts["embedded"], mended.counts["captions_embedded"]) == (2, 0)
    assert mended.counts["deleted_shards"] == 1
    assert verify(cache).counts["problems"] == 0
    again = cache_repair(cache.url)
    assert dict(again.counts) == {"faults": 0, "set_aside": 0}
    assert again.notes == ("Nothing was wrong with the cache.",)

    merged = cache_compact(CacheCompactParameters(cache_dir=cache.url))
    assert (merged.counts["merged"], merged.counts["written"]) == (6, 2)
    assert "`e2i cache prune` deletes them" in merged.notes[0]
    pruned = cache_prune(CachePruneParameters(cache_dir=cache.url))
    assert pruned.counts["deleted"] == 6
    assert len(cache.files("audio")) == len(cache.files("text")) == 1
    after = open_cache(cache).load()
    assert np.allclose(after.audio, before.audio, rtol=0, atol=1e-5)
    assert np.array_equal(after.text, before.text)
    assert verify(cache).counts["problems"] == 0
    for step in (cache_compact, cache_prune):
        assert step(CacheVerifyParameters(cache_dir=cache.url)).notes[0].startswith("There was no")


def test_a_repair_without_a_record_asks_for_the_metadata(
    cache: Folder, metadata: MetadataConfig
) -> None:
    cache.delete("manifest.json")
    with pytest.raises(ConfigError, match="Give the --metadata"):
        cache_repair(cache.url)
    mended = cache_repair(cache.url, metadata)
    assert (mended.counts["embedded"], mended.counts["reused"]) == (0, CLIPS)
    assert verify(cache).counts["problems"] == 0


def test_nothing_but_a_cache_is_touched(tmp_path: Path) -> None:
    for step in (cache_verify, cache_compact, cache_prune):
        with pytest.raises(CacheNotFoundError, match="there is no cache"):
            step(CacheVerifyParameters(cache_dir=str(tmp_path)))
    with pytest.raises(CacheNotFoundError):
        cache_repair(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_what_a_run_that_is_gone_had_claimed_is_embedded(
    tmp_path: Path, metadata: MetadataConfig
) -> None:
    folder = Folder(tmp_path / "cache")
    clips = read_metadata(metadata)
    encoders = load_audio_encoder(WEIGHTLESS), load_text_encoder(WEIGHTLESS)
    sides = [SideSettings.of(encoder) for encoder in encoders]
    plan = plan_cache(folder, clips, *sides, chunk_size=2)
    assert claim(folder, plan.audio_chunks[1])
    assert claim(folder, plan.text_chunks[0])
    done = cache_embeddings(metadata, folder.url, WEIGHTLESS, CacheConfig(chunk_size=2))
    assert (done.counts["embedded"], done.counts["captions_embedded"]) == (CLIPS, 2 * CLIPS)
    assert "put_off" not in done.counts
    assert folder.files("claims") == []


def test_a_chunk_that_fails_does_not_leave_those_that_were_put_off(
    tmp_path: Path, metadata: MetadataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(tmp_path / "cache")
    encoders = load_audio_encoder(WEIGHTLESS), load_text_encoder(WEIGHTLESS)
    sides = [SideSettings.of(encoder) for encoder in encoders]
    plan = plan_cache(folder, read_metadata(metadata), *sides, chunk_size=2)
    for chunk in (plan.audio_chunks[1], plan.text_chunks[0], plan.text_chunks[1]):
        assert claim(folder, chunk)
    encode, broken = LogMelEncoder.encode, ["out of order"]

    def spoiled(encoder: LogMelEncoder, waveforms: list[Any]) -> Any:
        if broken:
            raise RuntimeError(broken.pop())
        return encode(encoder, waveforms)

    monkeypatch.setattr(LogMelEncoder, "encode", spoiled)
    chunks = len(plan.audio_chunks) + len(plan.text_chunks)
    with pytest.raises(RunFailedError, match=f"^1 of {chunks} chunks .*got out of order"):
        cache_embeddings(metadata, folder.url, WEIGHTLESS, CacheConfig(chunk_size=2))
    left = plan_cache(folder, read_metadata(metadata), *sides, chunk_size=2)
    assert (left.clips_stored, left.captions_stored) == (CLIPS - 2, 2 * CLIPS)
    assert cache_embeddings(metadata, folder.url, WEIGHTLESS).counts["embedded"] == 2


def test_the_cache_may_stand_as_a_plain_argument() -> None:
    assert _split_command(["cache", "verify", "s3://b/c", "--json"]) == (
        "cache verify",
        ["--cache-dir", "s3://b/c", "--json"],
    )
    assert _split_command(["cache", "info", "--cache-dir", "x"])[1] == ["--cache-dir", "x"]
