"""Packed products: the same numbers as torch's own, dropped where they are not, nothing global."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional

from e2i.encoders import products
from e2i.encoders.products import PackedLinear, linear_gelu, pack_linears, strict_float32

packing = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def off(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())


def model_of(*, bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    generator = torch.Generator().manual_seed(5)
    model = nn.Sequential(
        nn.Linear(96, 200, bias=bias), nn.LayerNorm(200), nn.Sequential(nn.Linear(200, 7))
    )
    for weight in model.parameters():
        weight.data = torch.randn(weight.shape, generator=generator) / 10
    return model.to(dtype).eval()


@packing
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 1190])
def test_packed_layers_give_what_torchs_own_give(bias: bool, rows: int) -> None:
    model, inputs = model_of(bias=bias), torch.randn(2, rows, 96)
    with torch.inference_mode():
        expected = model(inputs)
        gelu = functional.gelu(model[0](inputs))
        assert pack_linears(model) == 2
        assert isinstance(model[0], PackedLinear)
        assert off(model(inputs), expected) < 1e-6
        assert off(linear_gelu(model[0], inputs), gelu) < 1e-6


def test_a_layer_that_is_not_packed_has_its_gelu_too() -> None:
    layer, inputs = model_of()[0], torch.randn(3, 96)
    assert torch.equal(linear_gelu(layer, inputs), functional.gelu(layer(inputs)))


@packing
def test_bfloat16_is_packed_within_its_own_precision() -> None:
    model, inputs = model_of(dtype=torch.bfloat16), torch.randn(9, 96).bfloat16()
    with torch.inference_mode():
        expected = model(inputs)
        assert pack_linears(model) == 2
        assert off(model(inputs), expected) < 1e-2


@packing
@pytest.mark.parametrize("fault", ["short", "nan", "gelu", "raises"])
def test_a_product_that_is_off_is_dropped(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a library would be that falls to bf16 by itself."""
    right = products._product

    def wrong(inputs, weight, bias, activation):
        if fault == "raises":
            raise RuntimeError("could not create a primitive")
        if fault == "short":
            return right(inputs.bfloat16().float(), weight, bias, activation)
        if fault == "gelu":
            product = right(inputs, weight, bias, "none")
            return functional.gelu(product, approximate="tanh") if activation != "none" else product
        return right(inputs, weight, bias, activation) * torch.nan

    monkeypatch.setattr(products, "_product", wrong)
    model, inputs = model_of(), torch.randn(4, 96)
    with torch.inference_mode():
        expected = model(inputs)
        with caplog.at_level(logging.WARNING):
            assert pack_linears(model) == 0
        assert torch.equal(model(inputs), expected)
    assert "stay with torch's own" in caplog.text


@packing
def test_packing_leaves_the_random_state_and_the_settings() -> None:
    model = model_of()
    state, precision = torch.get_rng_state(), torch.get_float32_matmul_precision()
    assert pack_linears(model) == 2
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_float32_matmul_precision() == precision


@packing
def test_a_packed_layer_refuses_to_train() -> None:
    model = model_of()
    pack_linears(model)
    with pytest.raises(RuntimeError, match="packed layers have no gradient"):
        model(torch.randn(2, 96, requires_grad=True))


@pytest.fixture
def shorter() -> Iterator[None]:
    """A process that has set shorter products."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("shorter")
def test_float32_is_float32_while_entered_and_settings_come_back() -> None:
    setting = torch.backends.mkldnn.matmul
    inside, left = threading.Event(), threading.Event()

    def other() -> None:
        with strict_float32():
            inside.set()
            left.wait(20)

    thread = threading.Thread(target=other)
    with strict_float32():
        thread.start()
        assert inside.wait(20)
        assert setting.fp32_precision == "ieee"
    assert setting.fp32_precision == "ieee", "another thread is still in it"
    left.set()
    thread.join()
    assert setting.fp32_precision == "bf16"
    assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.usefixtures("shorter")
def test_settings_come_back_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), strict_float32():
        raise ZeroDivisionError
    assert torch.get_float32_matmul_precision() == "medium"
