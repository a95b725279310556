"""Exact float32 matrix products, by the quickest library that is exact here.

Conventions: all of this is for inference, and for one model's own calls: no setting of the process
is changed by packing. "Off" is ‖a − b‖ / ‖b‖ against torch's own product.

- `pack_linears` replaces the linear layers of a model on the CPU by ones whose weights lie packed
  for oneDNN. torch's own float32 products there are MKL's, which takes a slow path on other than
  Intel's processors, and either library would otherwise repack the weights at each call. Each layer
  is compared with torch's own product when it is packed, and stays as it was where it is off by
  more than `TOLERANCE`: a library may fall to shorter numbers by itself (AMX, for one).
- `strict_float32` keeps float32 products float32 while it is entered, whatever the process has set
  (TF32 on a GPU, bf16 on a CPU), and puts the settings back.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_log = logging.getLogger(__name__)
_backends: Any = torch.backends  # half of what is in it has no types

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Most that a packed layer may be off, by the type of its weights; others are not packed."""

_CHECKED_ROWS = 64
_PACKED_FOR_ROWS = 1024
_SHORTER = frozenset({"tf32", "bf16"})


class PackedLinear(nn.Module):
    """A linear layer whose weights lie packed for oneDNN; inference only, on the CPU.

    Args:
        linear: the layer; its weights are copied, so it can be dropped.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().contiguous()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _PACKED_FOR_ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach().clone()

    def forward(self, inputs: Tensor) -> Tensor:
        """What the layer gives: (..., in_features) to (..., out_features)."""
        return _product(inputs, self._weight, self._bias, "none")

    def forward_gelu(self, inputs: Tensor) -> Tensor:
        """What the layer and an exact (erf) GELU after it give, in one pass."""
        return _product(inputs, self._weight, self._bias, "gelu")


def pack_linears(model: nn.Module) -> int:
    """Replace, in place, the linear layers of a model that can be packed and are then exact.

    Nothing is replaced on another device than the CPU, where oneDNN is missing, or in subclasses
    of `nn.Linear`. A layer that is off stays as it was, with a warning in the log.

    Args:
        model: on its device, in its type, for inference only from now on.

    Returns:
        How many layers were replaced.
    """
    replaced = 0
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is not nn.Linear or not _can_be_packed(layer):
                continue
            packed = _packed(layer)
            if packed is None:
                _log.warning(
                    "packed products are off by more than %g on this machine: layers of %d x %d "
                    "stay with torch's own, which may be slower",
                    *(TOLERANCE[layer.weight.dtype], layer.out_features, layer.in_features),
                )
                continue
            setattr(parent, name, packed)
            replaced += 1
    return replaced


def linear_gelu(layer: nn.Module, inputs: Tensor) -> Tensor:
    """A linear layer, packed or not, and an exact (erf) GELU after it."""
    if isinstance(layer, PackedLinear):
        return layer.forward_gelu(inputs)
    activated: Tensor = functional.gelu(layer(inputs))
    return activated


def _product(inputs: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """One product by oneDNN. A seam: what stands here is what the check at packing compares."""
    if torch.is_grad_enabled() and inputs.requires_grad:
        raise RuntimeError(
            "packed layers have no gradient: got inputs that require one, expected inference. "
            "Train the model before it is packed."
        )
    product: Tensor = torch.ops.mkldnn._linear_pointwise(
        inputs, weight, bias, activation, [], "none"
    )
    return product


def _can_be_packed(layer: nn.Linear) -> bool:
    return (
        layer.weight.device.type == "cpu"
        and layer.weight.dtype in TOLERANCE
        and _backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def _packed(layer: nn.Linear) -> PackedLinear | None:
    """The layer packed; None if what it then gives is off. The global random state is not used."""
    generator = torch.Generator().manual_seed(0)
    dtype = layer.weight.dtype
    inputs = torch.randn(_CHECKED_ROWS, layer.in_features, generator=generator).to(dtype)
    with torch.inference_mode(), strict_float32():
        expected = layer(inputs)
        try:
            packed = PackedLinear(layer)
            pairs = (
                (packed(inputs), expected),
                (packed.forward_gelu(inputs), functional.gelu(expected)),
            )
        except RuntimeError as error:
            _log.warning("oneDNN does not take a layer: %s", error)
            return None
        for got, wanted in pairs:
            off = (got.float() - wanted.float()).norm() / wanted.float().norm()
            # Written so that a NaN counts as off.
            if not bool(off <= TOLERANCE[dtype]):
                return None
    return packed


_strict_guard = threading.Lock()
_strict_depth = 0
_strict_saved: list[tuple[Any, str]] = []


@contextmanager
def strict_float32() -> Iterator[None]:
    """Float32 products are computed in float32 until the last who entered has left.

    Where the process has set nothing shorter, nothing is touched. Any number of threads may be in
    it at once; the settings are put back by the last one.
    """
    global _strict_depth  # noqa: PLW0603 - the settings are the process's
    with _strict_guard:
        if _strict_depth == 0:
            for setting in (
                _backends.mkldnn.matmul,
                _backends.cuda.matmul,
                _backends.cudnn.conv,
            ):
                if setting.fp32_precision in _SHORTER:
                    _strict_saved.append((setting, setting.fp32_precision))
                    setting.fp32_precision = "ieee"
        _strict_depth += 1
    try:
        yield
    finally:
        with _strict_guard:
            _strict_depth -= 1
            if _strict_depth == 0:
                while _strict_saved:
                    setting, precision = _strict_saved.pop()
                    setting.fp32_precision = precision
