"""The mirror of a cache on the Hub, as part of a flow run."""

from __future__ import annotations

import contextlib
import time
from types import TracebackType

from prefect import get_run_logger, task

from e2i.cache.embeddings import CachedEmbeddings
from e2i.cache.layout import SIDES, Side
from e2i.cache.reader import open_cache
from e2i.errors import E2IError, RunFailedError, StorageError
from e2i.hub.background import BackgroundMirror
from e2i.hub.config import HubConfig
from e2i.hub.contents import OutgoingFile
from e2i.hub.image_packs import image_packs
from e2i.hub.mirror import Mirror, Pace
from e2i.images.config import ImagesConfig
from e2i.images.standardization import Standardization
from e2i.storage import Folder
from e2i.training.image_statistics import image_standardization
from tasks.policy import WHOLE_TIMEOUT_S
from tasks.progress import Stage, progress_sink

PACE = Pace()


class RunMirror:
    """The mirror of one cache during a flow run, in a `with`; does nothing where none is asked for.

    Attributes:
        locations: where people look at it.
        background: what sends while the cache is made.
    """

    def __init__(self, cache_url: str, hub: HubConfig) -> None:
        self._cache_url = cache_url
        self._upload_every = hub.upload_every
        self._started = time.monotonic()
        self._running = contextlib.ExitStack()
        self.mirror = Mirror(Folder(cache_url), hub, pace=PACE) if hub.hf_dataset else None
        self.locations = {"hub": self.mirror.url} if self.mirror is not None else {}
        self.background: BackgroundMirror | None = None

    def __enter__(self) -> RunMirror:
        """Nothing is asked of the Hub yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End what runs in the background."""
        self._running.__exit__(kind, error, traceback)

    def begin(self, clips: int, captions: int) -> None:
        """Look at the data set, and send from now on what is stored, if that was asked for.

        A Hub that does not answer is told of and does not stop the run: the end has to reach it.

        Raises:
            ConfigError: the data set holds another cache there.
        """
        if self.mirror is None:
            return
        try:
            self.mirror.check()
        except StorageError as error:
            progress_sink().note(f"The Hub: {error} The cache is made all the same.")
        if self._upload_every is not None:
            self.background = BackgroundMirror(
                self.mirror,
                self._upload_every,
                captions / max(1, clips),
                PACE.interval_s,
                progress_sink().note,
            )
            self._running.enter_context(self.background)

    def rendered(self, images: ImagesConfig, side: Side) -> None:
        """Send the pseudo-images of one side, if that was asked for and is due.

        As with embeddings, that is not within the first minute, and a Hub that fails stops nothing.
        """
        waited_s = time.monotonic() - self._started
        if self.mirror is None or self._upload_every is None or waited_s < PACE.interval_s:
            return
        self._running.close()  # what is embedded is stored by now; one thread at a time
        folder = Folder(self._cache_url)
        cache = open_cache(folder).load()
        if len(cache.caption_ids) < self._upload_every:
            return
        packs = _packs(self._cache_url, cache, images)
        of_side = {name: pack for name, pack in packs.items() if f"/{side}/" in name}
        try:
            self.mirror.send_images(of_side)
        except StorageError as error:
            progress_sink().note(f"Not sent to the Hub yet: {error}")

    def finish(
        self,
        images: ImagesConfig | None = None,
        *,
        cache: bool = True,
        snapshot: bool = False,
    ) -> dict[str, int]:
        """Send what is left, the manifest last; the counts.

        Raises:
            RunFailedError: the Hub did not take it all; the cache is whole all the same.
        """
        self._running.close()
        if self.mirror is None:
            return {}
        return send_rest(self.mirror, self._cache_url, images, cache=cache, snapshot=snapshot)


@task(
    name="mirror-cache",
    task_run_name="mirror-cache",
    timeout_seconds=WHOLE_TIMEOUT_S,
    persist_result=False,
)
def send_rest(
    mirror: Mirror,
    cache_url: str,
    images: ImagesConfig | None,
    *,
    cache: bool,
    snapshot: bool,
) -> dict[str, int]:
    """Make the data set hold what the cache does; the counts. Trying again is the mirror's."""
    folder = Folder(cache_url)
    name = f"mirror to {mirror.repository.repo_id}"
    with Stage(name, 1, "data set") as stage:
        packs = _packs(cache_url, open_cache(folder).load(), images) if images else {}
        try:
            mirror.finish(packs, cache=cache, snapshot=snapshot)
        except StorageError as error:
            raise _not_whole(mirror, error) from error
        progress_sink().advance(name, 1)
        sent = mirror.sent
        stage.outcome = (
            f"{sent.files} files ({sent.size_bytes:,} bytes) sent in {sent.commits} commits"
        )
    get_run_logger().info("Mirrored: %s", mirror.url)
    return {
        "hub_files": sent.files,
        "hub_bytes": sent.size_bytes,
        "hub_commits": sent.commits,
        "hub_deleted": sent.deleted,
    }


def _packs(
    cache_url: str, cache: CachedEmbeddings, images: ImagesConfig
) -> dict[str, OutgoingFile]:
    """The packs of a cache's pseudo-images, and what they were standardized by."""
    by: dict[Side, Standardization | None] = {
        side: image_standardization(cache_url, cache, side, images) for side in SIDES
    }
    return image_packs(Folder(cache_url), cache, images, by)


def _not_whole(mirror: Mirror, error: E2IError) -> RunFailedError:
    left = "all that it lacks" if mirror.lacking is None else f"{mirror.lacking} files"
    return RunFailedError(
        f"the mirror {mirror.url} is not whole: got {error} Left to send: {left}. The cache is "
        "whole and kept: run the same command again, and only these are sent."
    )
