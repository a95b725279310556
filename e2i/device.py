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


def resolve_devices(names: str) -> tuple[torch.device, ...]:
    """The torch devices of one name or several, in the order given.

    Args:
        names: separated by commas, where one may stand twice; `auto` is every CUDA device that
            this process sees, else what `resolve_device` says.

    Raises:
        ConfigError: as `resolve_device`.
    """
    if names == "auto" and torch.cuda.is_available():
        return tuple(torch.device("cuda", n) for n in range(torch.cuda.device_count()))
    return tuple(resolve_device(name) for name in names.split(","))
