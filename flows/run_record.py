"""What a flow gathers on its way: counts, locations and notes, and the name of its run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from prefect.runtime import flow_run

from e2i.store_layout import public_url, split_url
from flows.credentials import refuse_credentials
from flows.summary import RunSummary


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
    """Name of a flow run: data set or cache, encoders, split; as far as its parameters tell."""
    parameters: dict[str, Any] = flow_run.get_parameters()
    encoders = parameters.get("encoders")
    words = [
        str(parameters.get("dataset") or ""),
        _last_name(_field(parameters.get("source"), "metadata") or parameters.get("cache_dir")),
        str(_field(encoders, "audio_encoder") or ""),
        str(_field(encoders, "text_encoder") or ""),
    ]
    return "-".join(word for word in words if word) or "e2i"


def started_at() -> str:
    """When the flow run was to start, for people."""
    start = flow_run.get_scheduled_start_time()
    return start.strftime("%Y-%m-%d %H:%M UTC") if start else ""


def _field(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, dict) else getattr(holder, name, None)


def _last_name(location: Any) -> str:
    """The last name of a location, of several that of the first."""
    first = location[0] if location and not isinstance(location, str) else location
    return split_url(str(first))[1] if first else ""
