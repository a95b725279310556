"""Projections of equal inputs are equal, so that a tie stays a tie."""

from __future__ import annotations

import pytest
import torch

from e2i.heads.build import build_heads
from e2i.heads.config import HeadsConfig
from e2i.training.project import project


class UnlikeByPlace:
    """Heads whose every result differs, as the last bits of a matrix product can."""

    def __init__(self) -> None:
        self.rows = 0

    def project_audio(self, inputs: torch.Tensor) -> torch.Tensor:
        self.rows += len(inputs)
        return torch.arange(self.rows - len(inputs), self.rows, dtype=torch.float32)[:, None]

    project_text = project_audio


@pytest.mark.parametrize("shape", [(4,), (3, 2, 2)], ids=["embeddings", "images"])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_equal_inputs_share_one_projection(shape, batch_size):
    generator = torch.Generator().manual_seed(0)
    distinct = torch.randint(0, 256, (7, *shape), dtype=torch.uint8, generator=generator)
    which = torch.tensor([0, 1, 2, 3, 0, 4, 5, 1, 6, 0])
    heads = UnlikeByPlace()
    audio, text = project(heads, distinct[which], distinct, batch_size)
    assert heads.rows == 14
    assert audio.shape == (10, 1)
    assert text.unique().numel() == 7
    same = which[:, None] == which[None, :]
    assert torch.equal(audio == audio.T, same)


@pytest.mark.parametrize(("rows", "batch_size"), [(777, 64), (1025, 1024), (4097, 4096)])
def test_a_short_last_batch_breaks_no_tie(rows, batch_size):
    # 777 by 64 and 4097 by 4096 came out a last bit apart on x86 before rows were shared.
    generator = torch.Generator().manual_seed(rows)
    inputs = torch.randn(rows, 360, generator=generator)
    inputs[-1] = inputs[0]
    heads = build_heads(HeadsConfig(), 360, 360, seed=1).requires_grad_(False)
    audio, text = project(heads, inputs, inputs, batch_size)
    assert torch.equal(audio[0], audio[-1])
    assert torch.equal(text[0], text[-1])
