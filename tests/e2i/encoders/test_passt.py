"""PaSST against hear21passt's own code, and each clip's embedding as its own."""

from __future__ import annotations

import logging
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

from hear21 import hear21passt, quiet, scene_embedding, shallow, wrapped

from e2i.encoders import products
from e2i.encoders.config import EncodersConfig
from e2i.encoders.load import audio_settings, load_audio_encoder
from e2i.encoders.passt import PasstEncoder, PasstOptions
from e2i.encoders.passt_architectures import ARCHITECTURES, DEFAULT, Architecture
from e2i.encoders.passt_model import expected_shapes, read_weights
from e2i.encoders.protocols import fingerprint
from e2i.encoders.weights import find_weights
from e2i.errors import EncoderUnavailableError
from passt_weights import random_weights, save_weights

SHALLOW = replace(ARCHITECTURES[DEFAULT], name="shallow", depth=2)
# A model of one second: as many kinds of clips at a tenth of the cost.
SHORT = replace(SHALLOW, name="short", frames=100, window_s=1.0, hop_s=0.25)
RATE = 32_000


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., PasstEncoder]:
    """Encoders from weights that were saved as they are published, through the real loading."""
    folder = tmp_path_factory.mktemp("weights")

    def made(architecture: Architecture, **options) -> PasstEncoder:
        path = folder / f"{architecture.name}.pt"
        if not path.exists():
            save_weights(path, architecture)
        weights = find_weights(str(path), {}, str(folder), option="--audio-weights")
        own = {k: options.pop(k) for k in ("batch_size", "store_windows") if k in options}
        return PasstEncoder(PasstOptions(architecture, **options), weights, **own)

    return made


def clip(num_samples: int, seed: int = 0) -> NDArray[np.float32]:
    """Noise that swells and moves, so that no two windows are alike."""
    rng = np.random.default_rng([seed, num_samples])
    time = np.arange(num_samples) / RATE
    tone = np.sin(2 * np.pi * (200 + 300 * seed + 20 * time) * time)
    swell = 0.2 + 0.1 * np.sin(2 * np.pi * time / 3)
    return (swell * (tone + 0.3 * rng.standard_normal(num_samples))).astype(np.float32)


def off(got: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("num_samples", [4801, 70_001, 10 * RATE, 10 * RATE + 1])
def test_a_clip_alone_is_what_hear21passt_gives(num_samples: int, make) -> None:
    """Under, at and over the model's ten seconds."""
    model = shallow(SHALLOW, random_weights(SHALLOW))
    waveform = clip(num_samples)
    (made,) = make(SHALLOW, normalize=False).encode([waveform])
    assert off(made.embedding, scene_embedding(model, waveform)) < 1e-5
    assert made.num_windows == (1 if num_samples <= 10 * RATE else 5)


@pytest.mark.parametrize(
    "changes",
    [
        {"stride": 16},
        {"mel_hop": 100, "frames": 320},
        {"mel_hop": 160, "frames": 200},
        {"window_s": 2.0, "hop_s": 0.5, "frames": 200},
        {"window_s": 3.0, "hop_s": 1.0, "frames": 300},
    ],
    ids=lambda changes: " ".join(f"{name} {value}" for name, value in changes.items()),
)
def test_strides_hops_and_windows_are_those_of_hear21passt(changes, make) -> None:
    """The kinds of architectures there are, at a tenth of their length."""
    architecture = replace(SHORT, name="-".join(map(str, changes.values())), **changes)
    model = shallow(architecture, random_weights(architecture))
    encoder = make(architecture, normalize=False)
    for seconds in (0.4, architecture.window_s + 0.1):
        waveform = clip(int(seconds * RATE))
        (made,) = encoder.encode([waveform])
        assert off(made.embedding, scene_embedding(model, waveform)) < 1e-5


def test_architectures_are_those_of_hear21passt() -> None:
    published = {cfg["url"]: cfg for cfg in hear21passt().passt.default_cfgs.values()}
    for architecture in ARCHITECTURES.values():
        assert architecture.published.url in published
        strided = "s16" in architecture.published.name
        assert architecture.stride == (16 if strided else 10)
    passt_urls = {url for url in published if "kkoutini/PaSST" in url}
    ours = {a.published.url for a in ARCHITECTURES.values() if not a.of_images}
    assert passt_urls == ours
    assert list(ARCHITECTURES) == list(
        EncodersConfig.model_fields["audio_arch"].annotation.__args__
    )


LENGTHS = st.sampled_from([0, 1, 1600, 4801, 9_000, RATE, RATE + 1, 3 * RATE])


@settings(max_examples=6, deadline=None)
@given(
    lengths=st.lists(LENGTHS, min_size=1, max_size=5),
    batch_size=st.sampled_from([None, 1, 3]),
    windowing=st.sampled_from(["hear", "segments"]),
    data=st.data(),
)
def test_an_embedding_depends_on_its_clip_alone(lengths, batch_size, windowing, data, make) -> None:
    """In any batch, any order, beside any neighbor."""
    waveforms = [clip(length, seed) for seed, length in enumerate(lengths)]
    order = data.draw(st.permutations(range(len(waveforms))))
    alone = make(SHORT, windowing=windowing)
    together = make(SHORT, windowing=windowing, batch_size=batch_size)
    made = together.encode([waveforms[place] for place in order])
    for place, beside in zip(order, made, strict=True):
        (expected,) = alone.encode([waveforms[place]])
        assert off(beside.embedding, expected.embedding) < 1e-5
        assert np.linalg.norm(beside.embedding) == pytest.approx(1, abs=1e-6)


def test_segments_count_by_their_share_of_the_clip(make) -> None:
    encoder = make(SHORT, windowing="segments", normalize=False, store_windows=True)
    waveform = clip(2 * RATE + RATE // 2)
    (made,) = encoder.encode([waveform])
    padded = np.pad(waveform, (0, RATE // 2)).reshape(3, RATE)
    each = np.stack([one.embedding for one in encoder.encode(list(padded))])
    assert made.windows is not None
    assert off(made.windows, each) < 1e-5
    assert off(made.embedding, (each * [[0.4], [0.4], [0.2]]).sum(0)) < 1e-5


@pytest.mark.parametrize(("seconds", "count"), [(0.1, 1), (10, 1), (10.01, 2), (20.01, 3), (47, 3)])
def test_dcase2025_hears_up_to_three_windows(seconds: float, count: int, make) -> None:
    """Without the model, whose windows it records: ten-second ones of 30 s, padded or cut."""
    encoder = make(SHALLOW, windowing="dcase2025", normalize=False)
    heard: list[NDArray[np.float32]] = []
    encoder._forward = lambda samples: heard.append(samples) or np.ones((len(samples), 768))
    waveform = clip(int(seconds * RATE))
    (made,) = encoder.encode([waveform])
    thirty = np.zeros(30 * RATE, dtype=np.float32)
    thirty[: len(waveform)] = waveform[: 30 * RATE]
    assert np.array_equal(np.concatenate(heard), thirty.reshape(3, -1)[:count])
    assert made.num_windows == count


def test_windows_are_given_as_they_are_before_the_mean(make) -> None:
    (without,) = make(SHORT).encode([clip(3 * RATE)])
    (made,) = make(SHORT, store_windows=True).encode([clip(3 * RATE)])
    assert without.windows is None
    assert made.windows is not None
    assert made.windows.shape == (made.num_windows, 768) == (13, 768)
    assert made.windows.dtype == np.float32
    mean = made.windows.mean(0)
    assert off(made.embedding, mean / np.linalg.norm(mean)) < 1e-6


def test_a_clip_on_disk_is_read_window_by_window(
    tmp_path: Path, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour, 460 MB of samples, through a model that only adds them up."""
    hour = np.memmap(tmp_path / "hour.f32", np.float32, "w+", shape=(3600 * RATE,))
    hour[::RATE] = np.arange(3600)
    encoder = make(SHALLOW, windowing="segments", normalize=False, store_windows=True)
    monkeypatch.setattr(encoder, "_forward", lambda x: x.sum(1, keepdims=True).repeat(768, 1))
    tracemalloc.start()
    try:
        (made,) = encoder.encode([hour])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert made.windows[:, 0].tolist() == np.arange(3600).reshape(360, 10).sum(1).tolist()
    assert peak < 64 * 2**20


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, MemoryError])
def test_a_batch_that_does_not_fit_is_halved(
    kind, make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = make(SHORT, batch_size=8, normalize=False)
    sizes = []

    def model(waveforms: torch.Tensor) -> torch.Tensor:
        sizes.append(len(waveforms))
        if len(waveforms) > 2:
            raise kind("CUDA out of memory. Tried to allocate 2.00 GiB")
        return waveforms[:, :1].expand(-1, 768)

    monkeypatch.setattr(encoder, "_made", lambda: model)
    clips = [clip(RATE, seed) for seed in range(9)]
    with caplog.at_level(logging.WARNING):
        made = encoder.encode(clips)
    assert [one.embedding[0] for one in made] == [waveform[0] for waveform in clips]
    assert sizes == [8, 4, 2, 2, 2, 2, 1]
    assert [record.getMessage() for record in caplog.records] == [
        "8 windows do not fit in the memory of cpu; trying 4 at a time",
        "4 windows do not fit in the memory of cpu; trying 2 at a time",
    ]


def test_a_window_that_does_not_fit_is_an_error(make, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make(SHORT)

    def model(waveforms: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(encoder, "_made", lambda: model)
    with pytest.raises(EncoderUnavailableError, match="a window does not fit in the memory of cpu"):
        encoder.encode([clip(RATE)])


def test_other_errors_of_the_model_are_not_tried_again(make, monkeypatch) -> None:
    encoder = make(SHORT)

    def model(waveforms: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(encoder, "_made", lambda: model)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        encoder.encode([clip(RATE)])


def test_nothing_is_printed_and_no_random_number_drawn(make, capfd) -> None:
    torch.manual_seed(3)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    (first,) = make(SHORT).encode([clip(RATE)])
    assert torch.equal(torch.get_rng_state(), state)
    assert np.random.get_state()[1].tolist() == numpy_state
    torch.manual_seed(4)
    (second,) = make(SHORT).encode([clip(RATE)])
    assert np.array_equal(first.embedding, second.embedding)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("precision", "bound"), [("bfloat16", 3e-2), ("float16", 3e-2)])
def test_shorter_precisions_come_close(precision: str, bound: float, make) -> None:
    (exact,) = make(SHORT).encode([clip(RATE)])
    (made,) = make(SHORT, precision=precision).encode([clip(RATE)])
    assert 0 < off(made.embedding, exact.embedding) < bound


def test_all_that_changes_values_is_in_the_fingerprint(tmp_path: Path) -> None:
    first, second, copy = (tmp_path / f"{name}.pt" for name in ("first", "second", "copy"))
    for path, content in ((first, b"some"), (second, b"others"), (copy, b"some")):
        path.write_bytes(content)
    base = EncodersConfig(audio_encoder="passt", audio_weights=str(first))
    others = [
        {"audio_arch": "passt_20sec"},
        {"audio_weights": str(second)},
        {"windowing": "segments"},
        {"windowing": "dcase2025"},
        {"precision": "bfloat16"},
        {"normalize": False},
    ]
    prints = [
        fingerprint(audio_settings(base.model_copy(update=change))) for change in [{}, *others]
    ]
    assert len(set(prints)) == len(prints)
    same = [{"audio_weights": str(copy)}, {"batch_size": 3}, {"weights_dir": "elsewhere"}]
    for change in same:
        assert fingerprint(audio_settings(base.model_copy(update=change))) == prints[0]


def test_settings_come_without_torch(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"not looked into")
    script = (
        "import sys; from e2i.encoders.load import audio_settings; "
        "from e2i.encoders.config import EncodersConfig; "
        f"print(audio_settings(EncodersConfig(audio_weights={str(weights)!r}))['dim'], "
        "'torch' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == ["768", "False"]


class TestBrokenWeights:
    """Refused when the encoder is loaded, before anything is embedded."""

    def refusal(self, path: Path, arch: str = DEFAULT) -> str:
        config = EncodersConfig(audio_encoder="passt", audio_arch=arch, audio_weights=str(path))
        with pytest.raises(EncoderUnavailableError) as raised:
            load_audio_encoder(config)
        return str(raised.value)

    def test_of_another_architecture(self, tmp_path: Path) -> None:
        shapes = expected_shapes(ARCHITECTURES["passt_s_p16_s16_128_ap468"])
        path = tmp_path / "w.pt"
        torch.save({name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}, path)
        said = self.refusal(path)
        assert "freq_new_pos_embed of shape (1, 768, 8, 1) for (1, 768, 12, 1)" in said
        assert said.endswith("Use --audio-arch passt_s_p16_s16_128_ap468.")

    def test_cut_short(self, tmp_path: Path) -> None:
        path = save_weights(tmp_path / "w.pt", SHALLOW)
        path.write_bytes(path.read_bytes()[:-5000])
        said = self.refusal(path)
        assert said.startswith("the weights cannot be read: got ")
        assert "cut short" in said

    @pytest.mark.parametrize(
        "content",
        [b"", b"<html>rate limit</html>", b"\x80\x02cos\nsystem\n."],
        ids=["empty", "page", "code"],
    )
    def test_of_another_kind(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "w.pt"
        path.write_bytes(content)
        assert self.refusal(path).startswith("the weights cannot be read: got ")

    def test_of_another_model(self, tmp_path: Path) -> None:
        path = tmp_path / "w.pt"
        torch.save({"conv1.weight": torch.zeros(3)}, path)
        said = self.refusal(path)
        assert "got no cls_token and " in said
        assert said.endswith("Correct --audio-weights or --audio-arch.")

    def test_no_state_dict(self, tmp_path: Path) -> None:
        path = tmp_path / "w.pt"
        torch.save([torch.zeros(3)], path)
        assert "a list that is no state dict" in self.refusal(path)


def image_weights() -> dict[str, torch.Tensor]:
    """Random weights of one block of the DeiT that PaSST was trained from, as it is published."""
    weights = random_weights(replace(ARCHITECTURES[DEFAULT], depth=1))
    generator = torch.Generator().manual_seed(9)
    for name in [name for name in weights if "pos_embed" in name or name.startswith("head")]:
        del weights[name]
    weights["pos_embed"] = torch.randn(1, 578, 768, generator=generator) / 20
    weights["patch_embed.proj.weight"] = torch.randn(768, 3, 16, 16, generator=generator) / 20
    for head in ("head", "head_dist"):
        weights |= {f"{head}.weight": torch.zeros(1000, 768), f"{head}.bias": torch.zeros(1000)}
    return weights


def test_weights_of_images_are_adapted_as_hear21passt_does(tmp_path: Path) -> None:
    path = tmp_path / "deit.pth"
    torch.save({"model": image_weights()}, path)
    architecture = replace(ARCHITECTURES["passt_deit_bd_p16_384"], depth=1)
    adapted = read_weights(path, architecture, "deit")
    passt = hear21passt().passt
    helpers = sys.modules["hear21passt.models.helpers.vit_helpers"]
    model = SimpleNamespace(num_tokens=2, patch_embed=SimpleNamespace(grid_size=(12, 99)))
    expected = passt.checkpoint_filter_fn(torch.load(path), model)
    convolution = "patch_embed.proj.weight"
    expected[convolution] = helpers.adapt_input_conv(1, expected[convolution])
    assert all(torch.allclose(adapted[name], expected[name], atol=1e-6) for name in adapted)


def test_products_that_are_off_do_not_reach_an_embedding(
    make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a library falls to bf16 by itself."""
    right = products._product

    def wrong(inputs, weight, bias, activation):
        return right(inputs.bfloat16().float(), weight, bias, activation)

    (expected,) = make(SHORT).encode([clip(RATE)])
    monkeypatch.setattr(products, "_product", wrong)
    (made,) = make(SHORT).encode([clip(RATE)])
    assert off(made.embedding, expected.embedding) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if "deit" not in name])
def test_each_architecture_is_what_hear21passt_makes_of_it(name: str, tmp_path: Path) -> None:
    """From its own model, saved as published, at full depth, through the command's settings."""
    architecture = ARCHITECTURES[name]
    with quiet():
        torch.manual_seed(1)
        net = hear21passt().passt.get_model(
            name,
            pretrained=False,
            fstride=architecture.stride,
            tstride=architecture.stride,
            input_tdim=architecture.frames,
        )
    torch.save(net.state_dict(), tmp_path / "w.pt")
    config = EncodersConfig(
        audio_encoder="passt",
        audio_arch=name,
        audio_weights=str(tmp_path / "w.pt"),
        normalize=False,
        device="cpu",
    )
    seconds = (1, 11) if name == DEFAULT else (1,)
    for waveform in [clip(second * RATE) for second in seconds]:
        (made,) = load_audio_encoder(config).encode([waveform])
        expected = scene_embedding(wrapped(architecture, net), waveform)
        assert off(made.embedding, expected) < 1e-5


@pytest.mark.slow
def test_clips_of_one_and_of_thirty_seconds_do_not_change_a_neighbor(make) -> None:
    encoder = make(SHALLOW)
    waveforms = [clip(seconds * RATE, seconds) for seconds in (12, 1, 30)]
    alone = [encoder.encode([waveform])[0].embedding for waveform in waveforms]
    for order in ((0, 1, 2), (2, 0, 1), (0, 1), (0, 2)):
        together = encoder.encode([waveforms[place] for place in order])
        for place, made in zip(order, together, strict=True):
            assert off(made.embedding, alone[place]) < 1e-5
