"""What is missing before a long run, as a list of checks.

Conventions: a check finds `ok`, a `warning` (the run goes, perhaps not as wished) or a `problem`
(it would fail); anything but `ok` comes with the one next step. What only the environment knows is
passed in. No credential is looked at, only whether there is one.
"""

from __future__ import annotations

import contextlib
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from e2i.cache.sources import READERS, digests, look_up
from e2i.clips import CaptionedClips
from e2i.encoders.config import EncodersConfig
from e2i.errors import E2IError, EncoderUnavailableError, StaleWriteError
from e2i.storage import Folder

Status = Literal["ok", "warning", "problem"]

GIB = 2**30
MIN_DISK_BYTES, FEW_DISK_BYTES = GIB, 30 * GIB
"""Less fails soon; Clotho as it is fetched and unpacked takes about 30 GiB."""

MIN_MEMORY_BYTES, FEW_MEMORY_BYTES = GIB, 4 * GIB
"""Less fails soon; a published encoder with a batch of recordings takes about 4 GiB."""

MAX_FAULTS = 0.01
"""Share of recordings that may fail before a run counts as failed, as in the default there."""

HEAD_BYTES = 2**16
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what was looked at.
        status: what came of it.
        found: what was found, in words.
        next_step: what to do; empty where it is ok.
    """

    name: str
    status: Status
    found: str
    next_step: str = ""


@dataclass(frozen=True, slots=True)
class Package:
    """A package that e2i needs.

    Attributes:
        name: as it is installed by.
        wanted: versions that fit, such as `>=2.14,<2.15`; empty for any.
        installed: version; None if it is not.
        fits: whether the installed version is one of those wanted.
    """

    name: str
    wanted: str
    installed: str | None
    fits: bool


def problem(name: str, error: E2IError, step: str) -> Check:
    """An error as a check; its last sentence is the next step, and if it has but one, `step`."""
    found, _, last = str(error).rpartition(". ")
    return Check(name, "problem", found or str(error), last if found else step)


def check_python(version: tuple[int, int, int]) -> Check:
    """Whether this Python is one that e2i runs on."""
    found = ".".join(map(str, version))
    if version >= (3, 11):
        return Check("python", "ok", found)
    return Check("python", "problem", f"{found}, e2i needs 3.11 or later", "Install Python 3.11.")


def check_packages(packages: Sequence[Package]) -> Check:
    """Whether all packages are there, in versions that fit."""
    missing = [package for package in packages if package.installed is None]
    other = [p for p in packages if p.installed is not None and not p.fits]
    if not missing and not other:
        shown = ", ".join(f"{p.name} {p.installed}" for p in packages)
        return Check("packages", "ok", shown or "e2i is not installed, so none are asked for")
    words = [f"{p.name}{p.wanted} is not installed" for p in missing]
    words += [f"{p.name} {p.installed} is not {p.wanted}" for p in other]
    wanted = " ".join(f"'{p.name}{p.wanted}'" for p in [*missing, *other])
    return Check(
        "packages",
        "problem" if missing else "warning",
        "; ".join(words),
        f"Run `pip install {wanted}`.",
    )


def check_device(device: str) -> Check:
    """Which accelerators torch sees, and whether those asked for are among them."""
    import torch  # noqa: PLC0415 - takes seconds, and not every check needs it

    from e2i.device import resolve_devices  # noqa: PLC0415
    from e2i.errors import ConfigError  # noqa: PLC0415

    seen = [
        f"cuda:{index} {torch.cuda.get_device_name(index)} "
        f"({torch.cuda.get_device_properties(index).total_memory / GIB:.0f} GiB)"
        for index in range(torch.cuda.device_count())
    ]
    seen += ["mps"] if torch.backends.mps.is_available() else []
    shown = ", ".join([*seen, f"cpu ({torch.get_num_threads()} threads)"])
    try:
        chosen = resolve_devices(device)
    except ConfigError:
        return Check("device", "problem", f"{device} cannot be used; {shown}", "Use --device auto.")
    found = f"{', '.join(map(str, chosen))} will be used; {shown}"
    if chosen[0].type == "cpu" and device == "auto":
        return Check("device", "ok", f"{found}; large encoders are slow without an accelerator")
    return Check("device", "ok", found)


def check_disk(free_bytes: int, where: str) -> Check:
    """Whether there is room where the run stores."""
    found = f"{free_bytes / GIB:,.1f} GiB free at {where}"
    step = "Free some, or move the store with --store-url."
    return _amount("disk", free_bytes, found, step, (MIN_DISK_BYTES, FEW_DISK_BYTES))


def check_memory(available_bytes: int) -> Check:
    """Whether there is memory for encoders and recordings."""
    found = f"{available_bytes / GIB:,.1f} GiB available"
    step = "End other programs, or lower --batch-size."
    return _amount("memory", available_bytes, found, step, (MIN_MEMORY_BYTES, FEW_MEMORY_BYTES))


def _amount(name: str, amount: int, found: str, step: str, limits: tuple[int, int]) -> Check:
    least, few = limits
    if amount < least:
        return Check(name, "problem", f"{found}, less than {least / GIB:.0f}", step)
    if amount < few:
        return Check(name, "warning", f"{found}; published models need {few / GIB:.0f}", step)
    return Check(name, "ok", found)


def check_encoders(config: EncodersConfig) -> list[Check]:
    """Whether the encoders asked for, and what they need, are there."""
    from e2i.encoders.load import (  # noqa: PLC0415
        audio_settings,
        missing_audio_weights,
        text_settings,
    )

    checks = []
    for name, side, settings in (
        (config.audio_encoder, "audio encoder", audio_settings),
        (config.text_encoder, "text encoder", text_settings),
    ):
        missing = missing_audio_weights(config) if settings is audio_settings else None
        if missing is not None:
            checks.append(
                Check(
                    side,
                    "warning",
                    f"{name}, whose weights are not in {missing.path.parent}; a run fetches them "
                    f"from {missing.url}",
                    f"Offline, put {missing.path.name} there, or use --audio-weights.",
                )
            )
            continue
        try:
            settings(config)
        except EncoderUnavailableError as error:
            checks.append(problem(side, error, "Choose another encoder."))
        else:
            checks.append(Check(side, "ok", name))
    return checks


def check_tokens(present: Mapping[str, bool]) -> Check:
    """Which tokens there are; a run that needs one that is missing says so elsewhere."""
    shown = ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in present.items())
    return Check("tokens", "ok", shown)


def check_store(store: Folder) -> Check:
    """Whether a store can be written to, safely among several writers: create, replace, delete."""
    name = f"doctor-probe-{uuid.uuid4().hex}"
    try:
        fault = _conditional_writes(store, name)
    except E2IError as error:
        return problem("store", error, "Make the store reachable and writable.")
    if fault:
        return Check(
            "store",
            "problem",
            f"{store.url} {fault}, which several writers at once rely on",
            "Use a store with conditional writes (If-None-Match, If-Match).",
        )
    return Check("store", "ok", f"{store.url} can be created in, replaced in, deleted in")


def _conditional_writes(store: Folder, name: str) -> str:
    """What is wrong with them; empty if nothing is. Leaves nothing behind."""
    try:
        if not store.create(name, b"1"):
            return "says that a new name is taken"
        if store.create(name, b"2"):
            return "creates over what is there"
        first = store.read_versioned(name)[1]
        store.replace(name, b"3", first)
        try:
            store.replace(name, b"4", first)
        except StaleWriteError:
            return "" if store.read(name) == b"3" else "gives back other bytes than were written"
        return "replaces what somebody else wrote in between"
    finally:
        with contextlib.suppress(E2IError):
            store.delete(name)


def check_server(api_url: str, reachable: bool) -> Check:
    """Whether the Prefect server that is set up answers."""
    if not api_url:
        return Check("prefect server", "ok", "none set up: commands start one of their own")
    if reachable:
        return Check("prefect server", "ok", f"{api_url} answers")
    return Check(
        "prefect server",
        "problem",
        f"{api_url} does not answer",
        "Start it (`make server`), or take PREFECT_API_URL out of the environment and the profile.",
    )


def check_recordings(clips: CaptionedClips) -> Check:
    """Whether the recordings that metadata names are there."""
    name = f"recordings of {_named(clips)}"
    wanted = [clip.audio_name for clip in clips.clips]
    try:
        found = look_up(Folder(clips.audio_root_url), wanted)
    except E2IError as error:
        return problem(name, error, "Make the recordings reachable.")
    missing = [audio for audio in wanted if audio not in found]
    empty = [audio for audio, info in found.items() if info.size_bytes == 0]
    root = Folder(clips.audio_root_url).url
    if not missing and not empty:
        return Check(name, "ok", f"all {len(wanted):,} are below {root}")
    words = [f"{len(missing):,} of {len(wanted):,} missing below {root}"] if missing else []
    words += [f"{len(empty):,} empty"] if empty else []
    shown = ", ".join(repr(audio) for audio in [*missing, *empty][:_SHOWN])
    faults = len(missing) + len(empty)
    status: Status = "problem" if faults > max(1, MAX_FAULTS * len(wanted)) else "warning"
    return Check(
        name,
        status,
        f"{', '.join(words)}: {shown}{', ...' if faults > _SHOWN else ''}",
        "Fetch them, or correct --audio-root.",
    )


def check_splits(splits: Sequence[CaptionedClips]) -> list[Check]:
    """Whether a recording stands in two splits: then scores say less than they seem to.

    Recordings are compared by size, then by their first 64 KiB, then by the sha256 of all bytes.
    """
    checks = []
    try:
        shared = shared_recordings(splits)
    except E2IError as error:
        return [problem("splits", error, "Make the recordings reachable.")]
    names = [_named(clips) for clips in splits]
    for one, two in combinations(range(len(splits)), 2):
        name = f"{names[one]} and {names[two]}"
        pairs = [pair for first, second, pair in shared if (first, second) == (one, two)]
        if not pairs:
            checks.append(Check(name, "ok", "no recording stands in both"))
            continue
        shown = ", ".join(f"{a!r} is {b!r}" for a, b in pairs[:_SHOWN])
        more = ", ..." if len(pairs) > _SHOWN else ""
        checks.append(
            Check(
                name,
                "warning",
                f"{len(pairs):,} recording{'s' * (len(pairs) > 1)} in both: {shown}{more}",
                f"Take them out of {names[one]}, if {names[two]} is what you score on.",
            )
        )
    return checks


def shared_recordings(
    splits: Sequence[CaptionedClips],
) -> list[tuple[int, int, tuple[str, str]]]:
    """Recordings of equal bytes in two splits.

    Returns:
        Index of the one split, of the other, greater one, and the names in both; by index, name.

    Raises:
        StorageUnavailableError: a store did not answer.
    """
    roots = [Folder(clips.audio_root_url) for clips in splits]
    sizes: dict[tuple[int, str], int] = {}
    for index, (root, clips) in enumerate(zip(roots, splits, strict=True)):
        found = look_up(root, (clip.audio_name for clip in clips.clips))
        sizes |= {(index, name): info.size_bytes for name, info in found.items()}
    alike = _in_two_splits(sizes)
    with ThreadPoolExecutor(READERS) as pool:
        heads = dict(
            zip(alike, pool.map(lambda key: _head(roots[key[0]], key[1]), alike), strict=True)
        )
    alike = _in_two_splits({key: (sizes[key], head) for key, head in heads.items() if head})
    contents: dict[tuple[int, str], str] = {}
    for index, root in enumerate(roots):
        hashed = digests(root, (name for split, name in alike if split == index))
        contents |= {(index, name): digest for name, digest in hashed.items()}
    groups: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for key, digest in contents.items():
        groups[digest].append(key)
    return sorted(
        (one, two, (name, other))
        for group in groups.values()
        for (one, name), (two, other) in combinations(sorted(group), 2)
        if one != two
    )


def _named(clips: CaptionedClips) -> str:
    return f"{clips.dataset}/{clips.split}"


def _in_two_splits(values: Mapping[tuple[int, str], object]) -> list[tuple[int, str]]:
    """The recordings whose value is found in another split too."""
    splits: defaultdict[object, set[int]] = defaultdict(set)
    for (index, _), value in values.items():
        splits[value].add(index)
    return [key for key, value in values.items() if len(splits[value]) > 1]


def _head(root: Folder, name: str) -> bytes:
    """The first bytes of a recording; none where it cannot be read."""
    try:
        with root.open(name) as file:
            return file.read(HEAD_BYTES)
    except (E2IError, OSError):
        return b""


def count(checks: Iterable[Check]) -> dict[str, int]:
    """How many checks came to what."""
    found = [check.status for check in checks]
    return {
        "ok": found.count("ok"),
        "warnings": found.count("warning"),
        "problems": found.count("problem"),
    }
