"""PaSST end to end from files, beside the way of the original, in one run on the same clips.

    python -m benchmarks.embed_audio
    python -m benchmarks.embed_audio --arch passt_s_p16_s16_128_ap468 --clips 4 --rounds 3

The original's way is written anew here: clips of a batch together, one window at a time, attention
with its softmax spelled out, the last block for all tokens, the mel filter bank made anew in each
forward pass, torch's own products. Weights are random and clips are noise, which changes no time.

Both ways take turns, round by round, since other work on the machine comes and goes; ratios are
medians over rounds. "cpu" counts the processor's seconds instead of the clock's, which other work
disturbs less (with --threads 1; waiting threads count as working).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchaudio.compliance.kaldi import get_mel_banks

from e2i.audio import decode, load_waveform
from e2i.encoders.passt import PasstEncoder, PasstOptions
from e2i.encoders.passt_architectures import ARCHITECTURES, DEFAULT, DIM, SAMPLE_RATE, Architecture
from e2i.encoders.passt_model import expected_shapes
from e2i.encoders.products import PackedLinear
from e2i.encoders.weights import WeightsFile
from e2i.resampling import resample

FILE_RATE = 44_100
SHORTEST_S, LONGEST_S = 15.0, 30.0

Embeddings = list[NDArray[np.float32]]


class Reference:
    """The original's way."""

    def __init__(self, weights: dict[str, Tensor], architecture: Architecture) -> None:
        self.weights, self.architecture = weights, architecture

    def embed_files(self, paths: list[Path]) -> Embeddings:
        """One batch of recordings of equal length; (D,) each."""
        waveforms = []
        for path in paths:
            samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
            mono = torch.from_numpy(samples.mean(1))
            waveforms.append(torchaudio.functional.resample(mono, rate, SAMPLE_RATE))
        batch = torch.stack(waveforms)
        length, hop = self.architecture.window_samples, self.architecture.hop_samples
        padded = functional.pad(batch[:, None], (length // 2, length // 2), mode="reflect")[:, 0]
        windows = padded.unfold(1, length, hop)
        with torch.no_grad():
            made = [self.forward(windows[:, place]) for place in range(windows.shape[1])]
        return list(torch.stack(made).mean(0).numpy())

    def forward(self, waveforms: Tensor) -> Tensor:
        """(B, T) to (B, D)."""
        weights, stride = self.weights, self.architecture.stride
        image = self.mel(waveforms)[:, None]
        x = functional.conv2d(
            image, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride
        )
        x = x + weights["time_new_pos_embed"][..., : x.shape[-1]] + weights["freq_new_pos_embed"]
        x = x.flatten(2).transpose(1, 2)
        code = weights["new_pos_embed"]
        leading = [
            (weights[name] + code[:, place : place + 1]).expand(len(x), -1, -1)
            for place, name in enumerate(("cls_token", "dist_token"))
        ]
        x = torch.cat([*leading, x], 1)
        for block in range(self.architecture.depth):
            x = self.block(x, f"blocks.{block}.")
        x = self.norm(x, "norm")
        return (x[:, 0] + x[:, 1]) / 2

    def block(self, x: Tensor, name: str) -> Tensor:
        """One transformer block."""
        batch, count, _ = x.shape
        qkv = self.linear(self.norm(x, f"{name}norm1"), f"{name}attn.qkv")
        q, k, v = qkv.reshape(batch, count, 3, 12, 64).permute(2, 0, 3, 1, 4)
        heard = ((q @ k.transpose(-2, -1)) * 64**-0.5).softmax(-1) @ v
        x = x + self.linear(heard.transpose(1, 2).reshape(batch, count, DIM), f"{name}attn.proj")
        hidden = functional.gelu(self.linear(self.norm(x, f"{name}norm2"), f"{name}mlp.fc1"))
        return x + self.linear(hidden, f"{name}mlp.fc2")

    def linear(self, x: Tensor, name: str) -> Tensor:
        """A layer by its name."""
        return functional.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def norm(self, x: Tensor, name: str) -> Tensor:
        """A norm by its name."""
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return functional.layer_norm(x, (DIM,), weight, bias, 1e-6)

    def mel(self, waveforms: Tensor) -> Tensor:
        """(B, T) to (B, 128, frames)."""
        filtered = functional.conv1d(waveforms[:, None], torch.tensor([[[-0.97, 1.0]]]))[:, 0]
        window = torch.hann_window(800, periodic=False)
        hop = self.architecture.mel_hop
        power = torch.stft(filtered, 1024, hop, 800, window, return_complex=True).abs() ** 2
        bank, _ = get_mel_banks(128, 1024, SAMPLE_RATE, 0.0, 15_000.0, 100.0, -500.0, 1.0)
        return ((functional.pad(bank, (0, 1)) @ power + 1e-5).log() + 4.5) / 5


class Clock:
    """Seconds by the clock and of the processor, by what they went to."""

    def __init__(self) -> None:
        self.wall: defaultdict[str, float] = defaultdict(float)
        self.cpu: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add what the body takes."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[name] += time.perf_counter() - wall
        self.cpu[name] += time.process_time() - cpu

    def around(self, name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The function, measured."""

        def measured(*arguments: Tensor) -> Tensor:
            with self.measure(name):
                return function(*arguments)

        return measured


def embed_files(encoder: PasstEncoder, paths: list[Path]) -> Embeddings:
    """e2i's way."""
    waveforms = [load_waveform(p.read_bytes(), SAMPLE_RATE, p.name).samples for p in paths]
    return [made.embedding for made in encoder.encode(waveforms)]


def make_clips(folder: Path, count: int) -> list[list[Path]]:
    """Recordings of 15 to 30 s in batches of two of equal length."""
    rng = np.random.default_rng(0)
    batches = []
    for first in range(0, count, 2):
        seconds = SHORTEST_S + (LONGEST_S - SHORTEST_S) * first / max(2, count - 2)
        batch = []
        for place in range(first, min(count, first + 2)):
            path = folder / f"{place}.wav"
            samples = 0.1 * rng.standard_normal(round(seconds * FILE_RATE))
            soundfile.write(path, samples * np.linspace(0.1, 1, len(samples)), FILE_RATE)
            batch.append(path)
        batches.append(batch)
    return batches


def random_weights(architecture: Architecture) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in expected_shapes(architecture).items():
        values = torch.randn(shape, generator=generator) / 20
        weights[name] = 1 + values if "norm" in name and name.endswith("weight") else values
    return weights


def layer_flops(tokens: int) -> int:
    return 2 * tokens * DIM * DIM * 12 + 4 * tokens * tokens * DIM


def transformer_flops(architecture: Architecture) -> float:
    """Of one full window, as e2i computes it: the last block for two tokens, without keys."""
    tokens = architecture.tokens(architecture.window_samples)
    last = 2 * 2 * DIM * DIM * 12 + 4 * 2 * 12 * tokens * DIM
    return (architecture.depth - 1) * layer_flops(tokens) + last


def product_rates(tokens: int) -> dict[str, float]:
    """FLOP/s of each library over the products of one block, of the better of two tries."""
    generator = torch.Generator().manual_seed(0)
    seconds: defaultdict[str, float] = defaultdict(float)
    flops = 0.0
    for outputs, inputs in ((3 * DIM, DIM), (DIM, DIM), (4 * DIM, DIM), (DIM, 4 * DIM)):
        layer = torch.nn.Linear(inputs, outputs)
        packed = PackedLinear(layer)
        x = torch.randn(tokens, inputs, generator=generator)
        x_array, transposed = x.numpy(), np.ascontiguousarray(layer.weight.detach().numpy().T)
        ways: dict[str, Callable[[], object]] = {
            "torch (MKL)": lambda layer=layer, x=x: layer(x),
            "torch (oneDNN, packed)": lambda packed=packed, x=x: packed(x),
            "NumPy (OpenBLAS)": lambda a=x_array, b=transposed: a @ b,
        }
        flops += 2 * tokens * inputs * outputs
        with torch.inference_mode():
            for name, way in ways.items():
                tries = []
                for _ in range(3):
                    started = time.perf_counter()
                    way()
                    tries.append(time.perf_counter() - started)
                seconds[name] += min(tries[1:])
    return {name: flops / spent for name, spent in seconds.items()}


def off(got: Embeddings, wanted: Embeddings) -> float:
    pairs = zip(got, wanted, strict=True)
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)


def shares(encoder: PasstEncoder, paths: list[Path]) -> tuple[Clock, float]:
    """Where the time of one batch goes; and windows a second of the transformer alone."""
    clock, model = Clock(), encoder._made()
    waveforms = []
    for path in paths:
        with clock.measure("decode"):
            samples, rate = decode(path.read_bytes(), name=path.name)
        with clock.measure("resample"):
            waveforms.append(resample(samples.mean(0), rate, SAMPLE_RATE))
    plain = model.mel.forward, model.embed
    model.mel.forward = clock.around("mel", plain[0])
    model.embed = clock.around("transformer", plain[1])
    try:
        windows = sum(made.num_windows for made in encoder.encode(waveforms))
    finally:
        model.mel.forward, model.embed = plain
    return clock, windows / clock.wall["transformer"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", choices=list(ARCHITECTURES), default=DEFAULT)
    parser.add_argument("--clips", type=int, default=2, help="recordings; default: 2 of 15 s")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch-size", type=int, help="windows a forward pass; default: by device")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        run(options, Path(folder))


def run(options: argparse.Namespace, folder: Path) -> None:
    architecture = ARCHITECTURES[options.arch]
    weights = random_weights(architecture)
    torch.save(weights, folder / "weights.pt")
    file = WeightsFile(folder / "weights.pt", "", "weights.pt")
    ways: dict[str, Callable[[list[Path]], Embeddings]] = {
        "the original's way": Reference(weights, architecture).embed_files
    }
    encoders = {}
    for precision in ("float32", "bfloat16"):
        settings = PasstOptions(architecture, precision=precision, normalize=False)
        encoders[precision] = PasstEncoder(settings, file, batch_size=options.batch_size)
        encoders[precision].encode([np.zeros(architecture.shortest_samples, np.float32)])
        ways[f"e2i, {precision}"] = lambda paths, e=encoders[precision]: embed_files(e, paths)
    batches = make_clips(folder, options.clips)
    tokens = architecture.tokens(architecture.window_samples)
    clocks: list[Clock] = []
    made: dict[str, Embeddings] = {}
    achieved, best, parts = [], [], []
    for number in range(options.rounds):
        clocks.append(Clock())
        for name, way in ways.items():
            with clocks[-1].measure(name):
                made[name] = [embedding for batch in batches for embedding in way(batch)]
        clock, rate = shares(encoders["float32"], batches[0])
        rates = product_rates(tokens)
        parts.append(clock)
        best.append(rates)
        achieved.append(rate * transformer_flops(architecture) / max(rates.values()))
        sys.stderr.write(f"round {number + 1} of {options.rounds}\n")
    report(clocks, made, options)
    names = ("decode", "resample", "mel", "transformer")
    whole = sum(sum(clock.wall[name] for name in names) for clock in parts)
    for name in names:
        print(f"{name:<12} {sum(clock.wall[name] for clock in parts) / whole:7.2%} of e2i's time")
    for name in best[0]:
        print(f"{name:<24} {statistics.median(r[name] for r in best) / 1e9:6.0f} GFLOP/s")
    print(f"transformer: {statistics.median(achieved):.0%} of the best float32 product")


def report(clocks: list[Clock], made: dict[str, Embeddings], options: argparse.Namespace) -> None:
    first = next(iter(made))
    print(f"{options.arch}, {options.clips} clips, {options.threads} threads")
    print(f"{'':<22}{'clips/s':>9}{'ratio':>8}{'lowest':>8}{'cpu':>8}{'error':>11}")
    for name, embeddings in made.items():
        seconds = statistics.median(clock.wall[name] for clock in clocks)
        ratios = [clock.wall[first] / clock.wall[name] for clock in clocks]
        cpu = statistics.median(clock.cpu[first] / clock.cpu[name] for clock in clocks)
        print(
            f"{name:<22}{options.clips / seconds:>9.3f}{statistics.median(ratios):>8.2f}"
            f"{min(ratios):>8.2f}{cpu:>8.2f}{off(embeddings, made[first]):>11.1e}"
        )


if __name__ == "__main__":
    main()
