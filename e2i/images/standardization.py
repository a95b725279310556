"""Standardizing: each dimension of an embedding to mean 0 and deviation 1 over the training clips.

Decides: one outlying dimension would otherwise leave a channel of a pseudo-image with a handful of
gray levels. Statistics are taken from training clips (or captions) alone, and are named by a digest
wherever something was made with them: images by other statistics are other images.

Conventions: N embeddings float32 (N, D). Mean and deviation are float32 (D,), rounded from sums in
float64 that run row by row, so that they are the same on every machine. An embedding is
standardized in float64 and rounded to float32 once. With the images they lie in
`standardization-<digest>.json`.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from e2i.errors import ImageError, StorageNotFoundError
from e2i.storage import Folder

_FORMAT = 1
_FILE = re.compile(r"standardization-[0-9a-f]{16}\.json")


@dataclass(frozen=True)
class Standardization:
    """Mean and deviation of each dimension, over training clips or captions.

    Attributes:
        mean: float32 (D,).
        deviation: float32 (D,), above 0; 1 for a dimension that never varies.
    """

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]

    @classmethod
    def of(cls, embeddings: NDArray[np.float32]) -> Standardization:
        """The statistics of (N, D) embeddings, N of at least 1."""
        rows = np.ascontiguousarray(embeddings)
        mean = np.add.reduce(rows, axis=0, dtype=np.float64) / len(rows)
        squares = np.zeros_like(mean)
        largest = np.zeros_like(mean)
        step = max(1, 2**20 // max(1, rows.shape[1]))
        for start in range(0, len(rows), step):
            block = rows[start : start + step].astype(np.float64)
            np.maximum(largest, np.abs(block).max(axis=0), out=largest)
            # Row by row onto what is there: the blocks do not show in the sum.
            centered = np.square(block - mean)
            centered[0] += squares
            squares = np.add.reduce(centered, axis=0)
        deviation = np.sqrt(squares / len(rows))
        varies = deviation > 1e-8 * np.maximum(largest, 1e-30)
        return cls(mean.astype(np.float32), np.where(varies, deviation, 1.0).astype(np.float32))

    @cached_property
    def digest(self) -> str:
        """Names these statistics: 16 hexadecimal digits."""
        values = np.stack([self.mean, self.deviation]).astype("<f4")
        return hashlib.sha256(values.tobytes()).hexdigest()[:16]

    @property
    def dim(self) -> int:
        """D."""
        return len(self.mean)

    def apply(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B, D) standardized, float32."""
        with np.errstate(over="ignore"):
            values = (embeddings.astype(np.float64) - self.mean) / self.deviation
            return values.astype(np.float32)

    def undo(self, standardized: NDArray[np.float64]) -> NDArray[np.float32]:
        """(B, D) as they were before, float32."""
        values = standardized * self.deviation.astype(np.float64) + self.mean
        undone: NDArray[np.float32] = values.astype(np.float32)
        return undone


def write_standardization(folder: Folder, standardization: Standardization) -> None:
    """Store statistics beside the images made with them, unless they are there, and whole."""
    try:
        read_standardization(folder, standardization.digest)
    except ImageError:
        pass
    else:
        return
    content = {
        "format": _FORMAT,
        "dimension": standardization.dim,
        "mean": standardization.mean.tolist(),
        "deviation": standardization.deviation.tolist(),
    }
    name = standardization_name(standardization.digest)
    folder.write(name, json.dumps(content, separators=(",", ":")).encode())


def read_standardization(folder: Folder, digest: str) -> Standardization:
    """The statistics that an image beside them names.

    Raises:
        ImageError: they are not there, or are others than their name says.
        StorageError: the store refused.
    """
    name = standardization_name(digest)
    step = "Run e2i cache-images --standardize."
    try:
        content = json.loads(folder.read(name))
        found = Standardization(
            np.array(content["mean"], dtype=np.float32),
            np.array(content["deviation"], dtype=np.float32),
        )
    except StorageNotFoundError as error:
        message = (
            f"the statistics of standardized pseudo-images are missing: got no file {name} in "
            f"{folder.url}, expected one. {step}"
        )
        raise ImageError(message) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ImageError(_damaged(folder, name, step)) from error
    if found.mean.ndim != 1 or found.mean.shape != found.deviation.shape or found.digest != digest:
        raise ImageError(_damaged(folder, name, step))
    return found


def standardization_name(digest: str) -> str:
    """Name of the file that statistics lie in, beside the images."""
    return f"standardization-{digest}.json"


def is_standardization_name(name: str) -> bool:
    """Whether a file's name is that of statistics."""
    return _FILE.fullmatch(name) is not None


def _damaged(folder: Folder, name: str, step: str) -> str:
    return (
        f"the statistics of standardized pseudo-images are damaged: got other values than the name "
        f"says in {folder.url}/{name}, expected those it was written with. {step}"
    )
