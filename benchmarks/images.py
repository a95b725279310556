"""Pseudo-images as PNG files: the original's way and `render_images`.

The original's way, one embedding at a time: enlarge with torch, scale each channel by its minimum
and maximum, save with pillow. The files go to `--folder`, by default to memory, so that the disk,
which both wait for, is left out. Pixels are checked to be equal.

    python -m benchmarks.images --images 1000 --rounds 7
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from benchmarks.interleaved import compare
from e2i.images.config import ImagesConfig
from e2i.images.names import png_name
from e2i.images.render import render_images
from e2i.storage import Folder

DIM = 768  # as PaSST and RoBERTa: three full planes of 16 x 16, no padding


def original(embeddings: NDArray[np.float32], folder: Path, size: int) -> None:
    """The original's way; scaled in float64, so that pixels can be compared exactly."""
    for number, embedding in enumerate(embeddings):
        folded = torch.from_numpy(embedding).double().view(1, 3, 16, 16)
        image = functional.interpolate(folded, size=(size, size), mode="nearest")[0]
        low = image.amin(dim=(1, 2), keepdim=True)
        high = image.amax(dim=(1, 2), keepdim=True)
        scaled = ((image - low) / (high - low) * 255).round().to(torch.uint8)
        Image.fromarray(scaled.permute(1, 2, 0).contiguous().numpy()).save(folder / f"{number}.png")


def main() -> None:
    """Print images per second of both, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--folder", default="/dev/shm" if Path("/dev/shm").is_dir() else None)
    options = parser.parse_args()
    torch.set_num_threads(1)  # a single image is too small for more, which only slow it down
    random = np.random.default_rng(13)
    embeddings = random.standard_normal((options.images, DIM)).astype(np.float32)
    ids = [f"clip {number}.wav" for number in range(options.images)]
    config = ImagesConfig(image_size=options.size)
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        theirs = Path(scratch, "theirs")
        theirs.mkdir()
        made: list[Path] = []

        def ours() -> None:
            folder = Path(scratch, f"ours-{len(made)}")
            made.append(folder)
            render_images(Folder(folder), "audio", ids, embeddings, config, fingerprint="f")

        their_s, our_s, ratio = compare(
            lambda: original(embeddings, theirs, options.size), ours, options.rounds
        )
        for number, clip_id in enumerate(ids):
            with (
                Image.open(theirs / f"{number}.png") as first,
                Image.open(
                    made[0] / config.images_dir / "audio" / png_name("audio", clip_id)
                ) as second,
            ):
                assert np.array_equal(np.asarray(first), np.asarray(second)), clip_id
    print(f"{options.images} images of {options.size} px, {options.rounds} rounds, pixels equal")
    print(f"original: {options.images / their_s:,.0f} images/s")
    print(f"e2i:      {options.images / our_s:,.0f} images/s")
    print(f"ratio:    {ratio:.1f}")


if __name__ == "__main__":
    main()
