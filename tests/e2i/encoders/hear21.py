"""hear21passt's own code as an oracle, without its prints and its import of all of timm."""

from __future__ import annotations

import contextlib
import io
import sys
import types
import warnings
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from e2i.encoders.passt_architectures import Architecture


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def hear21passt() -> types.SimpleNamespace:
    """Its modules. Of timm it uses one function, which downloads; none is downloaded here."""
    with pytest.MonkeyPatch.context() as patch, quiet():
        if "hear21passt.models.passt" not in sys.modules and "timm" not in sys.modules:
            hub = types.ModuleType("timm.models._hub")
            hub.download_cached_file = None  # type: ignore[attr-defined]
            patch.setitem(sys.modules, "timm", types.ModuleType("timm"))
            patch.setitem(sys.modules, "timm.models", types.ModuleType("timm.models"))
            patch.setitem(sys.modules, "timm.models._hub", hub)
        from hear21passt import wrapper
        from hear21passt.models import passt, preprocess
    return types.SimpleNamespace(passt=passt, preprocess=preprocess, wrapper=wrapper)


def wrapped(architecture: Architecture, net: torch.nn.Module) -> torch.nn.Module:
    """A network in hear21passt's wrapper, as its loader for this architecture makes it."""
    modules = hear21passt()
    with quiet():
        mel = modules.preprocess.AugmentMelSTFT(
            n_mels=128, sr=32000, win_length=800, hopsize=architecture.mel_hop, n_fft=1024,
            freqm=48, timem=192, htk=False, fmin=0.0, fmax=None, norm=1, fmin_aug_range=10,
            fmax_aug_range=2000,
        )  # fmt: skip
        wrapper = modules.wrapper.PasstBasicWrapper(
            mel=mel,
            net=net,
            mode="embed_only",
            max_model_window=int(architecture.window_s * 1000),
            scene_hop=int(architecture.hop_s * 1000),
        )
    return wrapper.eval()


def shallow(architecture: Architecture, weights: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """Its transformer, of any depth, in its wrapper."""
    net = hear21passt().passt.PaSST(
        img_size=(128, architecture.frames),
        stride=architecture.stride,
        depth=architecture.depth,
        distilled=True,
    )
    net.load_state_dict(weights)
    return wrapped(architecture, net)


def scene_embedding(model: torch.nn.Module, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """What it gives for one clip alone."""
    with quiet(), torch.no_grad():
        return model.get_scene_embeddings(torch.from_numpy(waveform)[None])[0].numpy()
