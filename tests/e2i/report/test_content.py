from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import e2i
from e2i.code_version import code_sha256
from e2i.errors import CacheError, ConfigError
from e2i.report.config import ReportConfig
from e2i.report.content import ScoredModel, report_content
from e2i.retrieval.config import EvaluationConfig

PLAIN = EvaluationConfig(bootstrap_resamples=0)


def test_models_stand_side_by_side_with_their_scores(make_cache, make_content, scored):
    content = make_content()
    models = scored(make_cache())
    assert [model.name for model in content.models] == ["MLP", "as they are"]
    assert (content.dataset, content.split, content.part) == ("synthetic", "evaluation", "all")
    assert (content.num_clips, content.num_captions) == (30, 60)
    assert content.headline == "text_to_audio_R@10"
    for shown, model in zip(content.models, models, strict=True):
        assert shown.scores == model.evaluation.retrieval.scores
        within_ten = sum(shown.rank_shares[: content.rank_labels.index("6–10") + 1])
        assert within_ten == pytest.approx(shown.scores["text_to_audio_R@10"].value)
    assert sum(content.rank_chance) == pytest.approx(1.0)
    assert content.rank_chance[0] == pytest.approx(1 / 30)


def test_the_curve_is_the_checkpoints_history(make_content, checkpoint):
    trained, as_they_are = make_content().models
    history = checkpoint.record.history
    assert as_they_are.curve is None
    assert trained.curve.epochs == (1, 2, 3)
    assert trained.curve.train_loss == tuple(epoch.train_loss for epoch in history)
    assert trained.curve.validation_loss == tuple(epoch.metrics["val_loss"] for epoch in history)
    assert trained.curve.metric == "text_to_audio_mAP@10"
    best = trained.curve.epochs.index(trained.curve.best_epoch)
    assert trained.curve.values[best] == max(trained.curve.values)


def test_groups_part_the_captions_and_average_to_the_score(make_content):
    content = make_content(bins=3)
    by_length, by_duration = content.breakdowns
    assert [(g.low, g.high, g.num_captions, g.num_clips) for g in by_length.groups] == [
        (4.0, 4.0, 30, 30),
        (5.0, 5.0, 30, 30),
    ]
    assert [(g.num_captions, g.num_clips) for g in by_duration.groups] == [(20, 10)] * 3
    assert (by_duration.groups[0].low, by_duration.groups[-1].high) == (1.0, 9.0)
    for breakdown in content.breakdowns:
        for column, model in enumerate(content.models):
            mean = np.average(
                [group.scores[column].value for group in breakdown.groups],
                weights=[group.num_captions for group in breakdown.groups],
            )
            assert mean == pytest.approx(model.scores[content.headline].value)


def test_few_clips_take_the_largest_recall_there_is(make_cache, make_content):
    assert make_content(make_cache(clips=7)).headline == "text_to_audio_R@5"
    alone = make_content(make_cache(clips=1))
    assert alone.headline == "text_to_audio_R@1"
    assert (alone.rank_labels, alone.models[0].rank_shares) == (("1",), (1.0,))


def test_images_come_from_all_over_the_split(make_cache, make_content):
    cache = make_cache()
    content = make_content(sheet_clips=3)
    assert [row.name for row in content.images] == [cache.clip_ids[i] for i in (0, 14, 29)]
    assert [row.caption for row in content.images] == [f"clip {i} is heard" for i in (0, 14, 29)]
    assert {row.audio.shape for row in content.images} == {(3, 2, 2)}
    assert make_content(sheet_clips=0).images == ()
    assert len(make_content(sheet_clips=60).images) == 30


def test_examples_say_what_was_found_instead(make_content):
    content = make_content()
    assert (len(content.best), len(content.worst)) == (2, 2)
    for query in (*content.best, *content.worst):
        assert len(query.found) == 3
        assert query.right.is_right
        assert query.right.caption.startswith(query.caption.removesuffix(" far"))
        assert [clip.score for clip in query.found] == sorted(
            (clip.score for clip in query.found), reverse=True
        )
        assert query.is_found == (query.rank <= 3)
    assert content.best[0].rank == 1
    assert content.best[0].found[0] == content.best[0].right
    assert content.worst[0].rank > content.best[0].rank
    assert make_content(examples=0).best == ()


def test_recordings_go_to_the_right_clips_of_the_worst_first(make_content, wav):
    asked = []

    def load(clip_id):
        asked.append(clip_id)
        return wav

    content = make_content(load_recording=load, max_recordings_bytes=2 * len(wav))
    with_sound = [q.right.clip_id for q in content.worst if q.right.recording]
    assert with_sound == [query.right.clip_id for query in content.worst]
    assert not any(query.right.recording for query in content.best)
    assert len(asked) == len(set(asked))
    unlimited = make_content(load_recording=load)
    for query in (*unlimited.best, *unlimited.worst):
        assert {clip.recording.data for clip in (query.right, *query.found)} == {wav}


def test_a_recording_that_cannot_be_had_is_left_out(make_content):
    content = make_content(load_recording=lambda _: None)
    assert {query.right.recording for query in content.worst} == {None}


def test_seen_is_said_with_the_models_that_it_concerns(make_cache, make_content):
    cache = make_cache("development")
    content = make_content(cache, allow_seen=True)
    assert content.seen
    assert [model.seen for model in content.models] == [True, False]
    seen = "Seen: the checkpoint was trained or selected on clips among these."
    assert f"MLP: {seen}" in content.notes
    assert seen in make_content(cache, allow_seen=True, models=1).notes


def test_provenance_names_data_encoders_and_weights(make_content, checkpoint):
    facts = make_content().provenance
    assert list(facts) == [
        *("Data", "Audio encoder", "Text encoder", "Model MLP", "Model as they are", "Evaluation")
    ]
    assert facts["Data"]["cache"] == "memory://evaluation"
    assert facts["Audio encoder"] == {
        "fingerprint": "a0" * 8,
        "dim": "12",
        "encoder": "logmel",
        "n fft": "1024",
    }
    model = facts["Model MLP"]
    assert model["checkpoint"] == "memory://checkpoints/heads.safetensors"
    assert model["checkpoint sha256"] == "ab" * 32
    assert model["seed"] == "13"
    assert model["epoch"].startswith(f"{checkpoint.record.best_epoch} of 3, chosen by")
    assert "synthetic/development (train, 30 clips, 60 captions)" in model["caches"]
    assert not [name for name in model if name.startswith("vision")]
    assert facts["Evaluation"]["code"] == f"e2i {e2i.__version__}, sha256 {code_sha256()}"


def test_models_have_to_be_comparable(make_cache, scored):
    cache = make_cache()
    first, second = scored(cache)
    config = ReportConfig()
    with pytest.raises(ConfigError) as caught:
        report_content([], cache, PLAIN, config)
    assert str(caught.value) == (
        "a report needs scores: got 0 models, expected at least 1. Evaluate one first."
    )
    with pytest.raises(ConfigError) as caught:
        report_content([first, dataclasses.replace(second, name="MLP")], cache, PLAIN, config)
    assert str(caught.value) == (
        "two models of a report share a name: got MLP, MLP, expected a name each. Rename one."
    )
    fewer = scored(make_cache(clips=20))[1]
    with pytest.raises(ConfigError) as caught:
        report_content([first, ScoredModel("CNN", fewer.evaluation)], cache, PLAIN, config)
    assert str(caught.value) == (
        "models side by side were scored on different clips or captions: got 20 clips and 40 "
        "captions for CNN, expected the 30 and 60 of MLP. Evaluate both on one cache, or write a "
        "report each."
    )
    with pytest.raises(CacheError, match=r"the scores are of another cache: got clip"):
        report_content([first], make_cache("other"), PLAIN, config)


def test_what_is_not_known_is_left_out_or_named_by_its_id(make_cache, make_content):
    unknown = make_cache(captions=("",) * 60, duration_s=np.full(30, np.nan))
    content = make_content(unknown)
    assert content.breakdowns == ()
    ids = set(unknown.caption_ids)
    assert {row.caption for row in content.images} <= ids
    assert {query.caption for query in (*content.best, *content.worst)} <= ids
    assert {clip.caption for query in content.best for clip in query.found} <= ids
    known = make_content(make_cache(duration_s=np.full(30, np.nan)))
    assert [breakdown.name for breakdown in known.breakdowns] == ["caption length"]
