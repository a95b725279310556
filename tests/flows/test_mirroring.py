"""The mirror as part of a flow run: what Prefect is told, and what a failing Hub costs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from prefect import get_client

from e2i.cache.config import CacheConfig
from e2i.cache.reader import open_cache
from e2i.datasets.config import MetadataConfig
from e2i.encoders.config import EncodersConfig
from e2i.errors import RunFailedError
from e2i.hub.mirror import Pace
from e2i.images.config import ImagesConfig
from e2i.storage import Folder
from flows.caching import cache_embeddings, cache_images
from flows.downloading import download_embeddings
from flows.parameters import HubOptions
from hub_server import SIGNATURE, HubServer, Status
from tasks import mirroring

TOKEN = "hf_planted-token-that-nobody-is-to-see"
REPO = "me/sounds"
WEIGHTLESS = EncodersConfig(audio_encoder="logmel", text_encoder="hashing")

pytestmark = [
    pytest.mark.usefixtures("prefect_harness"),
    # Prefect's own client leaves a socket to its test server.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch) -> Iterator[HubServer]:
    pace = Pace(interval_s=0.0, pauses_s=(0.01,))
    monkeypatch.setattr(mirroring, "PACE", pace)
    with HubServer(tmp_path_factory.mktemp("hub")) as server, server.found_by_this_process():
        server.token = TOKEN
        yield server


@pytest.fixture
def source(tmp_path: Path) -> MetadataConfig:
    rng = np.random.default_rng(0)
    (tmp_path / "sounds").mkdir()
    lines = ["file_name,caption_1,caption_2"]
    for number in range(4):
        name = f"clip {number}.wav"
        soundfile.write(tmp_path / "sounds" / name, 0.1 * rng.standard_normal(4000), 8000)
        lines.append(f"{name},noise number {number},hiss {number}")
    (tmp_path / "sounds" / "development.csv").write_text("\n".join(lines))
    return MetadataConfig(metadata=str(tmp_path / "sounds" / "development.csv"))


def told_to_prefect(run_id: str) -> str:
    """Everything that the server knows of a flow run."""

    async def ask() -> str:
        async with get_client() as client:
            run = await client.read_flow_run(run_id)
            return run.model_dump_json()

    return asyncio.run(ask())


def test_the_token_is_shown_and_stored_nowhere(
    tmp_path: Path, source: MetadataConfig, hub: HubServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    cache, restored = tmp_path / "cache" / "development", tmp_path / "restored" / "development"
    options = HubOptions(hf_dataset=REPO, hf_prefix="development", hf_token=TOKEN, upload_every=1)
    embedded = cache_embeddings(source, str(cache), WEIGHTLESS, hub=options)
    native = ImagesConfig(image_size="native")
    cache_images(str(cache), native, options, include_embeddings=True)
    assert {r.authorization for r in hub.of("commit")} == {f"Bearer {TOKEN}"}

    hub.fail("put", *[Status(400)] * 40)
    wrong = HubOptions(hf_dataset=REPO, hf_prefix="other", hf_token=TOKEN)
    with pytest.raises(RunFailedError) as failed:
        cache_images(str(cache), ImagesConfig(image_size=20), wrong)
    hub.heal()
    hub.token = None
    download_embeddings(str(restored), REPO, print_stats=True)

    told = told_to_prefect(embedded.flow_run_id)
    assert '"hf_dataset":"me/sounds"' in told
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    mirrored = b"".join(hub.files(REPO).values())
    shown = [told, caplog.text, embedded.as_json(), repr(failed.value), str(failed.value)]
    cause = failed.value.__cause__
    while cause is not None:
        shown.append(f"{cause} {cause!r}")
        cause = cause.__cause__
    for secret in (TOKEN, SIGNATURE):
        assert not any(secret in text for text in shown)
        assert secret.encode() not in stored + mirrored


def test_a_failing_hub_costs_no_embedding(
    tmp_path: Path, source: MetadataConfig, hub: HubServer
) -> None:
    cache = tmp_path / "cache"
    options = HubOptions(hf_dataset=REPO, hf_token=TOKEN, upload_every=1)
    hub.fail("commit", *[Status(503)] * 1000)
    with pytest.raises(RunFailedError, match=r"the mirror .* is not whole: got .* 503") as failed:
        cache_embeddings(source, str(cache), WEIGHTLESS, CacheConfig(chunk_size=2), hub=options)
    assert "Left to send: 7 files" in str(failed.value)
    assert len(open_cache(Folder(cache)).load().clip_ids) == 4
    hub.heal()
    puts = len(hub.of("put"))
    done = cache_embeddings(source, str(cache), WEIGHTLESS, CacheConfig(chunk_size=2), hub=options)
    assert (done.counts["embedded"], done.counts["reused"]) == (0, 4)
    assert len(hub.of("put")) == puts
    assert "manifest.json" in hub.files(REPO)
    assert done.locations["hub"] == f"{hub.url}/datasets/{REPO}"


def test_a_wrong_token_does_not_stop_the_embedding(
    tmp_path: Path, source: MetadataConfig, hub: HubServer
) -> None:
    options = HubOptions(hf_dataset=REPO, hf_token="hf_wrong")
    with pytest.raises(RunFailedError, match="not allowed to read: got status 401"):
        cache_embeddings(source, str(tmp_path / "cache"), WEIGHTLESS, hub=options)
    assert len(open_cache(Folder(tmp_path / "cache")).load().clip_ids) == 4


def test_a_mirrored_cache_is_not_merged_and_sent_again(
    tmp_path: Path, source: MetadataConfig, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("e2i.cache.finish.MANY_SHARDS", 1)
    chunks = CacheConfig(chunk_size=1)
    options = HubOptions(hf_dataset=REPO, hf_token=TOKEN, upload_every=1)
    cache_embeddings(source, str(tmp_path / "mirrored"), WEIGHTLESS, chunks, hub=options)
    cache_embeddings(source, str(tmp_path / "alone"), WEIGHTLESS, chunks)
    named = {
        name: len(open_cache(Folder(tmp_path / name)).manifest.audio.shards)
        for name in ("mirrored", "alone")
    }
    assert named == {"mirrored": 4, "alone": 1}
