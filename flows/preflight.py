"""What can be known to be wrong before Prefect is imported: the call, and the server set up."""

from __future__ import annotations

import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from e2i.configuration import Configuration
from e2i.encoders.config import EncodersConfig
from e2i.encoders.load import audio_settings, missing_audio_weights, text_settings
from e2i.errors import ConfigError, RunFailedError
from e2i.hub.source import find_cache
from e2i.sweep.sweep_file import read_sweep
from e2i.training.finetune.config import FinetuneConfig
from flows.doctor_parameters import DoctorParameters
from flows.parameters import (
    CacheRepairParameters,
    DownloadEmbeddingsParameters,
    ReevaluateParameters,
    TrainProjectionParameters,
)
from flows.prefect_setup import read_setup
from flows.runner_parameters import RunnerConfig, check_runner

SERVER_LIMIT_S = 3.0
SERVER_ATTEMPTS = 3
SERVER_PAUSE_S = 1.0


def check_call(parameters: Configuration) -> None:
    """Look at a command's parameters before anything is started.

    Raises:
        ConfigError: what was asked for cannot be had.
        CacheError: what is to be downloaded is not there, or not whole.
        StorageError: where it is kept does not answer, or refuses.
    """
    runner = getattr(parameters, "runner", None)
    if isinstance(runner, RunnerConfig):
        check_runner(runner, _texts(parameters))
        _check_reachable(runner)
    # The doctor is there to say what cannot be had; these others take the cache's own encoders.
    if isinstance(parameters, DoctorParameters | CacheRepairParameters | ReevaluateParameters):
        return
    if isinstance(parameters, DownloadEmbeddingsParameters):
        find_cache(parameters.repo_id, parameters.revision, parameters.subset, parameters.cache_dir)
    if isinstance(parameters, TrainProjectionParameters) and parameters.sweep:
        read_sweep(parameters.sweep)
    for name in type(parameters).model_fields:
        value = getattr(parameters, name)
        if isinstance(value, FinetuneConfig):
            value = value.encoders(value.device)
        if isinstance(value, EncodersConfig):
            text_settings(value)
            missing = missing_audio_weights(value)
            if missing is not None:
                sys.stderr.write(f"Fetching {missing.url} to {missing.path} (once)\n")
            audio_settings(value)


def _check_reachable(runner: RunnerConfig) -> None:
    """Refuse workers on other machines without a Prefect server that they reach.

    Raises:
        ConfigError: none is set up, and a private one listens on this machine alone.
    """
    address = runner.task_runner_address
    if not address or address == "auto" or read_setup(os.environ, Path()).api_url:
        return
    host = urlsplit(address if "://" in address else f"//{address}").hostname
    if host not in {"127.0.0.1", "localhost", "::1"}:
        raise ConfigError(
            f"the workers cannot report to a server of this machine alone: got "
            f"--task-runner-address {address} and no Prefect server set up, expected one that they "
            "reach. Start one, and set PREFECT_API_URL here and on the workers."
        )


def _texts(parameters: Configuration) -> Iterator[str]:
    """All texts among the parameters, whatever they mean."""
    for name in type(parameters).model_fields:
        value = getattr(parameters, name)
        if isinstance(value, Configuration):
            yield from _texts(value)
        elif isinstance(value, str):
            yield value


OWN_SERVER = (
    "Start it (`make server`), or take PREFECT_API_URL out of the environment and the profile: the "
    "command then starts one of its own."
)

ITS_SERVER = "Start it with `make server`, or correct PREFECT_API_URL."
"""The next step of what needs that very server."""


def check_server(api_url: str, step: str = OWN_SERVER) -> None:
    """Ask the Prefect server that is set up, a few times, whether it is there.

    Args:
        api_url: its address.
        step: what to do where it does not answer.

    Raises:
        ConfigError: the address is none of the web.
        RunFailedError: it does not answer.
    """
    if not api_url.startswith(("http://", "https://")):
        raise ConfigError(
            "the address of the Prefect server is no URL of the web: got "
            f"{without_login(api_url)!r}, expected one such as http://127.0.0.1:4200/api. Correct "
            "PREFECT_API_URL in the environment or the profile."
        )
    for attempt in range(SERVER_ATTEMPTS):
        if attempt:
            time.sleep(SERVER_PAUSE_S)
        if server_answers(api_url):
            return
    raise RunFailedError(
        f"the Prefect server that is set up does not answer: got nothing from "
        f"{without_login(api_url)}, expected its API. {step}"
    )


def server_answers(api_url: str) -> bool:
    """Whether a Prefect server is healthy; one that asks who is there is.

    So is one whose certificate is not known here: Prefect has settings of its own for these.
    """
    if not api_url.startswith(("http://", "https://")):
        return False
    try:
        with urllib.request.urlopen(  # noqa: S310 - checked above
            f"{api_url.rstrip('/')}/health", timeout=SERVER_LIMIT_S
        ):
            return True
    except urllib.error.HTTPError as answer:
        answer.close()
        return answer.code in {401, 403}
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, ValueError):
        return False


def without_login(url: str) -> str:
    """A URL that can be shown."""
    return re.sub(r"://[^/@]*@", "://", url)
