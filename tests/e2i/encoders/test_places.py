"""Where encoders run: one of its own a device, and chunks spread over them."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

from e2i.cache import chunk_result
from e2i.cache.chunk_result import encoder_lock
from e2i.device import resolve_devices
from e2i.encoders.config import EncodersConfig
from e2i.encoders.load import load_audio_encoder, load_text_encoder
from e2i.encoders.passt_architectures import ARCHITECTURES, DEFAULT
from e2i.encoders.places import Place, encoder_places, taken_place
from e2i.errors import ConfigError
from passt_weights import save_weights
from tiny_models import make_roberta

WEIGHTLESS = EncodersConfig(audio_encoder="logmel", text_encoder="hashing")


def test_a_place_for_each_device_named() -> None:
    assert encoder_places(EncodersConfig(device="cpu")) == (Place("cpu"),)
    twice = encoder_places(EncodersConfig(device="cpu,cpu"))
    assert [str(place) for place in twice] == ["cpu", "cpu (2)"]
    assert encoder_places(WEIGHTLESS.model_copy(update={"device": "cpu,cpu"})) == (Place("cpu"),)


def test_auto_is_every_gpu_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [str(device) for device in resolve_devices("auto")] == ["cuda:0", "cuda:1", "cuda:2"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert len(resolve_devices("auto")) == 1


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="cannot be used here: got 'cuda:99', expected auto"):
        encoder_places(EncodersConfig(device="cpu,cuda:99"))


def test_chunks_go_where_the_fewest_are() -> None:
    places = encoder_places(EncodersConfig(device="cpu,cpu,cpu"))
    with ExitStack() as busy:
        first = [busy.enter_context(taken_place(places, 0)) for _ in range(7)]
        assert [place.number for place in first] == [1, 2, 3, 1, 2, 3, 1]
        with taken_place(places, 4) as place:
            assert place.number == 2, "among equals, the chunk's own index decides"
    for index in range(4):
        with taken_place(places, index) as place:
            assert place.number == index % 3 + 1


@pytest.fixture
def weighty(tmp_path: Path) -> EncodersConfig:
    return EncodersConfig(
        audio_weights=str(save_weights(tmp_path / "passt.pt", ARCHITECTURES[DEFAULT])),
        text_model=str(make_roberta(tmp_path / "roberta")),
        device="cpu,cpu",
        batch_size=8,
    )


def test_each_place_has_encoders_of_its_own(weighty: EncodersConfig) -> None:
    first, second = encoder_places(weighty)
    for load in (load_audio_encoder, load_text_encoder):
        assert load(weighty, place=first) is load(weighty) is not load(weighty, place=second)
        assert load(weighty, place=second) is load(weighty, place=second)
        assert load(weighty, place=first).settings == load(weighty, place=second).settings
        alone = weighty.model_copy(update={"device": "cpu"})
        assert load(alone) is load(weighty, place=first)
    here = load_audio_encoder(WEIGHTLESS, place=first)
    assert here is load_audio_encoder(WEIGHTLESS, place=second), "one is enough without weights"


def test_a_batch_too_large_for_one_device_is_halved_there_only(
    weighty: EncodersConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (load_audio_encoder(weighty, place=place) for place in encoder_places(weighty))
    sizes: dict[int, list[int]] = {1: [], 2: []}

    def model(number: int, room: int):
        def embed(waveforms: torch.Tensor) -> torch.Tensor:
            sizes[number].append(len(waveforms))
            if len(waveforms) > room:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return 1 + waveforms[:, :1].expand(-1, 768)

        return lambda: embed

    monkeypatch.setattr(first, "_made", model(1, 8))
    monkeypatch.setattr(second, "_made", model(2, 4))
    clips = [np.full(32_000, number / 16, np.float32) for number in range(16)]
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda encoder: encoder.encode(clips), (first, second)))
    assert sizes == {1: [8, 8], 2: [8, 4, 4, 4, 4]}
    assert len(caplog.records) == 1
    for one, other in zip(*made, strict=True):
        np.testing.assert_array_equal(one.embedding, other.embedding)


def test_the_lock_is_the_encoders_own() -> None:
    class Encoder:
        """Something to lock."""

    one, other = Encoder(), Encoder()
    assert encoder_lock(one) is encoder_lock(one) is not encoder_lock(other)
    held = len(chunk_result._locks)
    del one
    assert len(chunk_result._locks) == held - 1, "it goes with the encoder"
