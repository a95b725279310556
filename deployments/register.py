"""Bring work pools, deployments and automations of e2i onto a Prefect server: `make deploy`.

Asks nothing, and may be called again: what is there is brought up to date. At the end it looks at
what the server holds, and fails if that is not what was deployed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import get_args

from prefect.client.orchestration import SyncPrefectClient, get_client

from deployments.automations import REGISTRY
from deployments.automations import register as register_automation
from deployments.pools import PoolType, ensure, pools
from deployments.registered import CHECKOUT, declared_in, faults_of

PREFECT = str(Path(sys.executable).with_name("prefect"))
LOCAL_FILE = CHECKOUT / "prefect.yaml"
CONTAINER_FILE = CHECKOUT / "deployments" / "containers.yaml"


def _deploy(path: Path) -> None:
    """Register the deployments of a file, without Prefect's hints for beginners.

    Raises:
        SystemExit: Prefect refused.
    """
    done = subprocess.run(
        [PREFECT, "--no-prompt", "deploy", "--all", "--prefect-file", str(path)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"`prefect deploy` failed:\n{done.stdout}{done.stderr}")


def register(client: SyncPrefectClient, pool_type: PoolType, gpu_slots: int) -> None:
    """Bring everything onto the server.

    Raises:
        SystemExit: something is not as it should be.
    """
    for pool in pools(pool_type, gpu_slots):
        sys.stdout.write(ensure(client, pool) + "\n")
    path = LOCAL_FILE if pool_type == "process" else CONTAINER_FILE
    _deploy(path)
    declared = declared_in(path)
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
    with get_client(sync_client=True) as client:
        register(client, arguments.pool_type, arguments.gpu_slots)


if __name__ == "__main__":
    main()
