"""How long retrieval scores take, beside the original's way and beside the plain product.

1. Clotho's evaluation split: 5,225 captions against 1,045 clips. The original's way: a clip's row
   stands once a caption, so 5,225 × 5,225 similarities, each row sorted, the rank of the diagonal
   read off, in both directions. Ours: every metric of both directions, ties counted, over distinct
   clips; intervals are left out, which the original does not have.
2. 100,000 captions against 20,000 clips in chunks of 256: ranks beside the product alone, in the
   same chunks, by the same library; and the memory that it takes on top.

All in one run, one after the other in turns, medians of the turns; seconds of the processor beside
those on the wall, for machines that have other work to do.

    python benchmarks/evaluate.py [--turns 7] [--large-turns 3] [--width 256] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from e2i.retrieval.config import EvaluationConfig
from e2i.retrieval.evaluation import evaluate_projections
from e2i.retrieval.ranks import rank_positives
from e2i.retrieval.similarity import CosineSimilarity

NUM_CLIPS, CAPTIONS_A_CLIP = 1_045, 5
LARGE_CAPTIONS, LARGE_CLIPS, CHUNK = 100_000, 20_000, 256
QUICK = EvaluationConfig(bootstrap_resamples=0)


def projections(num_clips: int, captions_a_clip: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Unit text and audio, and the clip of each caption."""
    generator = torch.Generator().manual_seed(0)
    audio = torch.randn(num_clips, width, generator=generator)
    clip = torch.arange(num_clips).repeat_interleave(captions_a_clip)
    text = audio[clip] + 3.0 * torch.randn(len(clip), width, generator=generator)
    return (
        torch.nn.functional.normalize(text, dim=1),
        torch.nn.functional.normalize(audio, dim=1),
        clip,
    )


def originals_way(text: Tensor, audio: Tensor, chunk: int = 512) -> dict[str, float]:
    """Recalls of both directions with a row of audio a caption, by sorting every row."""
    found = {}
    for direction, queries, candidates in (
        ("text_to_audio", text, audio),
        ("audio_to_text", audio, text),
    ):
        ranks = []
        for start in range(0, len(queries), chunk):
            similarity = queries[start : start + chunk] @ candidates.T
            order = similarity.argsort(dim=1, descending=True)
            own = torch.arange(start, start + len(similarity))[:, None]
            ranks.append((order == own).int().argmax(dim=1))
        rank = torch.cat(ranks)
        found |= {f"{direction}_R@{k}": float((rank < k).float().mean()) for k in (1, 5, 10)}
    return found


def in_turns(ways: dict[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Median seconds of each way, on the wall's clock and the processor's; one turn warms up."""
    seconds: dict[str, list[float]] = {}
    for turn in range(turns + 1):
        for name, way in ways.items():
            started, started_cpu = time.perf_counter(), time.process_time()
            way()
            if turn:
                seconds.setdefault(f"{name}_s", []).append(time.perf_counter() - started)
                seconds.setdefault(f"{name}_cpu_s", []).append(time.process_time() - started_cpu)
    return {name: statistics.median(times) for name, times in seconds.items()}


class PeakMemory:
    """The most memory of this process while it is entered, above what it had before."""

    def __enter__(self) -> PeakMemory:
        self._before = _resident_bytes()
        self.bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self.bytes = max(self.bytes, _resident_bytes() - self._before)


def _resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * 4096


def small(turns: int, width: int) -> dict[str, float]:
    """Clotho's evaluation split."""
    text, audio, clip = projections(NUM_CLIPS, CAPTIONS_A_CLIP, width)
    doubled = audio[clip]
    found = in_turns(
        {
            "original": lambda: originals_way(text, doubled),
            "e2i": lambda: evaluate_projections(text, audio, clip.numpy(), QUICK),
        },
        turns,
    )
    found["times_as_fast"] = found["original_s"] / found["e2i_s"]
    found["times_as_fast_cpu"] = found["original_cpu_s"] / found["e2i_cpu_s"]
    return found


def large(turns: int, width: int, captions: int) -> dict[str, float]:
    """Many captions against many clips, in chunks."""
    text, audio, clip = projections(LARGE_CLIPS, LARGE_CAPTIONS // LARGE_CLIPS, width)
    text, clip = text[:captions], clip[:captions]
    own = clip[:, None]
    similarity = CosineSimilarity(text, audio)

    def plain_product() -> None:
        for start in range(0, len(text), CHUNK):
            text[start : start + CHUNK] @ audio.T

    def ranks() -> None:
        rank_positives(similarity.text_to_audio(CHUNK), own)

    with PeakMemory() as peak:
        ranks()
    found = in_turns({"plain_product": plain_product, "ranks": ranks}, turns)
    found["share_of_the_products_rate"] = found["plain_product_s"] / found["ranks_s"]
    found["share_of_the_products_rate_cpu"] = found["plain_product_cpu_s"] / found["ranks_cpu_s"]
    found["peak_gib"] = peak.bytes / 2**30
    return found


def main() -> None:
    """Print both as JSON."""
    parser = argparse.ArgumentParser(description="Speed of retrieval scores.")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--large-turns", type=int, default=3)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--captions", type=int, default=LARGE_CAPTIONS, help="of the second part")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(json.dumps({"small": small(options.turns, options.width)}, indent=2), flush=True)
    print(
        json.dumps({"large": large(options.large_turns, options.width, options.captions)}, indent=2)
    )


if __name__ == "__main__":
    main()
