"""Relevance files: read, joined, and refused by row; and the published multi-positive mAP."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from e2i.errors import DatasetError, DatasetNotFoundError
from e2i.retrieval.config import EvaluationConfig
from e2i.retrieval.evaluation import evaluate_projections, evaluate_similarity
from e2i.retrieval.relevance import join_relevance, parse_relevance, read_relevance
from e2i.retrieval.similarity import CosineSimilarity
from e2i.storage import Folder

QUICK = EvaluationConfig(bootstrap_resamples=0)
CAPTIONS = ("rain falls", "a dog, barking", "rain falls", 'he says "no"')
CLIPS = ("a.wav", "it's b.wav", "c.wav")


def relevance(*rows, header=("query", "audio_filenames"), more=()):
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([*header, *more])
    for query, clips in rows:
        writer.writerow([query, clips if isinstance(clips, str) else repr(list(clips))])
    return text.getvalue().encode()


def parsed(*rows, **options):
    return parse_relevance(relevance(*rows, **options), "memory://r.csv")


def test_rows_are_read_and_joined():
    found = parsed(
        ('he says "no"', ["c.wav", "it's b.wav"]), ("rain falls", ["a.wav"]), more=["remark"]
    )
    assert [row.number for row in found.rows] == [1, 2]
    relevant, left_out = join_relevance(found, CAPTIONS, CLIPS)
    assert relevant.captions.tolist() == [0, 3]  # of equal captions the first
    assert relevant.clips.tolist() == [[0, -1], [1, 2]]
    assert left_out == 0


def test_what_is_not_scored_leaves_rows_and_is_counted():
    found = parsed(("rain falls", ["a.wav", "gone.wav"]), ("elsewhere", ["a.wav"]),
                   ("a dog, barking", ["gone.wav"]))  # fmt: skip
    relevant, left_out = join_relevance(
        found, CAPTIONS, CLIPS, other_captions=["elsewhere"], other_clips=["gone.wav"]
    )
    assert (relevant.captions.tolist(), relevant.clips.tolist()) == ([0], [[0]])
    assert left_out == 2


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("", ["a.wav"]), "row 2: no caption: got '' as query, expected one. Remove the row."),
        (("x", "a.wav"), "row 2: no list of clips: got 'a.wav' as audio_filenames, expected a li"),
        (("x", "['a.wav', 3]"), "row 2: no list of clips: got"),
        (("x", "__import__('os')"), "row 2: no list of clips: got"),
        (("x", []), "row 2: no clips: got an empty list as audio_filenames, expected a list such"),
        (("x", ["a", "a"]), "row 2: a clip that stands twice: got 'a', expected each once."),
        (("rain falls", ["a"]), "row 2: a caption that stands twice: got 'rain falls' as in row 1"),
    ],
)
def test_a_wrong_row_is_named(row, words):
    with pytest.raises(DatasetError) as caught:
        parsed(("rain falls", ["a.wav"]), row)
    assert "the relevance file memory://r.csv has 1 wrong row:" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("snow", ["a.wav"]), "row 1: no caption of the split: got 'snow', expected one that stan"),
        (("rain falls", ["z.wav"]), "row 1: no clip of the split: got 'z.wav', expected clip ids"),
    ],
)
def test_a_row_of_another_split_is_named(row, words):
    with pytest.raises(DatasetError) as caught:
        join_relevance(parsed(row), CAPTIONS, CLIPS)
    assert words in str(caught.value)


def test_a_caption_of_a_clip_that_failed_is_no_fault():
    rows = parsed(("snow", ["a.wav"]), ("rain falls", ["a.wav"]))
    relevant, left_out = join_relevance(rows, CAPTIONS, CLIPS, captions_may_be_missing=True)
    assert (relevant.captions.tolist(), left_out) == ([0], 1)
    with pytest.raises(DatasetError, match="says nothing of the clips scored: got 1 rows about"):
        join_relevance(parsed(("s", ["a.wav"])), CAPTIONS, CLIPS, captions_may_be_missing=True)


def test_many_wrong_rows_come_together():
    with pytest.raises(DatasetError) as caught:
        parsed(*((str(n), []) for n in range(12)))
    assert "has 12 wrong rows:" in str(caught.value)
    assert str(caught.value).count("\n") == 11
    assert "... and 2 more." in str(caught.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"query,files\nx,y\n", "lacks columns: got 'query', 'files', expected 'query' and 'audio"),
        (b"", "lacks columns: got none, expected 'query' and 'audio_filenames', each once."),
        (b"query,audio_filenames\n", "holds nothing: got 0 rows, expected at least 1."),
        (b"query,audio_filenames\n\xff,x\n", "is not UTF-8: got byte 0xff at 22, expected UTF-8."),
        (b'query,audio_filenames\n"a"b,x\n', "is no CSV: got"),
        (b"query,audio_filenames\nx\n", "row 1: no clips: got nothing as audio_filenames"),
    ],
)
def test_files_of_another_form_are_refused(data, words):
    with pytest.raises(DatasetError) as caught:
        parse_relevance(data, "memory://r.csv")
    assert words in str(caught.value)


def test_no_file_and_a_folder_are_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    folder = Folder(tmp_path)
    with pytest.raises(DatasetNotFoundError, match="there is no relevance file: got"):
        read_relevance(folder, "none.csv")
    with pytest.raises(DatasetError, match="the relevance file is a folder: got"):
        read_relevance(folder, "folder")


def test_several_clips_that_answer_count_together():
    # Cosines fall from clip 0 to 3 for the first caption; clips 1 and 3 answer it.
    angles = torch.tensor([0.1, 0.3, 0.5, 0.7])
    audio = torch.stack([angles.cos(), angles.sin()], dim=1)
    text = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.5]])
    audio = audio.repeat(4, 1)[:12]  # with clips 4 to 7 and 8 to 11 equal to them: groups of three
    text = text.repeat(3, 1)
    found = parsed(("q", ["1", "3"]))
    relevant, _ = join_relevance(found, ["q", *"abcdefghijk"], [str(n) for n in range(12)])
    result = evaluate_similarity(CosineSimilarity(text, audio), np.arange(12), QUICK, relevant)
    assert result.left_out == ("text_to_audio_multi_mAP@16",)
    # Clip 1 stands at 4, 5 or 6; clip 3, with one positive above it, at 10, 11 or 12.
    expected = (np.mean([1 / 4, 1 / 5, 1 / 6]) + (1 / 3) * 2 / 10) / 2
    score = result.scores["text_to_audio_multi_mAP@10"]
    assert score.value == pytest.approx(expected, abs=1e-12)
    assert tuple(result.scores)[5] == "text_to_audio_multi_mAP@10"
    assert result.multi is not None
    assert result.multi.columns()["query"].tolist() == [0]


def test_intervals_are_over_the_clips_that_have_a_query():
    generator = torch.Generator().manual_seed(0)
    audio = torch.randn(40, 8, generator=generator)
    text = audio + 0.8 * torch.randn(40, 8, generator=generator)
    rows = [(f"caption {n}", [f"clip {n}", f"clip {(n + 1) % 40}"]) for n in range(0, 40, 2)]
    relevant, _ = join_relevance(
        parsed(*rows), [f"caption {n}" for n in range(40)], [f"clip {n}" for n in range(40)]
    )
    config = EvaluationConfig(bootstrap_resamples=300)
    result = evaluate_similarity(CosineSimilarity(text, audio), np.arange(40), config, relevant)
    without = evaluate_projections(text, audio, np.arange(40), config)
    multi = {key: score for key, score in result.scores.items() if "multi" in key}
    assert list(multi) == ["text_to_audio_multi_mAP@10", "text_to_audio_multi_mAP@16"]
    for score in multi.values():
        assert score.low is not None
        assert score.high is not None
        assert score.low < score.value < score.high
        assert score.chance < score.value
    assert {k: s for k, s in result.scores.items() if k not in multi} == without.scores


def clotho_folder() -> Path:
    folder = os.environ.get("E2I_CLOTHO_CAPTIONS")
    if not folder:
        pytest.skip("E2I_CLOTHO_CAPTIONS is not set: no Clotho captions here")
    return Path(folder)


def test_on_clotho_the_published_definition_gives_the_same():
    """DCASE 2025's: ranks by sorting, one positive for R@k and mAP@10, all of the file's for more.

    Random similarity has no ties, so that the order of a sort is the only one.
    """
    folder = clotho_folder()
    with (folder / "clotho_captions_evaluation.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    clips = [row["file_name"] for row in rows]
    captions = [row[f"caption_{n}"] for row in rows for n in range(1, 6)]
    clip = np.repeat(np.arange(len(clips)), 5)
    assert (len(captions), len(clips)) == (5_225, 1_045)
    generator = torch.Generator().manual_seed(16)
    audio = torch.randn(len(clips), 48, generator=generator)
    text = 0.4 * audio[clip] + torch.randn(len(captions), 48, generator=generator)
    similarity = CosineSimilarity(text, audio)
    (scores,) = similarity.text_to_audio(len(captions))
    ranking = np.argsort(-scores.numpy(), axis=1)
    expected = {}
    for k in (1, 5, 10):
        hits = (ranking[:, :k] == clip[:, None]).any(axis=1)
        expected[f"text_to_audio_R@{k}"] = hits.mean()
    places = (ranking == clip[:, None]).argmax(axis=1) + 1
    expected["text_to_audio_mAP@10"] = np.where(places <= 10, 1.0 / places, 0.0).mean()

    found = read_relevance(Folder(folder), "relevance_evaluation.csv")
    place = np.argsort(ranking, axis=1) + 1
    precisions: dict[int, list[float]] = {10: [], 16: []}
    for row in found.rows:
        query = captions.index(row.query)
        ranks = sorted(int(place[query, clips.index(name)]) for name in row.clips)
        for k, all_of_k in precisions.items():
            inside = [(i + 1) / rank for i, rank in enumerate(ranks) if rank <= k]
            all_of_k.append(sum(inside) / len(ranks))
    for k, all_of_k in precisions.items():
        assert len(all_of_k) == 1_037
        expected[f"text_to_audio_multi_mAP@{k}"] = float(np.mean(all_of_k))

    relevant, left_out = join_relevance(found, captions, clips)
    assert left_out == 0
    result = evaluate_similarity(similarity, clip, QUICK, relevant)
    for key, value in expected.items():
        assert 0.01 < value < 0.9
        assert result.scores[key].value == pytest.approx(value, abs=1e-9), key
