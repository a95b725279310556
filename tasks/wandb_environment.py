"""What the environment says about W&B, without importing Prefect or wandb."""

from __future__ import annotations

import netrc
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from e2i.tracking.wandb_run import WandbAccess

_WANDB_HOSTS = frozenset({"api.wandb.ai", "api.forge.coreweave.com"})
"""Where wandb goes unless WANDB_BASE_URL says otherwise; the second since its version 0.31."""


def wandb_access(environ: Mapping[str, str], home: Path) -> WandbAccess:
    """The mode that the environment sets for W&B, and whether there is a key; never the key."""
    return WandbAccess(
        mode=environ.get("WANDB_MODE", ""),
        has_key=bool(
            environ.get("WANDB_API_KEY")
            or environ.get("WANDB_IDENTITY_TOKEN_FILE")
            or _in_netrc(environ, home)
        ),
    )


def _in_netrc(environ: Mapping[str, str], home: Path) -> bool:
    base_url = environ.get("WANDB_BASE_URL", "")
    hosts = {urlsplit(base_url).hostname or ""} if base_url else _WANDB_HOSTS
    given = environ.get("NETRC")
    for path in [Path(given)] if given else [home / ".netrc", home / "_netrc"]:
        try:
            if hosts & set(netrc.netrc(path).hosts):
                return True
        except (OSError, ValueError, netrc.NetrcParseError):
            continue
    return False
