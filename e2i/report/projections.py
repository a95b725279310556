"""The projections behind an evaluation, for use elsewhere.

Conventions: one Parquet table, first a row a clip, then a row a caption; `side` is `audio` or
`text`, `id` the clip's or caption's, `caption` the words of a caption. `projection` is a unit
vector; of an ensemble those of its checkpoints stand side by side, so that the product of two rows
is the sum of their similarities. The file's metadata `e2i` says what they are of, and whether the
checkpoint has seen the clips.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from e2i.storage import Folder
from e2i.training.evaluate import Evaluation


def write_projections(
    folder: Folder, name: str, evaluation: Evaluation, facts: Mapping[str, object]
) -> str:
    """Write the projections of the clips and captions that were scored; the file's location.

    Args:
        folder: where.
        name: of the file.
        evaluation: that they are behind.
        facts: what they are of, as JSON values.

    Raises:
        StorageError: the store refused.
    """
    clips = [evaluation.clip_ids[index] for index in evaluation.retrieval.text_to_audio.clip]
    rows = np.concatenate([evaluation.audio.cpu().numpy(), evaluation.text.cpu().numpy()])
    table = pa.table(
        {
            "side": ["audio"] * len(evaluation.clip_ids) + ["text"] * len(clips),
            "id": [*evaluation.clip_ids, *evaluation.caption_ids],
            "clip_id": [*evaluation.clip_ids, *clips],
            "caption": pa.array([*[None] * len(evaluation.clip_ids), *evaluation.captions]),
            "projection": pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1]),
        }
    ).replace_schema_metadata({"e2i": json.dumps({**facts, "seen": evaluation.seen})})
    data = io.BytesIO()
    pq.write_table(table, data, compression="zstd")
    folder.write(name, data.getvalue())
    return f"{folder.url.rstrip('/')}/{name}"
