"""Similarity: equal candidates tie, whatever the matrix product or the caller's precision does."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from e2i.errors import RetrievalInputError
from e2i.retrieval import similarity as similarity_module
from e2i.retrieval.similarity import CosineSimilarity, unit_rows


@pytest.fixture(params=[2**24, 0], ids=["one product kept", "a product a block"])
def cells_kept(request, monkeypatch):
    monkeypatch.setattr(similarity_module, "_CELLS_KEPT", request.param)


def projections(rows, width=32, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def precision_as_found():
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = [backend.fp32_precision for backend in backends]
    overall = torch.backends.fp32_precision
    yield
    torch.backends.fp32_precision = overall
    for backend, precision in zip(backends, before, strict=True):
        backend.fp32_precision = precision


@pytest.mark.usefixtures("cells_kept")
@pytest.mark.parametrize("size", [1, 7, 64, 1_000])
def test_blocks_are_the_cosine_in_both_directions(size):
    text, audio = projections(35), projections(9, seed=1) * 40
    expected = torch.nn.functional.cosine_similarity(
        text[:, None].double(), audio[None].double(), dim=-1
    )
    similarity = CosineSimilarity(text, audio)
    rows, columns = list(similarity.text_to_audio(size)), list(similarity.audio_to_text(size))
    assert [len(block) for block in rows[:-1]] == [size] * (len(rows) - 1)
    assert rows[0].dtype == torch.float32
    torch.testing.assert_close(torch.cat(rows).double(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.cat(columns).double(), expected.T, atol=1e-6, rtol=0)


@pytest.mark.usefixtures("cells_kept")
@pytest.mark.parametrize("width", [33, 100, 768])
@pytest.mark.parametrize("copies", [2, 7, 13])
def test_equal_candidates_get_equal_scores(width, copies):
    # A plain product of 7 equal rows of width 33 gives scores that differ in the last bit (seen
    # with MKL): the tail of a tile is added up in another order.
    text = projections(20, width)
    audio = torch.cat([projections(3, width, 1), projections(1, width, 2).expand(copies, -1)])
    similarity = CosineSimilarity(text, audio)
    scores = torch.cat(list(similarity.text_to_audio(8)))
    assert (scores[:, 3:] == scores[:, 3:4]).all()
    assert not (scores[:, :1] == scores[:, 3:4]).any()
    back = torch.cat(list(CosineSimilarity(audio, text).audio_to_text(8)))
    assert (back[:, 3:] == back[:, 3:4]).all()


def test_zero_projections_score_zero():
    text, audio = projections(4), projections(3, seed=1)
    text[2], audio[1] = 0.0, -0.0
    scores = next(CosineSimilarity(text, audio).text_to_audio(10))
    assert (scores[2] == 0).all()
    assert (scores[:, 1] == 0).all()
    assert (scores[[0, 1, 3]][:, [0, 2]] != 0).all()


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1.0, 1e30, 2e37])
def test_very_short_and_very_long_rows_are_normalized(scale):
    rows = unit_rows(torch.tensor([[3.0, -4.0], [0.0, 1.0]]) * scale, "clip")
    expected = torch.tensor([[0.6, -0.8], [0.0, 1.0]])
    torch.testing.assert_close(rows, expected, atol=1e-6 if scale > 1e-40 else 1e-2, rtol=0)


def test_rows_that_compare_equal_have_equal_bytes():
    rows = unit_rows(torch.tensor([[0.0, 3.0], [-0.0, 3.0]]), "clip")
    assert torch.equal(rows[0].view(torch.int32), rows[1].view(torch.int32))


def test_inputs_are_left_as_they_were():
    rows = projections(3).double().requires_grad_()
    before = rows.clone()
    assert not unit_rows(rows, "clip").requires_grad
    assert torch.equal(rows, before)
    same = projections(3)
    unit_rows(same, "clip")
    assert torch.equal(same, projections(3))


@pytest.mark.usefixtures("cells_kept", "precision_as_found")
def test_lower_precision_of_the_caller_changes_nothing():
    text, audio = projections(64, 256), projections(40, 256, seed=1)
    similarity = CosineSimilarity(text, audio)
    expected = torch.cat(list(similarity.text_to_audio(16)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (text @ audio.T).dtype == torch.bfloat16
        low = CosineSimilarity(text, audio)
        assert torch.equal(torch.cat(list(low.text_to_audio(16))), expected)
    torch.set_float32_matmul_precision("medium")
    low = CosineSimilarity(text, audio)
    assert torch.equal(torch.cat(list(low.text_to_audio(16))), expected)
    assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.usefixtures("precision_as_found")
@pytest.mark.parametrize("overall", ["none", "ieee", "tf32"])
@pytest.mark.parametrize("cuda", ["none", "ieee", "tf32"])
def test_precision_settings_are_put_back(monkeypatch, overall, cuda):
    torch.backends.fp32_precision = overall
    torch.backends.cuda.matmul.fp32_precision = cuda
    before = torch.backends.cuda.matmul.fp32_precision
    seen = []
    full = similarity_module._full_precision

    def spying(device):
        with full(device):
            seen.append(
                (
                    torch.backends.cuda.matmul.fp32_precision,
                    torch.backends.mkldnn.matmul.fp32_precision,
                )
            )
            yield

    monkeypatch.setattr(similarity_module, "_full_precision", contextmanager(spying))
    CosineSimilarity(projections(3), projections(2))
    assert seen == [("ieee", "ieee")]
    assert torch.backends.cuda.matmul.fp32_precision == before
    assert torch.backends.fp32_precision == overall


@pytest.mark.gpu
@pytest.mark.usefixtures("precision_as_found")
def test_tf32_of_the_caller_changes_nothing_on_a_gpu():
    text, audio = projections(512, 256).cuda(), projections(300, 256, seed=1).cuda()
    expected = next(CosineSimilarity(text, audio).text_to_audio(512))
    torch.set_float32_matmul_precision("medium")
    assert torch.equal(next(CosineSimilarity(text, audio).text_to_audio(512)), expected)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_rows_that_are_not_finite_are_named(value):
    text, audio = projections(6), projections(4, seed=1)
    text[5, 31] = value
    with pytest.raises(
        RetrievalInputError,
        match=rf"the projection of caption 5 is not finite: got {float(value)}, expected finite",
    ):
        CosineSimilarity(text, audio)
    audio[2, 0] = value
    with pytest.raises(RetrievalInputError, match="the projection of clip 2 is not finite: got"):
        CosineSimilarity(projections(6), audio)


def test_a_float64_row_too_long_for_float32_is_named():
    with pytest.raises(RetrievalInputError, match="projection of clip 1 is not finite: got inf"):
        unit_rows(torch.tensor([[1.0], [1e200]], dtype=torch.float64), "clip")


def test_shapes_that_do_not_join_are_errors():
    with pytest.raises(RetrievalInputError, match="differ in width: got 32 and 16, expected one j"):
        CosineSimilarity(projections(6), projections(4, 16))
    with pytest.raises(RetrievalInputError, match=r"of the captions are no matrix: got shape \(6,"):
        CosineSimilarity(projections(6)[:, 0], projections(4))
    with pytest.raises(RetrievalInputError, match=r"of the clips are no matrix: got shape \(0, 32"):
        CosineSimilarity(projections(6), projections(0))
