"""Flow parameters hold no credentials: Prefect records them, and shows them to all its users."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from pydantic import BaseModel

from e2i.errors import ConfigError

_LOGIN = re.compile(r"(?P<scheme>[A-Za-z][\w.+-]*)://[^/@]*:.*@")
"""A URL whose host comes behind a name and a password, which may hold a slash by mistake."""
_HOST_ONLY = re.compile(r"[A-Za-z][\w.+-]*://([^/@:]*(:\d*)?|arn:[^/@]*)(/|$)")
_TOKEN = re.compile(r"(?P<scheme>https?)://([^/@]+@|[^?#]*\?.*(sig|signature|token|key)=)", re.I)
"""A web address with a token before its host, or with one, or a signature, in its query."""
_ENCODER = "checkpoint:"
"""Stands before the location of an encoder's checkpoint."""


def refuse_credentials(parameters: Mapping[str, object]) -> None:
    """Look through the parameters of a flow, also inside of those that are objects.

    Raises:
        ConfigError: one is a URL with a name and a password, a key and a secret, a token or a
            signature in it.
    """
    for name, text in _texts("", parameters):
        location = text.removeprefix(_ENCODER)
        found = None if _HOST_ONLY.match(location) else _LOGIN.match(location)
        found = found or _TOKEN.match(location)
        if found is None:
            continue
        scheme = found["scheme"].lower()
        step = (
            "Take them out, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
            if scheme in {"s3", "s3a"}
            else "Give a location that needs none."
        )
        raise ConfigError(
            f"Prefect records the parameters of a run: got credentials in the {scheme}:// URL of "
            f"{name} (not shown), expected a URL without. {step}"
        )


def _texts(name: str, value: object) -> Iterator[tuple[str, str]]:
    """All texts among parameters, with their names."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, BaseModel):
        yield from _texts(
            name, {field: getattr(value, field) for field in type(value).model_fields}
        )
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(f"{name}.{key}" if name else str(key), inner)
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from _texts(name, inner)
