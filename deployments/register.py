"""Bring work pools, deployments and automations of e2i onto a Prefect server: `make deploy`.

Asks nothing, and may be called again: what is there is brought up to date. At the end it looks at
what the server holds, and fails if that is not what was deployed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import get_current_settings

from deployments.automations import REGISTRY
from deployments.automations import register as register_automation
from deployments.pools import PoolType, ensure, pools
from deployments.registered import CHECKOUT, Declared, declared_in, faults_of
from e2i.errors import E2IError
from flows.preflight import ITS_SERVER, check_server

PREFECT = str(Path(sys.executable).with_name("prefect"))
DEPLOYMENTS = CHECKOUT / "prefect.yaml"
IMAGE_CHECKOUT = "/opt/e2i"
"""Where deployments/Dockerfile puts the checkout."""


def for_containers(content: dict[str, Any]) -> dict[str, Any]:
    """The deployments of prefect.yaml, for an image that has the checkout at a place of its own."""
    pull = [{"prefect.deployments.steps.set_working_directory": {"directory": IMAGE_CHECKOUT}}]
    return {**content, "pull": pull}


def check_stores(pool_type: PoolType, environ: Mapping[str, str]) -> None:
    """A store has to be the same wherever a worker runs; containers share no folder with others.

    Raises:
        SystemExit: a store is none that workers reach.
    """
    local = pool_type == "process"
    rule = "an absolute path or a URL" if local else "a URL such as s3://bucket/e2i"
    for variable, option in (
        ("E2I_STORE_URL", "STORE_URL"),
        ("E2I_DEMO_STORE_URL", "DEMO_STORE_URL"),
    ):
        url = environ.get(variable, "")
        if "://" not in url and not (local and Path(url).is_absolute()):
            raise SystemExit(
                f"workers would not find the store: got {variable}={url!r}, expected {rule}. "
                f"Set {option}."
            )


def require_server(api_url: str | None) -> None:
    """Ask the server first: Prefect's client would try for a minute, and end with a traceback.

    Raises:
        SystemExit: none is set up, or it does not answer.
    """
    if not api_url:
        raise SystemExit(
            "there is no server to deploy to: got no PREFECT_API_URL, expected that of a Prefect "
            "server. Start one with `make server`."
        )
    try:
        check_server(api_url, ITS_SERVER)
    except E2IError as error:
        raise SystemExit(str(error)) from error


def _deploy(pool_type: PoolType) -> list[Declared]:
    """Register the deployments, without Prefect's hints for beginners; what they are.

    Raises:
        SystemExit: Prefect refused.
    """
    declared = declared_in(DEPLOYMENTS)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as said:
        path = DEPLOYMENTS
        if pool_type != "process":
            content = yaml.safe_load(DEPLOYMENTS.read_text(encoding="utf-8"))
            path = Path(folder) / "prefect.yaml"
            path.write_text(yaml.safe_dump(for_containers(content)), encoding="utf-8")
        deploying = subprocess.Popen(
            [PREFECT, "--no-prompt", "deploy", "--all", "--prefect-file", str(path)],
            cwd=CHECKOUT,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        for one in declared:  # loading them takes as long as Prefect does, and is needed next
            one.flow()
        if deploying.wait():
            said.seek(0)
            raise SystemExit(f"`prefect deploy` failed:\n{said.read()}")
    return declared


def register(client: SyncPrefectClient, pool_type: PoolType, gpu_slots: int) -> None:
    """Bring everything onto the server.

    Raises:
        SystemExit: something is not as it should be.
    """
    check_stores(pool_type, os.environ)
    for pool in pools(pool_type, gpu_slots):
        sys.stdout.write(ensure(client, pool) + "\n")
    declared = _deploy(pool_type)
    faults = faults_of(client, declared)
    if faults:
        raise SystemExit("\n".join(["What was deployed is not whole:", *faults]))
    for one in declared:
        sys.stdout.write(f"Deployment {one.flow().name}/{one.name} is in {one.pool}\n")
    for build in REGISTRY:
        sys.stdout.write(register_automation(client, build(client)) + "\n")


def main() -> None:
    """Parse the command line and act."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool-type", choices=get_args(PoolType), default="process")
    parser.add_argument("--gpu-slots", type=int, default=1, help="runs at a time on e2i-gpu")
    arguments = parser.parse_args()
    if arguments.gpu_slots < 1:
        parser.error(f"--gpu-slots: got {arguments.gpu_slots}, expected 1 or more")
    require_server(get_current_settings().api.url)
    with get_client(sync_client=True) as client:
        register(client, arguments.pool_type, arguments.gpu_slots)


if __name__ == "__main__":
    main()
