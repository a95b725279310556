"""Tasks that fold cached embeddings into pseudo-images."""

from __future__ import annotations

import numpy as np
from prefect import task

from e2i.cache.embeddings import CachedEmbeddings
from e2i.cache.reader import open_cache
from e2i.images.config import ImagesConfig
from e2i.images.fold import encode_images
from e2i.images.names import Side
from e2i.images.render import render_images
from e2i.report.sheet import SheetRow, contact_sheet
from e2i.storage import Folder
from e2i.store_layout import join_url
from e2i.training.image_statistics import image_standardization
from tasks.artifacts import sheet_artifact
from tasks.policy import TRIED_AGAIN, WHOLE_TIMEOUT_S
from tasks.progress import Stage, progress_sink

SHEET_CLIPS = 12


@task(
    name="render-images",
    task_run_name="render-{label}",
    timeout_seconds=WHOLE_TIMEOUT_S,
    **TRIED_AGAIN,
)
def render_side(cache_url: str, side: Side, images: ImagesConfig, label: str) -> dict[str, int]:
    """Render the pseudo-images of one side of a cache that are not there yet; the counts."""
    folder = Folder(cache_url)
    cache = open_cache(folder).load()
    audio = side == "audio"
    ids = cache.clip_ids if audio else cache.caption_ids
    name = f"render {label}"
    with Stage(name, len(ids), "pseudo-images") as stage:
        counts = render_images(
            folder,
            side,
            ids,
            cache.audio if audio else cache.text,
            images,
            fingerprint=cache.audio_fingerprint if audio else cache.text_fingerprint,
            standardization=image_standardization(cache_url, cache, side, images),
            progress=lambda count: progress_sink().advance(name, count),
        )
        stage.outcome = f"{counts.rendered} rendered, {counts.reused} were there"
    return {
        "images_rendered": counts.rendered,
        "images_reused": counts.reused,
        "images_replaced": counts.replaced,
        "images_deleted": counts.deleted,
    }


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
