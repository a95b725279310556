"""Credentials that a run takes from Prefect blocks, where its environment has none.

A block holds environment variables of one service. It is a block of Prefect's own type Secret,
which a server shows to nobody; `e2i setup-blocks` makes it. What the environment of the process
says goes first, and where the login of a service is in there, none is taken from its block: the two
are never mixed.

Conventions: names of variables are told, values never.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefect.blocks.system import Secret
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound

from e2i.errors import ConfigError


@dataclass(frozen=True)
class Service:
    """Something that wants a login.

    Attributes:
        name: for people.
        block: name of its Secret block.
        login: variables any of which is a login, or leads to one.
        settings: variables that say where and how; they may differ from the block's.
    """

    name: str
    block: str
    login: tuple[str, ...]
    settings: tuple[str, ...]

    @property
    def variables(self) -> tuple[str, ...]:
        """All that its block may hold."""
        return self.login + self.settings


SERVICES = {
    service.name: service
    for service in (
        Service(
            "storage",
            "e2i-storage",
            ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"),
            ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_REGION"),
        ),
        Service("hub", "e2i-hub", ("HF_TOKEN",), ("HF_ENDPOINT",)),
        Service(
            "wandb",
            "e2i-wandb",
            ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"),
            ("WANDB_BASE_URL", "WANDB_ENTITY"),
        ),
    )
}


def variables_of(service: Service, environ: Mapping[str, str]) -> dict[str, str]:
    """What the environment says about a service."""
    return {name: environ[name] for name in service.variables if environ.get(name)}


def missing_from(
    service: Service, held: Mapping[str, str], environ: Mapping[str, str]
) -> dict[str, str]:
    """What a process takes from a block: nothing of a login that it has, no setting that it has."""
    has_login = any(environ.get(name) for name in service.login)
    names = service.settings if has_login else service.variables
    return {name: held[name] for name in names if held.get(name) and not environ.get(name)}


def take_credentials(client: SyncPrefectClient) -> tuple[str, ...]:
    """Set the variables that blocks hold and this process lacks.

    Returns:
        Their names.

    Raises:
        ConfigError: a block holds something else than variables of its service.
    """
    taken: dict[str, str] = {}
    for service in SERVICES.values():
        try:
            document = client.read_block_document_by_name(service.block, "secret")
        except ObjectNotFound:
            continue
        held = _checked(service, Secret._from_block_document(document).get())
        taken |= missing_from(service, held, os.environ)
    os.environ.update(taken)
    return tuple(taken)


def store_block(service: Service, variables: Mapping[str, str]) -> None:
    """Make a service's block, or replace what it holds.

    It holds one text: of a block's value that is an object, Prefect would show every part.
    """
    block: Secret[Any] = Secret(value=json.dumps(dict(variables)))
    block.save(service.block, overwrite=True)


def _checked(service: Service, held: object) -> dict[str, str]:
    """What a block holds, if that is variables of its service; it may not set others."""
    wrong: list[str] = []
    if isinstance(held, dict):
        wrong = sorted(
            str(name)
            for name, value in held.items()
            if name not in service.variables or not isinstance(value, str)
        )
        if not wrong:
            return held
    raise ConfigError(
        f"the Prefect block '{service.block}' does not hold what it should: got "
        f"{', '.join(wrong) or 'no variables'}, expected values of {', '.join(service.variables)}. "
        "Make it again with `e2i setup-blocks`."
    )
