"""What can be known to be wrong before a server is started."""

from __future__ import annotations

from e2i.configuration import Configuration
from e2i.encoders.config import EncodersConfig
from e2i.encoders.load import audio_settings, text_settings
from flows.doctor_parameters import DoctorParameters


def check_call(parameters: Configuration) -> None:
    """Look at a command's parameters before anything is started.

    Raises:
        ConfigError: what was asked for cannot be had.
    """
    if isinstance(parameters, DoctorParameters):  # which is there to say what cannot be had
        return
    for name in type(parameters).model_fields:
        value = getattr(parameters, name)
        if isinstance(value, EncodersConfig):
            audio_settings(value)
            text_settings(value)
