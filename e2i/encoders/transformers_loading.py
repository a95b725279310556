"""Models and tokenizers by transformers, from local files, without a word and without a surprise.

Decides: files on the disk only; no code that comes with a model; a PyTorch file is read as weights
alone, never as a pickle of objects. Weights that a model lacks are an error where they would change
an embedding: transformers would make them up at random. The global random state stays as it is.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation

from e2i.device import resolve_device
from e2i.encoders.config import EncodersConfig
from e2i.encoders.hub_files import fetch_weights
from e2i.encoders.model_files import WEIGHTS, ModelFiles
from e2i.encoders.products import TOLERANCE, PackedLinear, pack_linears, strict_float32

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Precision = Literal["float32", "bfloat16", "float16"]
_log = logging.getLogger(__name__)
_ACTIVATION = "intermediate_act_fn"
_lock = threading.RLock()


def load_model(
    files: ModelFiles,
    kind: str,
    precision: Precision,
    *,
    without: tuple[str, ...] = (),
    changes: Mapping[str, float] | None = None,
) -> nn.Module:
    """A model in evaluation mode, on the CPU.

    Args:
        files: with its weights.
        kind: class of transformers.
        precision: of its weights and arithmetic.
        without: modules whose weights may be missing, since no embedding depends on them.
        changes: to values of its configuration.

    Raises:
        EncoderUnavailableError: transformers does not take the files, or weights are missing.
    """
    import transformers  # noqa: PLC0415 - takes seconds

    with quiet_loading():
        try:
            model, report = getattr(transformers, kind).from_pretrained(
                files.path,
                dtype=getattr(torch, precision),
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                **(changes or {}),
            )
        except Exception as error:  # whatever a file that is not what it should be leads to
            raise files.unusable(
                f"transformers does not take the weights: {_line(error)}"
            ) from error
    lacking = [
        key
        for key in sorted(str(key) for key in report["missing_keys"])
        if not any(part in key.split(".") for part in without)
    ]
    lacking += sorted(str(key[0]) for key in report["mismatched_keys"])
    if lacking:
        raise files.unusable(f"the weights lack {len(lacking)}, the first {lacking[0]}")
    loaded: nn.Module = model.eval().requires_grad_(requires_grad=False)
    return loaded


def load_ready_model(
    files: ModelFiles,
    option: str,
    kind: str,
    config: EncodersConfig,
    *,
    without: tuple[str, ...] = (),
) -> tuple[Any, torch.device]:
    """A model on the device asked for, its weights fetched if need be; and that device.

    Args:
        files: of the model.
        option: the option that named it, for messages.
        kind: class of transformers.
        config: precision and device.
        without: as for `load_model`.

    Raises:
        EncoderUnavailableError: the weights cannot be had or are not taken.
        ConfigError: the device cannot be used here.
    """
    device = resolve_device(config.device)
    if files.repository:
        fetch_weights(files.repository, files.revision, option, WEIGHTS)
    return load_model(files, kind, config.precision, without=without).to(device), device


def load_tokenizer(files: ModelFiles) -> PreTrainedTokenizerBase:
    """The tokenizer of a model.

    Raises:
        EncoderUnavailableError: transformers does not take the files.
    """
    import transformers  # noqa: PLC0415

    with quiet_loading():
        try:
            tokenizer: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(
                files.path, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:
            raise files.unusable(
                f"transformers does not take the tokenizer: {_line(error)}"
            ) from error
    # Where its files are missing, transformers makes one that knows none but the special tokens.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise files.unusable("the tokenizer knows no words: its files are missing")
    return tokenizer


def pack_model(model: nn.Module, probe: Callable[[], Tensor]) -> None:
    """Give a model the fast exact products of `products`, if it then still gives the same.

    Where a layer is followed by an exact GELU, as in BERT and its like, both become one pass. Some
    models look at a layer's weights themselves, which packed layers do not show: those stay as they
    are.

    Args:
        model: on its device.
        probe: what the model makes of some input, called as it is to be run; raises what the model
            raises.
    """

    def tried() -> Tensor:
        with torch.inference_mode(), strict_float32():
            return probe()

    replaceable = (nn.Linear, GELUActivation, nn.GELU)
    before = [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, replaceable)
    ]
    expected = tried()
    if not pack_linears(model):
        return
    for parent in model.modules():
        layer, activation = getattr(parent, "dense", None), parent._modules.get(_ACTIVATION)
        if isinstance(layer, PackedLinear) and _is_exact_gelu(activation):
            setattr(parent, "dense", _LinearGelu(layer))  # noqa: B010 - any module's attribute
            setattr(parent, _ACTIVATION, nn.Identity())
    try:
        off = (tried() - expected).norm() / expected.norm()
        same = bool(off <= TOLERANCE.get(next(model.parameters()).dtype, 0.0))
    except (AttributeError, TypeError):
        same = False
    if not same:
        _log.warning("the model does not work with packed products: torch's own are used")
        for parent, name, layer in before:
            setattr(parent, name, layer)


class _LinearGelu(nn.Module):
    """A packed layer and the GELU after it."""

    def __init__(self, layer: PackedLinear) -> None:
        super().__init__()
        self._layer = layer

    def forward(self, inputs: Tensor) -> Tensor:
        return self._layer.forward_gelu(inputs)


def _is_exact_gelu(activation: nn.Module | None) -> bool:
    if isinstance(activation, nn.GELU):
        return activation.approximate == "none"
    return isinstance(activation, GELUActivation) and activation.act is nn.functional.gelu


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Loads by transformers, one at a time: nothing is said, no random state is changed."""
    from transformers.utils import logging as says  # noqa: PLC0415

    with _lock, warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        states = random.getstate(), np.random.get_state()
        verbosity, bars = says.get_verbosity(), says.is_progress_bar_enabled()
        says.set_verbosity(logging.CRITICAL)
        says.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            says.set_verbosity(verbosity)
            if bars:
                says.enable_progress_bar()  # type: ignore[no-untyped-call]


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
