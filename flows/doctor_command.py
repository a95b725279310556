"""The quick command `e2i doctor`: gathers what the environment knows, and shows the checks.

Conventions: no Prefect is imported. Checks run side by side; one that does not answer in time is
a problem, and what it still does ends with the process.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from e2i import doctor
from e2i.clips import CaptionedClips
from e2i.datasets.config import MetadataConfig
from e2i.datasets.metadata_file import SPLITS
from e2i.datasets.tabular import read_metadata
from e2i.doctor import Check, Package
from e2i.errors import DatasetError, E2IError
from e2i.storage import Folder
from e2i.store_layout import StoreLayout, clotho_metadata_url
from flows.doctor_parameters import DoctorParameters
from flows.prefect_setup import read_setup
from flows.preflight import server_answers, without_login
from flows.summary import RunSummary
from tasks.wandb_environment import wandb_access

LIMIT_S = 10.0
"""All checks of what is elsewhere together; thousands of remote recordings take the longest."""

LOCAL_LIMIT_S = 60.0
"""All checks of this machine together: imports take long where it is busy."""

ELSEWHERE = frozenset({"prefect server", "store", "recordings"})
"""Checks whose answer may have to come from another machine."""

DATASETS = ("clotho", "soundscapes")

Job = Callable[[], "list[Check]"]


def run_doctor(parameters: DoctorParameters) -> RunSummary:
    """Look at all that a long run needs; `counts["problems"]` says whether it would fail."""
    started = time.monotonic()
    checks = _side_by_side(_jobs(parameters, os.environ))
    return RunSummary(
        command="doctor",
        locations={"store": Folder(parameters.store_url).url} if parameters.store_url else {},
        counts=doctor.count(checks),
        notes=tuple(line for check in checks for line in _lines(check)),
        details={"checks": [asdict(check) for check in checks]},
        seconds=time.monotonic() - started,
    )


def _jobs(parameters: DoctorParameters, environ: Mapping[str, str]) -> dict[str, Job]:
    """What is looked at, in the order that it is shown in."""
    encoders = parameters.encoders
    jobs: dict[str, Job] = {
        "python": lambda: [doctor.check_python(sys.version_info[:3])],
        "packages": lambda: [doctor.check_packages(_packages())],
        "device": lambda: [doctor.check_device(encoders.device)],
        "disk": lambda: [_disk(parameters.store_url)],
        "memory": _memory,
        "encoders": lambda: doctor.check_encoders(encoders),
        "tokens": lambda: [doctor.check_tokens(tokens(environ, Path.home()))],
        "prefect server": lambda: [_server(environ)],
    }
    if parameters.store_url:
        store_url = parameters.store_url
        jobs["store"] = lambda: [doctor.check_store(Folder(store_url))]
    if parameters.metadata or parameters.store_url:
        jobs["recordings"] = lambda: _recordings(parameters)
    return jobs


def _side_by_side(jobs: Mapping[str, Job]) -> list[Check]:
    found: dict[str, list[Check]] = {}

    def work(name: str, job: Job) -> None:
        try:
            found[name] = job()
        except E2IError as error:
            found[name] = [doctor.problem(name, error, "Correct the call.")]
        except Exception as error:  # a doctor has to say something of everything
            what = f"{type(error).__name__}: {error}"
            found[name] = [Check(name, "problem", f"could not be looked at ({what})", "Report it.")]

    threads = {
        name: threading.Thread(target=work, args=(name, job), daemon=True)
        for name, job in jobs.items()
    }
    for thread in threads.values():
        thread.start()
    started = time.monotonic()
    for name, thread in threads.items():
        limit = LIMIT_S if name in ELSEWHERE else LOCAL_LIMIT_S
        thread.join(max(0.0, started + limit - time.monotonic()))
    return [check for name in jobs for check in found.get(name, [_late(name)])]


def _late(name: str) -> Check:
    if name in ELSEWHERE:
        late = f"no answer within {LIMIT_S:.0f} s"
        step = "Look at the network, and at whether the store or server is up."
        return Check(name, "problem", late, step)
    late = f"not looked at within {LOCAL_LIMIT_S:.0f} s"
    return Check(name, "warning", late, "This machine is busy or slow: call it again later.")


def _lines(check: Check) -> list[str]:
    shown = [f"{check.status:<8} {check.name}: {check.found}"]
    return shown + ([f"{'':<8} {check.next_step}"] if check.status != "ok" else [])


def _packages() -> list[Package]:
    """What e2i says that it needs; empty where it runs without being installed."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in metadata.requires("e2i") or ()]
    except metadata.PackageNotFoundError:
        return []
    packages = []
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = None
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed = metadata.version(requirement.name)
        fits = installed is not None and requirement.specifier.contains(installed, prereleases=True)
        packages.append(Package(requirement.name, str(requirement.specifier), installed, fits))
    return packages


def _disk(store_url: str) -> Check:
    """Free disk of a local store, or of the working directory."""
    store = Folder(store_url).local_path if store_url else None
    path = (store or Path.cwd()).absolute()
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return doctor.check_disk(shutil.disk_usage(path).free, str(path))


def _memory() -> list[Check]:
    """Memory that can be had without swapping; nothing where the system does not tell."""
    with contextlib.suppress(OSError):
        told = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text("ascii"))
        if told is not None:
            return [doctor.check_memory(int(told[1]) * 1024)]
    with contextlib.suppress(OSError, ValueError):
        pages = os.sysconf("SC_PHYS_PAGES")
        return [doctor.check_memory(pages * os.sysconf("SC_PAGE_SIZE"))]
    return []


def tokens(environ: Mapping[str, str], home: Path) -> dict[str, bool]:
    """Which tokens there are, never what they are."""
    hub_home = Path(environ.get("HF_HOME") or home / ".cache" / "huggingface")
    hub_file = Path(environ.get("HF_TOKEN_PATH") or hub_home / "token")
    aws_file = Path(environ.get("AWS_SHARED_CREDENTIALS_FILE") or home / ".aws" / "credentials")
    return {
        "Hugging Face": bool(
            environ.get("HF_TOKEN") or environ.get("HUGGING_FACE_HUB_TOKEN") or _filled(hub_file)
        ),
        "W&B": wandb_access(environ, home).has_key,
        "AWS": bool(
            environ.get("AWS_ACCESS_KEY_ID")
            or environ.get("AWS_PROFILE")
            or environ.get("AWS_WEB_IDENTITY_TOKEN_FILE")
            or _filled(aws_file)
        ),
    }


def _filled(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False


def _server(environ: Mapping[str, str]) -> Check:
    api_url = read_setup(environ, Path.cwd()).api_url or ""
    return doctor.check_server(without_login(api_url), bool(api_url) and server_answers(api_url))


def _recordings(parameters: DoctorParameters) -> list[Check]:
    """The recordings of the metadata given, or of the splits that lie in the store."""
    locations = parameters.metadata or tuple(_stored_metadata(parameters.store_url))
    checks: list[Check] = []
    splits: list[CaptionedClips] = []
    for location in filter(None, dict.fromkeys(locations)):
        source = MetadataConfig(metadata=location, audio_root=parameters.audio_root or None)
        try:
            clips = read_metadata(source)
        except DatasetError as error:
            checks.append(doctor.problem("metadata", error, "Correct --metadata."))
            continue
        splits.append(clips)
        checks.append(doctor.check_recordings(clips))
    return [*checks, *doctor.check_splits(splits)]


def _stored_metadata(store_url: str) -> list[str]:
    store = Folder(store_url)
    found = []
    for dataset in DATASETS:
        for split in SPLITS:
            name = clotho_metadata_url(f"data/{dataset}", split)
            if store.info(name) is not None:
                found.append(clotho_metadata_url(StoreLayout(store.url).data_url(dataset), split))
    return found
