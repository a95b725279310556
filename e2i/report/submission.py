"""Similarities in the form of a submission to DCASE's language-based audio retrieval.

Conventions: a CSV in UTF-8; the first column, `index`, holds the caption of each row (its id where
its words are not known), the other columns are named after the clips, and a cell is the similarity
of the two: higher is closer. Nine significant digits bring a float32 back as it was.

Source: DCASE 2025 Task 6, the baseline's predictions.
"""

from __future__ import annotations

import csv
import io

from e2i.errors import SeenClipsError
from e2i.storage import Folder
from e2i.training.evaluate import Evaluation

_ROWS = 256


def write_submission(folder: Folder, name: str, evaluation: Evaluation) -> str:
    """Write the similarities of all captions to all candidates; the file's location.

    Args:
        folder: where.
        name: of the file.
        evaluation: on clips that nothing has seen.

    Raises:
        SeenClipsError: on clips that were trained or selected on: the form has no place to say so.
        StorageError: the store refused.
    """
    if evaluation.seen:
        raise SeenClipsError(
            "predictions of seen clips are no submission: got clips that the checkpoint was "
            "trained or selected on, expected none. Leave out --predictions, or evaluate on "
            "another cache."
        )
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["index", *evaluation.clip_ids, *evaluation.distractor_ids])
    done = 0
    for block in evaluation.similarity.text_to_audio(_ROWS):
        for scores in block.tolist():
            caption = evaluation.captions[done] or evaluation.caption_ids[done]
            rows.writerow([caption, *(f"{score:.9g}" for score in scores)])
            done += 1
    folder.write(name, text.getvalue().encode())
    return f"{folder.url.rstrip('/')}/{name}"
