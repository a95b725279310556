"""A vision head on a timm model.

Decides: the model stands in place of the CNN, without its classifier, an MLP behind it. Its weights
are random, or those of a file that the user names; nothing is ever downloaded. timm draws random
weights from the global state, which is put back as it was. Pixels are scaled to [-1, 1] as for the
CNN, not by a published model's own mean and deviation.

Shape letters: B batch, P projection, S image side, F features.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from e2i.errors import CheckpointError, CheckpointNotFoundError, ConfigError, StorageNotFoundError
from e2i.heads.cnn import ImageHead, mlp_behind
from e2i.heads.config import HeadsConfig
from e2i.images.fold import NUM_CHANNELS
from e2i.storage import Folder
from e2i.store_layout import public_url, split_url

_NESTED_UNDER = ("state_dict", "model")


class BackboneHead(ImageHead):
    """Pseudo-image (B, 3, S, S) to projection (B, P), not yet normalized."""

    def __init__(self, config: HeadsConfig, in_dim: int, device: torch.device) -> None:
        """Make a head whose values `reset` or a state dict gives.

        Raises:
            ConfigError: timm has no such model, or it takes no images of this size.
        """
        super().__init__(config, in_dim, device)
        self._name = config.vision_backbone
        self.backbone = _model(self._name, seed=0, device=device)
        self.mlp = mlp_behind(config, self._num_features(device), device)

    def reset(self, generator: torch.Generator) -> BackboneHead:
        """Draw fresh weights from `generator`, on the CPU; returns the head itself."""
        seed = int(torch.randint(2**31, (), generator=generator))
        self.backbone = _model(self._name, seed, torch.device("cpu"))
        super().reset(generator)
        return self

    def load_backbone(self, weights: Mapping[str, Tensor], where: str) -> None:
        """Take weights for the backbone; those of a classifier are left.

        Raises:
            CheckpointError: one is missing, or has another shape.
        """
        wanted = self.backbone.state_dict()
        for name, tensor in wanted.items():
            got = weights.get(name)
            if got is None and name.endswith("num_batches_tracked"):
                continue
            if got is None or got.shape != tensor.shape:
                shape = "none" if got is None else tuple(got.shape)
                message = (
                    f"the weights are not those of {self._name}: got {name} of shape {shape} in "
                    f"{where}, expected {tuple(tensor.shape)}. Give its own weights, or another "
                    "--vision-backbone."
                )
                raise CheckpointError(message)
        self.backbone.load_state_dict({**wanted, **{k: weights[k] for k in wanted if k in weights}})

    def features(self, pixels: Tensor, *, training: bool) -> Tensor:
        """(B, 3, S, S) to (B, F)."""
        self.backbone.train(training)
        features: Tensor = self.backbone(pixels)
        return features

    @torch.no_grad()
    def _num_features(self, device: torch.device) -> int:
        try:
            pixels = torch.zeros((1, NUM_CHANNELS, self.side, self.side), device=device)
            features = self.features(pixels, training=False)
        except (AssertionError, RuntimeError, ValueError) as error:
            message = (
                f"the backbone takes no images of this size: got {self.side} px for {self._name} "
                f"({error}), expected what it was made for. Set --vision-image-size."
            )
            raise ConfigError(message) from error
        return features.shape[-1]


def _model(name: str, seed: int, device: torch.device) -> nn.Module:
    """A timm model with random weights, without its classifier."""
    import timm  # noqa: PLC0415 - takes seconds, and few need it

    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=1)
        message = (
            f"there is no such backbone: got {name!r}, expected the name of a timm model. "
            + (f"Did you mean {close[0]!r}?" if close else "Take resnet18.")
        )
        raise ConfigError(message)
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        model: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=0, in_chans=NUM_CHANNELS
        )
    return model


@dataclass(frozen=True, slots=True)
class BackboneWeights:
    """Weights for a backbone, from a file.

    Attributes:
        tensors: by name.
        sha256: of the file.
        source: where it lies, without credentials.
    """

    tensors: Mapping[str, Tensor]
    sha256: str
    source: str


def read_backbone_weights(url: str) -> BackboneWeights:
    """Read weights; nothing in the file is executed.

    Args:
        url: file or URL: safetensors, or a PyTorch file of tensors alone.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointError: it holds no tensors by name.
        StorageError: the store refused.
    """
    where = public_url(url)
    folder, name = split_url(url)
    try:
        data = Folder(folder).read(name)
    except StorageNotFoundError as error:
        message = (
            f"the backbone's weights are not there: got {where}, expected a file of weights. "
            "Correct --vision-backbone-weights."
        )
        raise CheckpointNotFoundError(message) from error
    try:
        if name.endswith(".safetensors"):
            loaded: object = load_tensors(data)
        else:
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        message = (
            f"the backbone's weights cannot be read: got {len(data)} bytes in {where}, expected "
            "safetensors or a PyTorch file of tensors alone. Save them as safetensors."
        )
        raise CheckpointError(message) from error
    for key in _NESTED_UNDER:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    tensors = (
        {name: tensor for name, tensor in loaded.items() if isinstance(tensor, Tensor)}
        if isinstance(loaded, dict)
        else {}
    )
    return BackboneWeights(tensors, hashlib.sha256(data).hexdigest(), where)
