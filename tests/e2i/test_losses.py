"""The contrastive loss: by hand, against a loop, against cross entropy, and its gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, normalize

from e2i.errors import RetrievalInputError
from e2i.losses import contrastive_loss, positives_from_clips


def batch(pairs=6, width=8, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    both = torch.randn(2, pairs, width, generator=generator, dtype=torch.float64)
    audio, text = normalize(both, dim=-1).to(dtype)
    return audio, text


def looped(audio, text, positives, logit_scale):
    """The definition, one positive cell after another."""
    pairs = len(audio)
    temperature = 1 / math.exp(logit_scale)
    logit = [[float(audio[i] @ text[j]) / temperature for j in range(pairs)] for i in range(pairs)]
    forward, backward = [], []
    for i in range(pairs):
        for j in range(pairs):
            if positives[i, j]:
                row = math.log(sum(math.exp(logit[i][n]) for n in range(pairs)))
                column = math.log(sum(math.exp(logit[n][j]) for n in range(pairs)))
                forward.append(row - logit[i][j])
                backward.append(column - logit[i][j])
    return (sum(forward) / len(forward) + sum(backward) / len(backward)) / 2


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=7),
    st.floats(-1.0, 3.0),
    st.integers(0, 1_000),
)
def test_agrees_with_the_definition(clips, logit_scale, seed):
    audio, text = batch(len(clips), seed=seed)
    positives = positives_from_clips(torch.tensor(clips))
    found = contrastive_loss(audio, text, positives, logit_scale)
    assert found.item() == pytest.approx(looped(audio, text, positives, logit_scale), abs=1e-9)


def test_cells_off_the_diagonal_need_not_be_symmetric():
    audio, text = batch()
    positives = torch.zeros(6, 6, dtype=torch.bool)
    positives[[0, 0, 0, 4], [1, 2, 5, 0]] = True
    found = contrastive_loss(audio, text, positives, 1.5)
    assert found.item() == pytest.approx(looped(audio, text, positives, 1.5), abs=1e-9)


def test_one_positive_each_is_symmetric_cross_entropy():
    audio, text = batch(dtype=torch.float32)
    scale = math.log(1 / 0.07)
    logits = audio @ text.T / 0.07
    target = torch.arange(6)
    expected = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
    found = contrastive_loss(audio, text, torch.eye(6, dtype=torch.bool), scale)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def by_softmaxes(audio, text, positives, logit_scale):
    """The same by two softmaxes, which autograd differentiates."""
    logits = audio @ text.T * logit_scale.exp()
    both = logits.log_softmax(dim=1) + logits.log_softmax(dim=0)
    return both[positives].mean() * -0.5


@pytest.mark.parametrize("temperature", [1.0, 0.07, 0.01])
@pytest.mark.parametrize("clips", [[0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 2, 2], [3] * 6])
def test_gradients_are_those_of_two_softmaxes(temperature, clips):
    positives = positives_from_clips(torch.tensor(clips))
    given_ways = [positives, None] if len(set(clips)) == 6 else [positives]
    scale = torch.tensor(math.log(1 / temperature), dtype=torch.float64)
    for given_positives in given_ways:
        found = []
        for way, how in ((contrastive_loss, given_positives), (by_softmaxes, positives)):
            inputs = [*batch(seed=4), scale]
            inputs = [one.clone().requires_grad_() for one in inputs]
            loss = way(inputs[0], inputs[1], how, inputs[2]) * 3
            found.append([loss.detach(), *torch.autograd.grad(loss, inputs)])
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


def test_the_gradient_is_the_slope_and_can_be_taken_twice_from_one_graph():
    audio, text = batch(pairs=5)
    inputs = (audio.requires_grad_(), text.requires_grad_(), torch.tensor(1.5, dtype=torch.float64))
    inputs[2].requires_grad_()
    positives = positives_from_clips(torch.tensor([0, 1, 1, 2, 3]))
    assert torch.autograd.gradcheck(
        lambda a, t, scale: contrastive_loss(a, t, positives, scale), inputs
    )
    loss = contrastive_loss(*inputs[:2], None, inputs[2])
    first, again = (torch.autograd.grad(loss, inputs, retain_graph=keep) for keep in (True, False))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize("scale", [math.log(100), 8.0])
def test_logits_far_apart_stay_finite_and_exact(scale):
    audio, text = batch(pairs=4, dtype=torch.float32)
    text[0], text[1] = -audio[0], audio[1]
    double = contrastive_loss(audio.double(), text.double(), None, scale)
    found = contrastive_loss(audio.requires_grad_(), text, None, scale)
    torch.testing.assert_close(found.double(), double, rtol=1e-5, atol=0)
    found.backward()
    assert audio.grad.isfinite().all()


def test_golden_two_pairs():
    # By hand, temperature 1/2: logits [[2, 0], [0, 2]]; each cell of the diagonal is
    # -log(e^2 / (e^2 + 1)) = log(1 + e^-2), in its row and in its column.
    eye = torch.eye(2)
    diagonal = contrastive_loss(eye, eye, eye.bool(), math.log(2))
    assert diagonal.item() == pytest.approx(math.log(1 + math.exp(-2)), abs=1e-6)
    # All four cells positive, as with one clip twice: half of them cost 2 more.
    everything = contrastive_loss(eye, eye, torch.ones(2, 2, dtype=torch.bool), math.log(2))
    assert everything.item() == pytest.approx(math.log(1 + math.exp(-2)) + 1, abs=1e-6)


def test_a_constant_projection_costs_the_logarithm_of_the_batch():
    same = normalize(torch.ones(5, 3), dim=1)
    found = contrastive_loss(same, same, torch.eye(5, dtype=torch.bool), 2.0)
    assert found.item() == pytest.approx(math.log(5), abs=1e-6)


def test_gradients_reach_both_sides_and_the_scale():
    audio, text = (side.requires_grad_() for side in batch(4, 3))
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    positives = positives_from_clips(torch.tensor([0, 1, 0, 2]))
    assert torch.autograd.gradcheck(
        lambda a, t, s: contrastive_loss(a, t, positives, s), (audio, text, scale)
    )
    contrastive_loss(audio, text, positives, scale).backward()
    assert all(float(leaf.grad.abs().max()) > 1e-3 for leaf in (audio, text, scale))


def test_number_and_tensor_scales_agree():
    audio, text = batch()
    positives = torch.eye(6, dtype=torch.bool)
    number = contrastive_loss(audio, text, positives, 2.5)
    tensor = contrastive_loss(audio, text, positives, torch.tensor(2.5, dtype=torch.float64))
    assert number.item() == pytest.approx(tensor.item(), abs=1e-12)
    shaped = torch.tensor([2.5], dtype=torch.float64)
    assert contrastive_loss(audio, text, positives, shaped).shape == ()


def test_half_precision_and_autocast_are_computed_in_float32():
    audio, text = batch(dtype=torch.float32)
    positives = torch.eye(6, dtype=torch.bool)
    expected = contrastive_loss(audio, text, positives, 2.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (audio @ text.T).dtype == torch.bfloat16
        assert torch.equal(contrastive_loss(audio, text, positives, 2.0), expected)
    halved = contrastive_loss(audio.bfloat16(), text.bfloat16(), positives, 2.0)
    assert halved.dtype == torch.float32
    assert halved.item() == pytest.approx(expected.item(), abs=0.05)


def test_high_scales_stay_finite():
    audio, text = batch(dtype=torch.float32)
    found = contrastive_loss(audio, text, torch.eye(6, dtype=torch.bool), math.log(10_000))
    assert torch.isfinite(found)


def test_a_batch_without_a_positive_is_not_a_number():
    audio, text = batch()
    assert contrastive_loss(audio, text, torch.zeros(6, 6, dtype=torch.bool), 1.0).isnan()


def test_positives_are_the_cells_that_share_a_clip():
    found = positives_from_clips(torch.tensor([7, 3, 7]))
    assert found.tolist() == [[True, False, True], [False, True, False], [True, False, True]]


def test_clips_of_a_batch_must_be_an_index():
    with pytest.raises(
        RetrievalInputError, match=r"no index: got torch\.float32 of shape \(2,\), "
    ):
        positives_from_clips(torch.tensor([0.0, 1.0]))
    with pytest.raises(
        RetrievalInputError, match=r"no index: got torch\.int64 of shape \(1, 2\), "
    ):
        positives_from_clips(torch.tensor([[0, 1]]))


def test_shapes_that_make_no_batch_are_errors():
    audio, text = batch()
    eye = torch.eye(6, dtype=torch.bool)
    with pytest.raises(
        RetrievalInputError, match=r"no batch of pairs: got shapes \(6, 8\) and \(5"
    ):
        contrastive_loss(audio, text[:5], eye, 1.0)
    with pytest.raises(
        RetrievalInputError, match=r"got torch\.bool of shape \(5, 6\), expected tor"
    ):
        contrastive_loss(audio, text, eye[:5], 1.0)
    with pytest.raises(
        RetrievalInputError, match=r"got torch\.float32 of shape \(6, 6\), expected "
    ):
        contrastive_loss(audio, text, eye.float(), 1.0)
