"""Scores as they are stored."""

from __future__ import annotations

import io

import pyarrow.parquet as pq
import pytest

from e2i.report.scores import write_query_tables
from e2i.storage import Folder


@pytest.fixture(scope="module")
def evaluation(scored, make_cache):
    return scored(make_cache())[0].evaluation


def test_stored_queries_make_the_scores_again(evaluation, tmp_path):
    folder = Folder(str(tmp_path))
    files = write_query_tables(folder, "evaluation", evaluation)
    assert files == {
        "text_to_audio": "evaluation/text_to_audio.parquet",
        "audio_to_text": "evaluation/audio_to_text.parquet",
    }
    retrieval = evaluation.retrieval
    for direction, ids in (
        ("text_to_audio", {"caption_id": evaluation.caption_ids}),
        ("audio_to_text", {"clip_id": evaluation.clip_ids}),
    ):
        table = pq.read_table(io.BytesIO(folder.read(files[direction]))).to_pydict()
        for name, wanted in ids.items():
            assert tuple(table[name]) == wanted
        for metric in ("R@1", "mAP@10"):
            mean = sum(table[metric]) / len(table[metric])
            assert mean == pytest.approx(retrieval.scores[f"{direction}_{metric}"].value)
        assert set(table["clip_id"]) == set(evaluation.clip_ids)


def test_equal_evaluations_give_equal_files(evaluation, tmp_path):
    folder = Folder(str(tmp_path))
    for name in ("one", "two"):
        write_query_tables(folder, name, evaluation)
    for direction in ("text_to_audio", "audio_to_text"):
        one, two = (folder.read(f"{name}/{direction}.parquet") for name in ("one", "two"))
        assert one == two
