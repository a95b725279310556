"""Stored evaluations: written, found again, compared; and what is refused."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from e2i.errors import ConfigError, ReportError, ReportNotFoundError, SeenClipsError
from e2i.heads.checkpoint import checkpoint_bytes, save_checkpoint
from e2i.report.comparison import compare_scores
from e2i.report.projections import write_projections
from e2i.report.scores import (
    ScoredFile,
    ScoreOrigin,
    score_record,
    write_query_tables,
    write_score_record,
)
from e2i.report.submission import write_submission
from e2i.retrieval.config import ComparisonConfig, EvaluationConfig
from e2i.retrieval.relevance import parse_relevance
from e2i.storage import Folder
from e2i.training.evaluate import Extras, evaluate_checkpoint

CONFIG = ComparisonConfig(resamples=200, flips=199)
PLAIN = EvaluationConfig(bootstrap_resamples=0)
NOTHING = Extras()


@pytest.fixture
def store(checkpoint, make_cache, tmp_path):
    """Stores an evaluation of the checkpoint, or of the embeddings, under a name."""
    folder = Folder(tmp_path)

    def write(name, cache=None, *, heads=None, extras=NOTHING, bank="", allow_seen=False):
        cache = cache or make_cache()
        evaluation = evaluate_checkpoint(
            heads, cache, PLAIN, device="cpu", extras=extras, allow_seen=allow_seen
        )
        files = ()
        if heads is not None:
            digest = hashlib.sha256(checkpoint_bytes(heads)).hexdigest()
            files = (ScoredFile("memory://heads.safetensors", digest),)
        origin = ScoreOrigin(files, heads.record if heads else None, PLAIN, bank=bank)
        record = score_record(evaluation, cache, origin)
        record["queries"] = write_query_tables(folder, name, evaluation)
        return write_score_record(folder, f"{name}.json", record)

    return write


def compared(*urls, reports="memory://none"):
    return compare_scores(*urls, reports, CONFIG)


def test_differences_are_those_of_the_scores(store, checkpoint, scored, make_cache):
    found = compared(store("mlp", heads=checkpoint), store("plain"))
    mlp, plain = (model.evaluation.retrieval.scores for model in scored(make_cache()))
    assert set(found.differences) == set(mlp)
    for key, difference in found.differences.items():
        assert difference.first == pytest.approx(mlp[key].value)
        assert difference.second == pytest.approx(plain[key].value)
        assert difference.value == pytest.approx(difference.first - difference.second)
        assert difference.low <= difference.value <= difference.high
        assert 0 < difference.p <= difference.p_holm <= 1
    assert (found.num_clips, found.num_captions) == (30, 60)
    assert found.notes == (
        "text_to_audio_mAP@10 is tested first, on its own; the p of the other metrics is adjusted "
        "for their number (Holm).",
    )
    assert found.differences["text_to_audio_mAP@10"].p < 0.05


def test_the_order_in_the_cache_does_not_matter(store, checkpoint, make_cache):
    cache = make_cache()
    turned = dataclasses.replace(
        cache,
        clip_ids=cache.clip_ids[::-1],
        audio=cache.audio[::-1],
        caption_clip=29 - cache.caption_clip,
    )
    one, other = store("one", heads=checkpoint), store("other", turned, heads=checkpoint)
    assert {d.value for d in compared(one, other).differences.values()} == {0.0}


def test_checkpoints_are_found_by_their_bytes(store, checkpoint, scored, tmp_path):
    record = store("mlp", heads=checkpoint)
    store("corrected", heads=checkpoint, bank="memory://bank")
    (tmp_path / "evaluation.json").write_text("[]")  # something else beside them
    save_checkpoint(Folder(tmp_path / "elsewhere"), "moved.safetensors", checkpoint)
    plain = store("plain")
    found = compared(str(tmp_path / "elsewhere" / "moved.safetensors"), plain, reports=tmp_path)
    assert found.first.url == record
    assert found.second.url == plain


def test_a_checkpoint_with_several_evaluations_is_not_guessed_at(store, checkpoint, tmp_path):
    for name, bank in (("a", "memory://1"), ("b", "memory://2")):
        store(name, heads=checkpoint, bank=bank)
    plain = store("plain")
    save_checkpoint(Folder(tmp_path), "heads.safetensors", checkpoint)
    with pytest.raises(
        ConfigError, match=r"not clear which evaluations are meant: got a\.json, b\.js"
    ):
        compared(str(tmp_path / "heads.safetensors"), plain, reports=str(tmp_path))


def test_a_checkpoint_without_an_evaluation_is_named(store, checkpoint, tmp_path):
    plain = store("plain")
    save_checkpoint(Folder(tmp_path), "heads.safetensors", checkpoint)
    with pytest.raises(ReportNotFoundError, match="the checkpoint was not evaluated: got no scor"):
        compared(str(tmp_path / "heads.safetensors"), plain, reports=str(tmp_path))
    with pytest.raises(ReportNotFoundError, match="there is no checkpoint: got"):
        compared(str(tmp_path / "none.safetensors"), plain, reports=str(tmp_path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"split": "validation"}, "of different splits: got evaluation in"),
        ({"dataset": "other"}, "of different data sets: got synthetic in"),
        ({"captions": ("x",) * 60}, "of different captions: got captions of digest"),
    ],
)
def test_other_clips_captions_or_data_are_refused(store, make_cache, change, words):
    with pytest.raises(ConfigError, match=words):
        compared(store("one"), store("other", make_cache(**change)))


def test_other_candidates_are_refused(store, make_cache):
    extras = Extras(distractors=make_cache("extra", seed=3))
    with pytest.raises(ConfigError, match="of different distractors: got distractors of digest"):
        compared(store("one"), store("other", extras=extras))


def test_relevance_files_are_compared_where_both_have_them(store, checkpoint, make_cache):
    clips = make_cache().clip_ids

    def extras(count):
        rows = [f"clip {n} is heard,\"['{clips[n]}', '{clips[n + 1]}']\"" for n in range(count)]
        text = "\n".join(["query,audio_filenames", *rows])
        return Extras(relevance=parse_relevance(text.encode(), "memory://r.csv"))

    one = store("one", extras=extras(20))
    found = compared(one, store("two", heads=checkpoint, extras=extras(20)))
    assert "text_to_audio_multi_mAP@16" in found.differences
    assert "text_to_audio_multi_mAP@16" not in compared(one, store("three")).differences
    with pytest.raises(ConfigError, match="of different queries: got 20 and 9 of text_to_audio_mu"):
        compared(one, store("four", extras=extras(9)))


def test_the_same_record_twice_and_other_files_are_refused(store, tmp_path):
    one = store("one")
    with pytest.raises(ConfigError, match="there is nothing to compare: got"):
        compared(one, one)
    with pytest.raises(ReportNotFoundError, match="there are no scores: got"):
        compared(one, str(tmp_path / "none.json"))
    (tmp_path / "odd.json").write_text("{}")
    with pytest.raises(ReportError, match="this is no score record: got"):
        compared(one, str(tmp_path / "odd.json"))
    content = json.loads((tmp_path / "one.json").read_text())
    del content["queries"]
    (tmp_path / "short.json").write_text(json.dumps(content))
    with pytest.raises(ReportError, match=r"lacks entries: got .* without queries, expected"):
        compared(one, str(tmp_path / "short.json"))
    two = store("two")
    (tmp_path / "two" / "text_to_audio.parquet").write_bytes(b"no table")
    with pytest.raises(ReportError, match="queries of a score record cannot be read: got"):
        compared(one, two)
    (tmp_path / "two" / "text_to_audio.parquet").unlink()
    with pytest.raises(ReportNotFoundError, match="queries of a score record are gone: got no"):
        compared(one, two)


def test_seen_is_said_of_what_is_compared_and_stored(store, checkpoint, make_cache, tmp_path):
    cache = make_cache("development")
    seen = store("seen", cache, heads=checkpoint, allow_seen=True)
    found = compared(seen, store("plain", cache))
    assert found.notes[0] == (
        f"Seen: {seen} is of clips that the checkpoint was trained or selected on."
    )
    for name, words in (("seen", b"true"), ("plain", b"false")):
        table = pq.read_table(tmp_path / name / "text_to_audio.parquet")
        assert table.schema.metadata[b"e2i.seen"] == words
    evaluation = evaluate_checkpoint(checkpoint, cache, PLAIN, allow_seen=True, device="cpu")
    write_projections(Folder(tmp_path), "seen.parquet", evaluation, {})
    metadata = pq.read_schema(tmp_path / "seen.parquet").metadata
    assert json.loads(metadata[b"e2i"])["seen"] is True
    with pytest.raises(SeenClipsError, match="predictions of seen clips are no submission: got"):
        write_submission(Folder(tmp_path), "p.csv", evaluation)


def test_a_submission_holds_the_similarities(checkpoint, make_cache):
    cache, folder = make_cache(), Folder("memory://submission")
    extras = Extras(distractors=make_cache("extra", seed=3, clips=4))
    evaluation = evaluate_checkpoint(checkpoint, cache, PLAIN, device="cpu", extras=extras)
    assert write_submission(folder, "p.csv", evaluation) == "memory://submission/p.csv"
    rows = list(csv.reader(io.StringIO(folder.read("p.csv").decode(), newline="")))
    assert rows[0] == ["index", *cache.clip_ids, *evaluation.distractor_ids]
    assert [row[0] for row in rows[1:]] == list(cache.captions)
    (expected,) = evaluation.similarity.text_to_audio(1_000)
    found = np.array([[float(cell) for cell in row[1:]] for row in rows[1:]], dtype=np.float32)
    np.testing.assert_array_equal(found, expected.numpy())


def test_projections_multiply_to_the_similarities(checkpoint, make_cache):
    cache, folder = make_cache(), Folder("memory://projections")
    evaluation = evaluate_checkpoint(checkpoint, cache, PLAIN, device="cpu")
    write_projections(folder, "e.parquet", evaluation, {"split": "evaluation"})
    table = pq.read_table(io.BytesIO(folder.read("e.parquet")))
    rows = table.to_pydict()
    assert rows["side"] == ["audio"] * 30 + ["text"] * 60
    assert rows["id"] == [*cache.clip_ids, *cache.caption_ids]
    assert rows["caption"] == [None] * 30 + list(cache.captions)
    assert rows["clip_id"][30:] == [cache.clip_ids[c] for c in cache.caption_clip]
    projection = np.array(rows["projection"], dtype=np.float32)
    np.testing.assert_allclose(np.linalg.norm(projection, axis=1), 1, atol=1e-6)
    (expected,) = evaluation.similarity.text_to_audio(1_000)
    np.testing.assert_allclose(projection[30:] @ projection[:30].T, expected, atol=1e-6)
    assert json.loads(table.schema.metadata[b"e2i"]) == {"split": "evaluation", "seen": False}
