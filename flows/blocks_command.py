"""The quick command `e2i setup-blocks`: credentials of this environment, into Prefect blocks.

Conventions: values come from the environment alone, so that none stands on a command line; what is
said names the variables.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from e2i.errors import ConfigError
from flows.blocks_parameters import SetupBlocksParameters
from flows.prefect_setup import read_setup
from flows.preflight import ITS_SERVER, check_server, without_login
from flows.summary import RunSummary


def setup_blocks(parameters: SetupBlocksParameters) -> RunSummary:
    """Make the blocks that runs take their credentials from, or replace what they hold.

    Raises:
        ConfigError: no server is set up, or the environment holds nothing to store.
        RunFailedError: the server does not answer.
    """
    started = time.monotonic()
    api_url = read_setup(os.environ, Path.cwd()).api_url
    if not api_url:
        raise ConfigError(
            "no Prefect server is set up: got no PREFECT_API_URL in environment and profile, "
            "expected one that keeps the blocks. Start one with `make server`."
        )
    check_server(api_url, ITS_SERVER)
    from tasks.credentials import SERVICES, store_block, variables_of

    chosen = [SERVICES[name] for name in parameters.service] or list(SERVICES.values())
    notes = []
    for service in chosen:
        found = variables_of(service, os.environ)
        if set(found) & set(service.login):
            store_block(service, found)
            notes.append(f"Block {service.block} holds {', '.join(found)}.")
        elif parameters.service:
            raise ConfigError(
                f"there is no login for {service.name}: got none of "
                f"{', '.join(service.login)} in the environment, expected one. Set it and call "
                "again."
            )
    if not notes:
        logins = ", ".join(name for service in chosen for name in service.login)
        raise ConfigError(
            f"there is nothing to store: got none of {logins} in the environment, expected at "
            "least one. Set it and call again."
        )
    return RunSummary(
        command="setup-blocks",
        locations={"server": without_login(api_url)},
        counts={"blocks": len(notes)},
        notes=tuple(notes),
        seconds=time.monotonic() - started,
    )
