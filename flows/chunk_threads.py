"""How many chunks are in flight at once: two for each device that embeds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from prefect.context import FlowRunContext
from prefect.task_runners import ThreadPoolTaskRunner

from e2i.encoders.places import Place

_A_PLACE = 2
"""One chunk is encoded while the next is read and decoded."""

CHUNK_RUNNER: Any = ThreadPoolTaskRunner(max_workers=_A_PLACE)
"""The task runner of flows that work chunk by chunk."""


@contextlib.contextmanager
def chunk_threads(places: Sequence[Place]) -> Iterator[None]:
    """Tasks that are submitted in this block find threads enough to keep all places busy.

    A flow whose tasks run elsewhere than in threads of its own is left alone.
    """
    context = FlowRunContext.get()
    if (
        len(places) == 1
        or context is None
        or not isinstance(context.task_runner, ThreadPoolTaskRunner)
    ):
        yield
        return
    with (
        ThreadPoolTaskRunner[Any](max_workers=_A_PLACE * len(places)) as runner,
        context.model_copy(update={"task_runner": runner}),
    ):
        yield
