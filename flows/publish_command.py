"""The quick command `publish`, which needs no Prefect."""

from __future__ import annotations

import datetime as dt
import time

from e2i.publishing.promote import Promoted, promote, roll_back
from e2i.publishing.published import PUBLISHED_NAME, Published, read_published
from e2i.retrieval.config import EvaluationConfig
from e2i.storage import Folder
from e2i.store_layout import StoreLayout, join_url
from flows.parameters import CHECKPOINT_NAME, PublishParameters
from flows.summary import RunSummary


def publish(parameters: PublishParameters) -> RunSummary:
    """Put a checkpoint in use, take the last one back, or show what is in use.

    Raises:
        PublishError: there is nothing to show or to roll back to.
        StaleWriteError: somebody else published in the meantime.
        E2IError: checkpoint or caches are not as they should be.
    """
    started = time.monotonic()
    layout = StoreLayout(parameters.store_url)
    store = Folder(layout.store_url)
    if parameters.show:
        notes = [f"In use is promotion {read_published(store).current.number}."]
        return _summary(store, notes, started, changed=False)
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if parameters.rollback:
        done = roll_back(layout.store_url, date=now)
    else:
        done = promote(
            layout.store_url,
            parameters.checkpoint or join_url(layout.checkpoints_url, CHECKPOINT_NAME),
            parameters.cache_dir or layout.cache_url("evaluation"),
            EvaluationConfig(),
            device=parameters.device,
            date=now,
        )
    notes = [_in_words(done, rolled_back=parameters.rollback), *done.notes]
    return _summary(store, notes, started, changed=done.changed)


def _in_words(done: Promoted, *, rolled_back: bool) -> str:
    number = done.promotion.number
    if not done.changed:
        return f"In use is promotion {number}, as before."
    if done.former is None:
        return f"In use is promotion {number}, the first one."
    how = "again, rolled back from" if rolled_back else "in the place of"
    return f"In use is promotion {number}, {how} {done.former.number}."


def _summary(store: Folder, notes: list[str], started: float, *, changed: bool) -> RunSummary:
    """What is in use now."""
    published: Published = read_published(store)
    current = published.current
    caches = {
        "cache" if cache.role == "evaluation" else f"{cache.role}_cache": cache.url
        for cache in current.caches
    }
    return RunSummary(
        command="publish",
        locations={
            "published": join_url(store.url, PUBLISHED_NAME),
            "checkpoint": current.checkpoint.url,
            "source": current.checkpoint.source,
            **caches,
        },
        counts={"promotions": published.last_number, "changed": int(changed)},
        metrics={name: score.model_dump() for name, score in current.scores.items()},
        notes=tuple(notes),
        details={"current": current.model_dump(mode="json")},
        seconds=time.monotonic() - started,
    )
