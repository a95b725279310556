"""Tasks that fold cached embeddings into pseudo-images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from prefect import get_run_logger, task

from e2i.cache.embeddings import CachedEmbeddings
from e2i.cache.reader import open_cache
from e2i.errors import RunFailedError
from e2i.images.config import ImagesConfig
from e2i.images.fold import encode_images
from e2i.images.names import Side
from e2i.images.render import missing_rows, render_images, render_rows
from e2i.images.standardization import Standardization
from e2i.report.sheet import SheetRow, contact_sheet
from e2i.storage import Folder
from e2i.store_layout import join_url
from e2i.training.image_statistics import image_standardization
from tasks.artifacts import artifact_key, sheet_artifact
from tasks.policy import TRIED_AGAIN, WHOLE_TIMEOUT_S
from tasks.progress import Stage, progress_sink
from tasks.remote import outcome_of, unvisited

SHEET_CLIPS = 12
IMAGES_A_PART = 16_384
"""What one process renders at a time: seconds of work, for which it reads the cache once."""


@dataclass(frozen=True)
class Parts:
    """Pseudo-images to be made by several processes.

    Attributes:
        rows: of the embeddings, a part each.
        replaced: how many of them take the place of a file.
    """

    rows: tuple[tuple[int, ...], ...]
    replaced: int


@task(
    name="render-images",
    task_run_name="render-{label}",
    timeout_seconds=WHOLE_TIMEOUT_S,
    **TRIED_AGAIN,
)
def render_side(
    cache_url: str,
    side: Side,
    images: ImagesConfig,
    label: str,
    parts: Parts | None = None,
    written: dict[str, int] | None = None,
) -> dict[str, int]:
    """Render the pseudo-images of one side of a cache that are not there yet; the counts.

    With `parts`, `written` names those that other processes have made just now, with their bytes.
    """
    of, made = _Rendered.of(cache_url, side), written or {}
    name = f"render {label}"
    with Stage(name, len(of.ids), "pseudo-images") as stage:
        counts = render_images(
            of.folder,
            side,
            of.ids,
            of.embeddings,
            images,
            fingerprint=of.fingerprint,
            standardization=of.standardization(images),
            progress=lambda count: progress_sink().advance(name, count),
            written=made,
        )
        rendered, reused = counts.rendered + len(made), max(0, counts.reused - len(made))
        stage.outcome = f"{rendered} rendered, {reused} were there"
    return {
        "images_rendered": rendered,
        "images_reused": reused,
        "images_replaced": counts.replaced + (parts.replaced if parts else 0),
        "images_deleted": counts.deleted,
    }


@task(
    name="plan-images",
    task_run_name="plan-{label}",
    timeout_seconds=WHOLE_TIMEOUT_S,
    **TRIED_AGAIN,
)
def plan_parts(cache_url: str, side: Side, images: ImagesConfig, label: str) -> Parts:  # noqa: ARG001
    """Cut what one side lacks into parts."""
    of = _Rendered.of(cache_url, side)
    missing = missing_rows(
        of.folder,
        side,
        of.ids,
        of.embeddings,
        images,
        fingerprint=of.fingerprint,
        standardization=of.standardization(images),
    )
    starts = range(0, len(missing.rows), IMAGES_A_PART)
    rows = tuple(missing.rows[start : start + IMAGES_A_PART] for start in starts)
    return Parts(rows, missing.replaced)


@task(
    name="render-part",
    task_run_name="render-{label}: part {part}",
    timeout_seconds=WHOLE_TIMEOUT_S,
    **TRIED_AGAIN,
)
def render_part(
    cache_url: str,
    side: Side,
    images: ImagesConfig,
    rows: tuple[int, ...],
    label: str,  # noqa: ARG001 - in the name of the task run
    part: int,  # noqa: ARG001 - likewise
) -> dict[str, int]:
    """Render some rows; the bytes of each file, by its name."""
    of = _Rendered.of(cache_url, side)
    made = render_rows(
        of.folder,
        side,
        [of.ids[row] for row in rows],
        of.embeddings[list(rows)],
        images,
        fingerprint=of.fingerprint,
        standardization=of.standardization(images),
    )
    get_run_logger().info("%d pseudo-images rendered", len(made))
    return made


def render_by_parts(cache_url: str, side: Side, images: ImagesConfig, label: str) -> dict[str, int]:
    """Render one side by the processes of a cluster; the counts.

    Raises:
        RunFailedError: a part failed; the others are stored.
    """
    parts = plan_parts(cache_url, side, images, label)
    futures = [
        render_part.submit(cache_url, side, images, rows, label, part)
        for part, rows in enumerate(parts.rows)
    ]
    written: dict[str, int] = {}
    errors: list[BaseException] = []
    total = sum(map(len, parts.rows))
    key = artifact_key("rendering", label) if total else None
    with Stage(f"render {label} by parts", total, "pseudo-images", key) as stage:
        for future in futures:
            outcome = outcome_of(future)
            if isinstance(outcome, BaseException):
                errors.append(outcome)
                continue
            written |= outcome
            stage.settle(len(outcome), told=False)
    if errors:
        raise RunFailedError(
            f"{len(errors)} of {len(futures)} parts of the pseudo-images could not be rendered: "
            f"got {errors[0]} Run the same command again: what is stored is kept."
        ) from errors[0]
    return render_side(cache_url, side, images, label, unvisited(parts), unvisited(written))


@dataclass(frozen=True)
class _Rendered:
    """One side of a cache."""

    cache_url: str
    folder: Folder
    side: Side
    cache: CachedEmbeddings

    @classmethod
    def of(cls, cache_url: str, side: Side) -> _Rendered:
        folder = Folder(cache_url)
        return cls(cache_url, folder, side, open_cache(folder).load())

    @property
    def ids(self) -> Sequence[str]:
        return self.cache.clip_ids if self.side == "audio" else self.cache.caption_ids

    @property
    def embeddings(self) -> NDArray[np.float32]:
        return self.cache.audio if self.side == "audio" else self.cache.text

    @property
    def fingerprint(self) -> str:
        audio = self.side == "audio"
        return self.cache.audio_fingerprint if audio else self.cache.text_fingerprint

    def standardization(self, images: ImagesConfig) -> Standardization | None:
        return image_standardization(self.cache_url, self.cache, self.side, images)


@task(
    name="draw-sheet",
    task_run_name="draw-sheet",
    timeout_seconds=WHOLE_TIMEOUT_S,
    **TRIED_AGAIN,
)
def draw_sheet(cache_url: str, images: ImagesConfig) -> str:
    """Draw a sheet of some clips beside their captions, as artifact and as file; its location."""
    folder = Folder(cache_url)
    cache = open_cache(folder).load()
    png = contact_sheet(
        _rows(cache_url, cache, images), title=f"{cache.dataset} {cache.split}: clip beside caption"
    )
    target = folder.folder(images.images_dir)
    target.write("sheet.png", png)
    sheet_artifact(png, cache.dataset, cache.split)
    return join_url(target.url, "sheet.png")


def _rows(cache_url: str, cache: CachedEmbeddings, images: ImagesConfig) -> list[SheetRow]:
    """The first clips, each with its first caption."""
    clips = np.arange(min(SHEET_CLIPS, len(cache.clip_ids)))
    captions = np.array([int(np.argmax(cache.caption_clip == clip)) for clip in clips])
    native = images.model_copy(update={"image_size": "native", "image_mode": "nearest"})
    by_audio = image_standardization(cache_url, cache, "audio", images)
    by_text = image_standardization(cache_url, cache, "text", images)
    audio = encode_images(cache.audio[clips], native, standardization=by_audio).pixels
    text = encode_images(cache.text[captions], native, standardization=by_text).pixels
    return [
        SheetRow(cache.clip_ids[clip], cache.shown_caption(int(caption)), audio[row], text[row])
        for row, (clip, caption) in enumerate(zip(clips, captions, strict=True))
    ]
