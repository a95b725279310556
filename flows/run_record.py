"""What a flow gathers on its way: counts, locations and notes, and the name of its run."""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from prefect.runtime import flow_run

from e2i.cache.layout import FAILURES_NAME
from e2i.datasets.metadata_file import dataset_named_in, split_named_in
from e2i.store_layout import join_url, public_url, split_url
from flows.credentials import refuse_credentials
from flows.parameters import TRAINING_CACHE
from flows.summary import RunSummary
from tasks.naming import stored_names


class RunRecord:
    """Counts add up, locations are kept by name. Each flow begins with one.

    Attributes:
        counts: what was done, how often.
        locations: what lies where; told without credentials.
        notes: sentences that the reader of the result needs.

    Raises:
        ConfigError: a parameter of the flow run holds credentials.
    """

    def __init__(self) -> None:
        refuse_credentials(flow_run.get_parameters())
        self.counts: Counter[str] = Counter()
        self.locations: dict[str, str] = {}
        self.notes: list[str] = []
        self._started = time.monotonic()

    def add(self, counts: Mapping[str, int]) -> None:
        """Add what one step counted."""
        for name, count in counts.items():
            self.counts[name] += count

    def add_embedded(self, counts: Mapping[str, int], cache_url: str) -> None:
        """Add what embedding into a cache counted, and say which recordings it goes without."""
        self.add(counts)
        if failed := counts.get("failed", 0):
            which = f"{failed} recordings are" if failed > 1 else "1 recording is"
            url = public_url(join_url(cache_url, FAILURES_NAME))
            self.notes.append(f"{which} not in the cache: see {url} for names and reasons.")

    def summary(
        self,
        metrics: Mapping[str, Mapping[str, float | None]] | None = None,
        details: Mapping[str, object] | None = None,
    ) -> RunSummary:
        """The outcome of the flow run."""
        return RunSummary(
            command=flow_run.get_flow_name() or "",
            flow_run_id=flow_run.get_id() or "",
            locations={name: public_url(url) for name, url in self.locations.items()},
            counts=dict(self.counts),
            metrics=metrics or {},
            details=details or {},
            notes=tuple(note for note in self.notes if note),
            seconds=time.monotonic() - self._started,
        )


def name_run() -> str:
    """Name of a flow run: data set, split and encoders, as far as they can be told at its start."""
    parameters: dict[str, Any] = flow_run.get_parameters()
    cache = _cache_of(parameters)
    return run_name(parameters, stored_names(cache) if cache else ())


def run_name(parameters: Mapping[str, Any], of_cache: Sequence[str] = ()) -> str:
    """The name, from the parameters of a flow.

    Args:
        parameters: by name.
        of_cache: what the cache says itself, where there is one: data set, split, encoders.
    """
    source, encoders = parameters.get("source"), parameters.get("encoders")
    metadata = _field(source, "metadata")
    if parameters.get("dataset"):
        words = [parameters["dataset"]]
    elif metadata:
        split = _field(source, "split") or split_named_in(split_url(metadata)[1])
        words = [dataset_named_in(public_url(metadata)), split]
    elif of_cache:
        return "-".join(word for word in of_cache if word)
    else:
        words = [_last_name(_cache_of(parameters))]
    words += [
        _encoder_name(_field(encoders, "audio_encoder")),
        _encoder_name(_field(encoders, "text_encoder")),
    ]
    words.append(_field(parameters.get("finetuning"), "model_type"))
    return "-".join(str(word) for word in words if word) or "e2i"


def _cache_of(parameters: Mapping[str, Any]) -> str:
    """The cache that a flow reads, the first of several; empty where it starts from metadata."""
    if parameters.get("dataset") or _field(parameters.get("source"), "metadata"):
        return ""
    cache = parameters.get("cache_dir", "")
    if isinstance(cache, str):
        return cache
    return str(cache[0]) if cache else TRAINING_CACHE


def started_at() -> str:
    """When the flow run was to start, for people."""
    start = flow_run.get_scheduled_start_time()
    return start.strftime("%Y-%m-%d %H:%M UTC") if start else ""


def started_at_utc() -> str:
    """When the flow run was to start, such as 2026-11-26T02:00:00Z."""
    start = flow_run.get_scheduled_start_time() or dt.datetime.now(dt.UTC)
    return start.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _field(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, dict) else getattr(holder, name, None)


def _encoder_name(encoder: Any) -> str:
    """An encoder's name; of one in a checkpoint that of its file, without the place."""
    kind, is_checkpoint, location = str(encoder or "").partition(":")
    return split_url(location)[1].removesuffix(".safetensors") if is_checkpoint else kind


def _last_name(location: str) -> str:
    return split_url(location)[1] if location else ""
