r"""Memory and time of a fine-tuning step, with and without fused attention and checkpointing.

PaSST of random weights (`--depth` blocks of the published width) learns from noise: forward,
backward and an AdamW step, as `e2i finetune` takes them. Memory is the highest that the step had in
use: on a GPU what its allocator counts, on the CPU what the process grew by at most, each case in a
process of its own. The share of the peak counts two operations a weight and token forward and four
backward, plus those of attention; recomputed ones do not count.

    python -m benchmarks.finetune_step                             # small, on the CPU
    python -m benchmarks.finetune_step --device cuda --batch 32 --seconds 10 --depth 12 \
        --precision bfloat16 --peak-tflops 989
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from dataclasses import dataclass, replace

import torch

from e2i.encoders.passt_architectures import ARCHITECTURES, DIM, SAMPLE_RATE, Architecture
from e2i.encoders.passt_model import expected_shapes
from e2i.encoders.passt_training import AttentionName, TrainablePasst

CASES: list[tuple[AttentionName, bool]] = [
    ("fused", False),
    ("explicit", False),
    ("fused", True),
    ("explicit", True),
]


@dataclass(frozen=True)
class Case:
    """What one process measures."""

    attention: AttentionName
    checkpointing: bool
    arguments: argparse.Namespace


def architecture_of(arguments: argparse.Namespace) -> Architecture:
    return replace(ARCHITECTURES[arguments.arch], depth=arguments.depth)


def model_of(case: Case) -> TrainablePasst:
    architecture = architecture_of(case.arguments)
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(shape, generator=generator) / 30
        for name, shape in expected_shapes(architecture).items()
    }
    return TrainablePasst(
        architecture, weights, attention=case.attention, checkpointing=case.checkpointing
    ).to(case.arguments.device)


def operations(arguments: argparse.Namespace) -> float:
    """Floating-point operations of a step, those of recomputing left out."""
    tokens = architecture_of(arguments).tokens(round(arguments.seconds * SAMPLE_RATE))
    weights = arguments.depth * 12 * DIM**2
    attention = arguments.depth * 2 * tokens * DIM
    return 3 * 2.0 * arguments.batch * tokens * (weights + attention)


def measure(case: Case) -> tuple[float, float]:
    """Seconds of a step (the fastest of some) and bytes at its highest."""
    arguments = case.arguments
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    model = model_of(case)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    samples = round(arguments.seconds * SAMPLE_RATE)
    waveforms = 0.1 * torch.randn(arguments.batch, samples, device=device)
    dtype = torch.bfloat16 if arguments.precision == "bfloat16" else torch.float32
    on_gpu = device.type == "cuda"

    def step() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            embedded = model(waveforms)
        embedded.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if on_gpu:
            torch.cuda.synchronize()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    times = []
    for _ in range(arguments.steps + 1):  # the first one warms up
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    if on_gpu:
        return min(times[1:]), torch.cuda.max_memory_allocated()
    return min(times[1:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="passt_s_swa_p16_128_ap476")
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="of the device, if known")
    arguments = parser.parse_args()
    tokens = architecture_of(arguments).tokens(round(arguments.seconds * SAMPLE_RATE))
    print(
        f"{arguments.depth} blocks, {arguments.batch} x {arguments.seconds:g} s "
        f"({tokens} tokens each), {arguments.precision}, {arguments.device}"
    )
    processes = multiprocessing.get_context("spawn")
    for attention, checkpointing in CASES:
        with processes.Pool(1) as pool:
            seconds, highest = pool.apply(measure, (Case(attention, checkpointing, arguments),))
        tflops = operations(arguments) / seconds / 1e12
        share = f", {tflops / arguments.peak_tflops:.1%} of peak" if arguments.peak_tflops else ""
        print(
            f"  {attention:<9}{'checkpointing' if checkpointing else '':<15}"
            f"{seconds * 1e3:9.1f} ms a step  {highest / 2**20:9.0f} MiB  "
            f"{tflops:7.3f} TFLOP/s{share}"
        )


if __name__ == "__main__":
    main()
