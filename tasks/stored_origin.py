"""What a cache has on record of how it was made, for a run that goes on with it."""

from __future__ import annotations

from pydantic import ValidationError

from e2i.cache.header import CacheHeader
from e2i.cache.layout import SIDES
from e2i.encoders.config import EncodersConfig
from e2i.encoders.stored import as_stored
from e2i.errors import ConfigError


def stored_encoders(encoders: EncodersConfig, header: CacheHeader) -> EncodersConfig:
    """The encoders given, with what was left at its default as the cache was made with.

    Raises:
        ConfigError: this version does not have them.
    """
    try:
        return as_stored(encoders, header.audio.settings, header.text.settings)
    except ValidationError as error:
        audio, text = (header.side(side).settings.get("encoder") for side in SIDES)
        raise ConfigError(
            f"the cache was made with encoders that this version has not: got {audio!r}, {text!r}, "
            "expected known ones. Use the version of e2i that made it."
        ) from error
