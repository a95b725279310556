"""The flows on a Prefect test server: what they store, what they count, what they tell Prefect."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from e2i.cache.config import CacheConfig
from e2i.cache.reader import open_cache
from e2i.datasets.config import MetadataConfig
from e2i.datasets.soundscapes.config import SoundscapesConfig
from e2i.encoders.config import EncodersConfig
from e2i.encoders.hashing import HashingEncoder
from e2i.encoders.logmel import LogMelEncoder
from e2i.encoders.protocols import AudioEmbedding
from e2i.errors import ConfigError, EncoderUnavailableError, RunFailedError, StorageUnavailableError
from e2i.heads.checkpoint import load_checkpoint
from e2i.heads.config import HeadsConfig
from e2i.images.config import ImagesConfig
from e2i.images.load import load_embeddings
from e2i.storage import Folder
from e2i.store_layout import split_url
from e2i.training.config import TrainingConfig
from flows.caching import cache_embeddings, cache_images, default_cache_url
from flows.downloading import download_embeddings
from flows.finetuning import finetune
from flows.full_pipeline import full_pipeline
from flows.learning import eval_projection, train_projection
from flows.parameters import (
    CacheEmbeddingsParameters,
    CacheImagesParameters,
    DownloadEmbeddingsParameters,
    EvalProjectionParameters,
    FinetuneParameters,
    PipelineParameters,
    ReevaluateParameters,
    TrainProjectionParameters,
)
from flows.reevaluating import reevaluate
from flows.summary import RunSummary
from tasks import policy

WEIGHTLESS = EncodersConfig(audio_encoder="logmel", text_encoder="hashing")
TINY = SoundscapesConfig(num_development=24, num_validation=8, num_evaluation=12)
NATIVE = ImagesConfig(image_size="native")
QUICK = TrainingConfig(epochs=2, device="cpu")

pytestmark = [
    pytest.mark.usefixtures("prefect_harness"),
    # Prefect's own client leaves a socket to its test server.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Calls:
    """How many clips and captions the encoders have embedded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clips = 0
        self.captions = 0
        audio, text = LogMelEncoder.encode, HashingEncoder.encode

        def encode_audio(
            encoder: LogMelEncoder, waveforms: Sequence[NDArray[np.float32]]
        ) -> list[AudioEmbedding]:
            self.clips += len(waveforms)
            return audio(encoder, waveforms)

        def encode_text(encoder: HashingEncoder, captions: Sequence[str]) -> NDArray[np.float32]:
            self.captions += len(captions)
            return text(encoder, captions)

        monkeypatch.setattr(LogMelEncoder, "encode", encode_audio)
        monkeypatch.setattr(HashingEncoder, "encode", encode_text)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


def _pipeline(store: Path) -> RunSummary:
    return full_pipeline(
        store_url=str(store),
        dataset="soundscapes",
        soundscapes=TINY,
        encoders=WEIGHTLESS,
        images=NATIVE,
        training=QUICK,
    )


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    """Six recordings in one folder, two captions each."""
    rng = np.random.default_rng(0)
    lines = ["file_name,caption_1,caption_2"]
    for number in range(6):
        soundfile.write(tmp_path / f"clip {number}.wav", 0.1 * rng.standard_normal(4000), 8000)
        lines.append(f"clip {number}.wav,noise number {number},hiss {number}")
    path = tmp_path / "sounds.csv"
    path.write_text("\n".join(lines))
    return path


def test_the_pipeline_makes_everything_once(tmp_path: Path, calls: Calls) -> None:
    first = _pipeline(tmp_path)
    assert (calls.clips, calls.captions) == (44, 220)
    assert first.counts["embedded"] == first.counts["clips"] == 44
    assert first.counts["images_rendered"] == 264
    assert set(first.locations) >= {"data", "cache", "images", "sheet", "checkpoint", "report"}
    for location in first.locations.values():
        assert Path(location).exists()
    score = first.metrics["text_to_audio_R@10"]
    assert score["low"] is not None
    assert score["high"] is not None
    assert score["low"] <= score["value"] <= score["high"]  # type: ignore[operator]
    assert score["chance"] == pytest.approx(10 / 12)

    again = _pipeline(tmp_path)
    assert (calls.clips, calls.captions) == (44, 220)
    assert again.counts["generated"] == again.counts["embedded"] == 0
    assert again.counts["captions_embedded"] == again.counts["images_rendered"] == 0
    assert again.counts["reused"] == 44
    assert again.metrics == first.metrics


def test_a_relative_store_is_refused() -> None:
    with pytest.raises(ConfigError, match="store_url depends on the working directory: got 'demo'"):
        full_pipeline(store_url="demo", dataset="soundscapes", encoders=WEIGHTLESS)


def test_an_encoder_that_is_not_there_is_named(tmp_path: Path, metadata: Path) -> None:
    lacking = EncodersConfig(
        audio_encoder="passt", text_encoder="hashing", audio_weights=str(tmp_path / "none.pt")
    )
    with pytest.raises(EncoderUnavailableError, match=r"no weights here: got '.*none\.pt'"):
        cache_embeddings(MetadataConfig(metadata=str(metadata)), str(tmp_path / "cache"), lacking)


def test_one_failing_chunk_does_not_stop_the_others(
    tmp_path: Path, metadata: Path, monkeypatch: pytest.MonkeyPatch, calls: Calls
) -> None:
    encode = LogMelEncoder.encode
    broken = {"now": True}

    def spoiled(
        encoder: LogMelEncoder, waveforms: Sequence[NDArray[np.float32]]
    ) -> list[AudioEmbedding]:
        if broken["now"]:
            broken["now"] = False
            raise RuntimeError("out of order")
        return encode(encoder, waveforms)

    monkeypatch.setattr(LogMelEncoder, "encode", spoiled)
    source, cache_url = MetadataConfig(metadata=str(metadata)), str(tmp_path / "cache")
    cache = CacheConfig(chunk_size=1)
    with pytest.raises(RunFailedError, match=r"1 of 12 chunks .*out of order"):
        cache_embeddings(source, cache_url, WEIGHTLESS, cache)
    assert calls.clips == 5
    resumed = cache_embeddings(source, cache_url, WEIGHTLESS, cache)
    assert resumed.counts["embedded"] == 1
    assert resumed.counts["reused"] == 5


def test_an_outage_is_ridden_out_and_bad_input_is_not_tried_again(
    tmp_path: Path, metadata: Path, monkeypatch: pytest.MonkeyPatch, calls: Calls
) -> None:
    encode = LogMelEncoder.encode
    errors: list[Exception] = [StorageUnavailableError("the store is away"), ValueError("no way")]

    def spoiled(
        encoder: LogMelEncoder, waveforms: Sequence[NDArray[np.float32]]
    ) -> list[AudioEmbedding]:
        if errors:
            raise errors.pop(0)
        return encode(encoder, waveforms)

    monkeypatch.setattr(LogMelEncoder, "encode", spoiled)
    with pytest.raises(RunFailedError, match="no way"):
        cache_embeddings(
            MetadataConfig(metadata=str(metadata)), str(tmp_path / "cache"), WEIGHTLESS
        )
    assert errors == []
    assert calls.clips == 0


def test_too_many_broken_recordings_fail_the_run_and_keep_the_rest(
    tmp_path: Path, metadata: Path
) -> None:
    for number in (1, 2):
        (tmp_path / f"clip {number}.wav").write_text("no sound")
    source, cache_url = MetadataConfig(metadata=str(metadata)), str(tmp_path / "cache")
    with pytest.raises(RunFailedError, match=r"got 2 of 6, expected at most 1.*clip 1\.wav"):
        cache_embeddings(source, cache_url, WEIGHTLESS)
    summary = cache_embeddings(source, cache_url, WEIGHTLESS, CacheConfig(max_failures=2))
    assert summary.counts["reused"] == 4
    assert summary.counts["failed"] == 2
    assert summary.counts["captions_without_clip"] == 4
    assert summary.notes == (
        f"2 recordings are not in the cache: see {cache_url}/failures.jsonl for names and reasons.",
    )


def test_train_and_evaluate_on_one_cache(tmp_path: Path, metadata: Path) -> None:
    cache_url, output = str(tmp_path / "cache"), str(tmp_path / "checkpoints")
    cache_embeddings(MetadataConfig(metadata=str(metadata)), cache_url, WEIGHTLESS)
    training = TrainingConfig(epochs=1, device="cpu", val_fraction=0.3, test_fraction=0.3)
    trained = train_projection((cache_url,), output_dir=output, training=training)
    scored = eval_projection(cache_url, trained.locations["checkpoint"])
    assert 0 < scored.counts["clips"] < 6
    assert "text_to_audio_R@1" in scored.metrics
    with_seen = eval_projection(cache_url, trained.locations["checkpoint"], allow_seen=True)
    assert with_seen.counts["clips"] == 6
    assert any("seen" in note.lower() for note in with_seen.notes)


def test_standardized_images_from_disk_train_as_generated_ones(
    tmp_path: Path, metadata: Path
) -> None:
    """With nothing said of which clips, on a cache alone: its held-out clips do not count."""
    cache_url = str(tmp_path / "cache")
    cache_embeddings(MetadataConfig(metadata=str(metadata)), cache_url, WEIGHTLESS)
    standard = ImagesConfig(image_size="native", standardize=True)
    made = cache_images(cache_url, standard)
    assert made.counts["images_rendered"] == 18
    weights = []
    for source in ("disk", "generated"):
        heads = HeadsConfig(
            input_type="vision",
            standardize_input=True,
            vision_image_size="native",
            vision_image_source=source,
            vision_base_channels=2,
        )
        output = str(tmp_path / source)
        trained = train_projection((cache_url,), output_dir=output, heads=heads, training=QUICK)
        folder, name = split_url(trained.locations["checkpoint"])
        weights.append(load_checkpoint(Folder(folder), name).weights)
    for name, weight in weights[0].items():
        np.testing.assert_array_equal(weight.numpy(), weights[1][name].numpy())
    # Of the stored images alone the embeddings come back.
    cache = open_cache(Folder(cache_url)).load()
    decoded = load_embeddings(Folder(cache_url), "audio", cache.clip_ids, standard)
    np.testing.assert_allclose(decoded, cache.audio, atol=0.05)


def test_what_passes_is_tried_for_about_a_minute() -> None:
    delays = policy.TRIED_AGAIN["retry_delay_seconds"](policy.RETRIES)
    assert 45 <= sum(delays) <= 120


@pytest.mark.parametrize(
    ("metadata_url", "split", "expected"),
    [
        ("/d/clotho_csv_files/clotho_captions_validation.csv", None, "/d/embeddings/validation"),
        ("s3://b/x/sounds.csv", None, "s3://b/x/embeddings/all"),
        ("/d/sounds.csv", "mine", "/d/embeddings/mine"),
    ],
)
def test_the_default_cache_lies_by_the_data(
    metadata_url: str, split: str | None, expected: str
) -> None:
    assert default_cache_url(MetadataConfig(metadata=metadata_url, split=split)) == expected


@pytest.mark.parametrize(
    ("flow", "model"),
    [
        (full_pipeline, PipelineParameters),
        (cache_embeddings, CacheEmbeddingsParameters),
        (cache_images, CacheImagesParameters),
        (download_embeddings, DownloadEmbeddingsParameters),
        (train_projection, TrainProjectionParameters),
        (eval_projection, EvalProjectionParameters),
        (reevaluate, ReevaluateParameters),
        (finetune, FinetuneParameters),
    ],
)
def test_a_flow_takes_what_its_command_takes(flow: object, model: type) -> None:
    """Names and defaults stand once in the model and once in the signature: they must agree."""
    signature = inspect.signature(flow.fn)  # type: ignore[attr-defined]
    assert list(signature.parameters) == list(model.model_fields)  # type: ignore[attr-defined]
    for name, field in model.model_fields.items():  # type: ignore[attr-defined]
        default = signature.parameters[name].default
        if default is not inspect.Parameter.empty:
            assert default == field.default, name
