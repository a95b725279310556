"""Which device a name means."""

from __future__ import annotations

import torch

from e2i.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """The torch device of a name.

    Args:
        name: `auto` (CUDA, else MPS, else the CPU), or anything that torch takes.

    Raises:
        ConfigError: no such device, here or at all.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        message = (
            f"the device cannot be used here: got {name!r}, expected auto, cpu, cuda, cuda:<n> or "
            "mps. Use --device auto."
        )
        raise ConfigError(message) from error
    return device
