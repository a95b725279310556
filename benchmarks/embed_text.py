"""How fast captions are embedded, beside the original's way, on the same captions in one run.

    python benchmarks/embed_text.py

The model is as large as RoBERTa-base and has random weights, so nothing is fetched. The original's
way, written anew: captions in the order of the file, eight at a time, padded to the longest, plain
transformers, masked mean. Both run in turn, several times, and the median of the ratios counts,
since a machine is seldom quiet. On a busy one, `--threads 1 --clock cpu` says more: it counts the
processor's time. Captions are Clotho's where E2I_CLOTHO_CAPTIONS names the folder of their files,
else generated ones of such lengths.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoModel, AutoTokenizer, RobertaConfig, RobertaModel
from transformers.models.roberta import RobertaTokenizer
from transformers.utils import logging as transformers_logging

sys.path.insert(0, str(Path(__file__).parent.parent))

from e2i.encoders.config import EncodersConfig
from e2i.encoders.hf_text import HfTextEncoder, tokenized
from e2i.encoders.products import PackedLinear

Clock = Callable[[], float]

ORIGINAL_BATCH = 8
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def main() -> None:
    options = parsed()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if options.threads:
        torch.set_num_threads(options.threads)
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    captions, source = captions_of(options.captions)
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_model(Path(scratch) / "model", captions, options.layers, options.width)
        encoder = HfTextEncoder(
            EncodersConfig(
                text_encoder="hf",
                text_model=str(folder),
                device=options.device,
                precision=options.precision,
            )
        )
        original = originals_way(folder, encoder)
        encoder.encode(captions[:8])
        original(captions[:8])
        ours_s, originals_s, ratios = [], [], []
        for _ in range(options.rounds):
            first, expected = timed(lambda: original(captions), clock)
            second, got = timed(lambda: encoder.encode(captions), clock)
            ours_s.append(second)
            originals_s.append(first)
            ratios.append(first / second)
        report(options, source, captions, encoder, ours_s, originals_s, ratios)
        off = np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)
        print(f"largest relative error   {off.max():.1e}")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--captions", type=int, default=160, help="how many, from the first on")
    parser.add_argument("--rounds", type=int, default=3, help="how often each way runs")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--precision", default="float32", help="of ours")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its own choice")
    return parser.parse_args()


def captions_of(count: int) -> tuple[list[str], str]:
    """Captions in file order, and where they are from."""
    folder = os.environ.get("E2I_CLOTHO_CAPTIONS")
    if folder:
        path = Path(folder) / "clotho_captions_development.csv"
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        captions = [row[f"caption_{n}"] for row in rows for n in range(1, 6)]
        return captions[:count], "Clotho development"
    rng = random.Random(0)
    words = ["".join(rng.choices("aeioubcdfglmnprst", k=rng.randint(2, 8))) for _ in range(800)]
    return [
        " ".join(rng.choices(words, k=rng.randint(8, 20))).capitalize() + "." for _ in range(count)
    ], "generated"


def make_model(folder: Path, captions: list[str], layers: int, width: int) -> Path:
    """A RoBERTa of random weights and a tokenizer that fits the captions, in the published form."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        captions, vocab_size=20_000, special_tokens=SPECIAL, show_progress=False
    )
    merges = [
        tuple(merge.split() if isinstance(merge, str) else merge)
        for merge in json.loads(trained.to_str())["model"]["merges"]
    ]
    RobertaTokenizer(
        vocab=trained.get_vocab(), merges=merges, model_max_length=512
    ).save_pretrained(folder)
    config = RobertaConfig(
        vocab_size=50_265,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        max_position_embeddings=514,
    )
    torch.manual_seed(0)
    RobertaModel(config).save_pretrained(folder)
    return folder


def originals_way(folder: Path, encoder: HfTextEncoder) -> Callable[[list[str]], np.ndarray]:
    """Eight captions at a time, in file order, padded to the longest."""
    device = encoder._ready().device
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval().to(device)

    def embed(captions: list[str]) -> np.ndarray:
        rows = []
        for start in range(0, len(captions), ORIGINAL_BATCH):
            inputs = tokenizer(
                captions[start : start + ORIGINAL_BATCH],
                padding=True,
                truncation=True,
                max_length=256,
                return_tensors="pt",
            ).to(device)
            with torch.no_grad():
                hidden = model(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1).float()
            mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)
            rows.append(torch.nn.functional.normalize(mean, dim=-1).cpu())
        return torch.cat(rows).numpy()

    return embed


def timed(function: Callable[[], object], clock: Clock) -> tuple[float, np.ndarray]:
    started = clock()
    result = function()
    return clock() - started, result


def best_product_rate(width: int, clock: Clock, rounds: int = 8) -> dict[str, float]:
    """FLOP/s of float32 products as large as the model's, by each library at hand, the best run."""
    rows, inner, outer = 1024, width, 4 * width
    one, linear = torch.randn(rows, inner), torch.nn.Linear(inner, outer, bias=False)
    arrays = one.numpy(), linear.weight.detach().numpy().T.copy()
    ways: dict[str, Callable[[], object]] = {
        "torch (MKL)": lambda: linear(one),
        "numpy (OpenBLAS)": lambda: arrays[0] @ arrays[1],
    }
    if torch.backends.mkldnn.is_available():
        packed = PackedLinear(linear)
        ways["oneDNN, packed"] = lambda: packed(one)
    rates: dict[str, float] = dict.fromkeys(ways, 0.0)
    with torch.inference_mode():
        for _ in range(rounds):
            for name, way in ways.items():
                started = clock()
                for _ in range(4):
                    way()
                rate = 4 * 2 * rows * inner * outer / (clock() - started)
                rates[name] = max(rates[name], rate)
    return rates


def operations(encoder: HfTextEncoder, captions: list[str], layers: int, width: int) -> float:
    """Floating-point operations that these captions need, padding left out."""
    lengths = tokenized(encoder._ready().tokenizer, captions, 256).lengths
    return float(sum(layers * (24 * width**2 * n + 4 * width * n**2) for n in lengths))


def report(  # noqa: PLR0917
    options: argparse.Namespace,
    source: str,
    captions: list[str],
    encoder: HfTextEncoder,
    ours_s: list[float],
    originals_s: list[float],
    ratios: list[float],
) -> None:
    lengths = tokenized(encoder._ready().tokenizer, captions, 256).lengths
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    tokens_s, _ = timed(lambda: tokenized(encoder._ready().tokenizer, captions, 256), clock)
    mine = statistics.median(ours_s)
    print(
        f"{len(captions)} captions ({source}), {statistics.mean(lengths):.1f} tokens each; "
        f"{options.layers} layers of {options.width}, {options.precision}, {options.device}, "
        f"{torch.get_num_threads()} threads, {options.rounds} rounds, {options.clock} clock"
    )
    print(
        f"original's way           {len(captions) / statistics.median(originals_s):.1f} captions/s"
    )
    print(f"e2i                      {len(captions) / mine:.1f} captions/s")
    print(
        f"ratio                    {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )
    print(f"of it tokenization       {tokens_s / mine:.1%}")
    if options.device == "cpu":
        rates = best_product_rate(options.width, clock)
        best = max(rates.values())
        achieved = operations(encoder, captions, options.layers, options.width) / min(ours_s)
        for name, rate in rates.items():
            print(f"products, {name:<18} {rate / 1e9:.0f} GFLOP/s")
        print(f"share of the best        {achieved / best:.0%} (best round)")


if __name__ == "__main__":
    main()
