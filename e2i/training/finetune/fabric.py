"""Devices, precision and processes, by Lightning Fabric.

Decides: inputs keep their type (a waveform in 16 bits would be another one; the spectrogram is
float32 always); a loss scaled for float16 is scaled by a scaler that is in hand, so that gradients
in between can be scaled back and its state be stored.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision
from typing_extensions import override

from e2i.device import resolve_device
from e2i.errors import ConfigError
from e2i.training.finetune.config import FinetuneConfig

# At the import, which processes of their own do too, before Lightning tells of each of them.
for _name in ("lightning.fabric", "lightning.pytorch"):  # Fabric logs by the other's name too
    logging.getLogger(_name).setLevel(logging.WARNING)


class MixedWithPlainInputs(MixedPrecision):
    """Mixed precision whose inputs are left as they are."""

    @override
    def convert_input(self, data: Any) -> Any:
        return data


def make_fabric(config: FinetuneConfig) -> Fabric:
    """Fabric for the devices and the precision asked for; not launched yet.

    Raises:
        ConfigError: no such device, or fewer than asked for.
    """
    device = resolve_device(config.device)
    devices: int | list[int] = config.devices
    if device.type == "cuda":
        there = torch.cuda.device_count()
        if config.devices > there:
            raise ConfigError(
                f"there are not so many GPUs: got devices {config.devices}, expected at most "
                f"{there}. Lower --devices."
            )
        if config.devices == 1:
            devices = [device.index or 0]
    elif device.type == "mps" and config.devices > 1:
        raise ConfigError(
            f"there is one device of this kind: got devices {config.devices}, expected 1. Leave "
            "--devices out."
        )
    plugins: list[Any] = []
    if config.freeze == "both":  # heads alone are trained, and those in float32
        pass
    elif config.precision == "bfloat16":
        plugins.append(MixedWithPlainInputs("bf16-mixed", device.type))
    elif config.precision == "float16":
        plugins.append(MixedWithPlainInputs("16-mixed", device.type))
    return Fabric(
        accelerator=device.type,
        devices=devices,
        strategy="ddp_spawn" if config.devices > 1 else "auto",
        plugins=plugins,
    )


def loss_scaler(fabric: Fabric) -> torch.amp.GradScaler | None:
    """What the loss is scaled by for float16; None in other precisions."""
    scaler: torch.amp.GradScaler | None = getattr(fabric.strategy.precision, "scaler", None)
    return scaler
