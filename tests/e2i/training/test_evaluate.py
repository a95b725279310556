"""Evaluation of a checkpoint on a cache: unseen clips, same encoders."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from e2i.errors import (
    CacheError,
    CheckpointError,
    ConfigError,
    FingerprintMismatchError,
    SeenClipsError,
)
from e2i.heads.clip_roles import clip_digest
from e2i.heads.config import HeadsConfig
from e2i.retrieval.config import EvaluationConfig
from e2i.retrieval.relevance import parse_relevance
from e2i.training.config import TrainingConfig
from e2i.training.evaluate import Extras, evaluate_checkpoint
from e2i.training.pairs import clip_keys
from e2i.training.train import train_heads

HEADS = HeadsConfig(hidden_dim=16, out_dim=8)
PLAIN = EvaluationConfig(bootstrap_resamples=50)
CONFIG = TrainingConfig(epochs=1, batch_size=32, device="cpu")


@pytest.fixture(scope="module")
def checkpoint(make_cache):
    """Trained on `development`, selected on `validation`."""
    return train_heads([make_cache()], make_cache(split="validation"), HEADS, CONFIG).checkpoint


@pytest.fixture(scope="module")
def held_out(make_cache):
    """Trained on one cache with parts held out of it."""
    return train_heads([make_cache()], None, HEADS, CONFIG).checkpoint


def test_unseen_clips_are_scored_all(make_cache, checkpoint):
    cache = make_cache(40, split="evaluation")
    result = evaluate_checkpoint(checkpoint, cache, PLAIN)
    assert (result.seen, result.part, result.notes) == (False, "all", ())
    assert (result.retrieval.num_clips, result.retrieval.num_captions) == (40, 120)
    assert (result.clip_ids, result.caption_ids) == (cache.clip_ids, cache.caption_ids)
    score = result.retrieval.scores["text_to_audio_R@10"]
    assert score.low < score.high
    assert score.chance == pytest.approx(0.25)


def test_batch_size_changes_no_value(make_cache, checkpoint):
    cache = make_cache(40, split="evaluation")
    one, many = (
        evaluate_checkpoint(checkpoint, cache, PLAIN, batch_size=size).retrieval.scores
        for size in (1, 1024)
    )
    assert one.keys() == many.keys()
    for name, score in one.items():
        assert score.value == pytest.approx(many[name].value, abs=1e-6)


@pytest.mark.parametrize(
    ("split", "trained_on", "chosen_by"), [("development", 60, 0), ("validation", 0, 60)]
)
def test_seen_clips_are_refused(make_cache, checkpoint, split, trained_on, chosen_by):
    with pytest.raises(SeenClipsError) as caught:
        evaluate_checkpoint(checkpoint, make_cache(split=split), PLAIN)
    assert str(caught.value) == (
        f"the checkpoint has seen clips of synthetic/{split} (memory://{split}): got {trained_on} "
        f"that it was trained on and {chosen_by} that its epoch was chosen by, of 60 clips, the "
        f"first '{split} 0 #[%].wav', expected none. Evaluate on another cache, or pass "
        "--allow-seen to get scores marked as seen."
    )


def test_one_seen_clip_is_enough_to_refuse(make_cache, checkpoint):
    cache = make_cache(40, split="evaluation")
    ids = ("development 3 #[%].wav", *cache.clip_ids[1:])
    mixed = dataclasses.replace(cache, clip_ids=ids, split="development")
    with pytest.raises(SeenClipsError, match=r"got 1 that .* first 'development 3 #\[%\].wav'"):
        evaluate_checkpoint(checkpoint, mixed, PLAIN)


def test_the_same_name_in_another_split_or_data_set_is_another_clip(make_cache, checkpoint):
    for change in ({"split": "evaluation"}, {"dataset": "other"}):
        cache = dataclasses.replace(make_cache(), **change)
        assert not evaluate_checkpoint(checkpoint, cache, PLAIN).seen


def test_allowed_seen_clips_are_marked(make_cache, checkpoint, held_out):
    for one in (checkpoint, held_out):
        result = evaluate_checkpoint(one, make_cache(), PLAIN, allow_seen=True)
        assert (result.seen, result.part, len(result.clip_ids)) == (True, "all", 60)
        assert result.notes[0] == (
            "Seen: the checkpoint was trained or selected on clips among these."
        )


def test_allowing_marks_nothing_that_was_not_seen(make_cache, checkpoint):
    cache = make_cache(split="evaluation")
    assert not evaluate_checkpoint(checkpoint, cache, PLAIN, allow_seen=True).seen


def test_on_its_own_cache_the_test_part_is_scored(make_cache, held_out):
    cache = make_cache()
    result = evaluate_checkpoint(held_out, cache, PLAIN)
    digests = dict(zip(map(clip_digest, clip_keys(cache)), cache.clip_ids, strict=True))
    expected = {digests[digest] for digest in held_out.clips.test}
    assert set(result.clip_ids) == expected
    assert 0 < len(expected) < 60
    assert len(result.caption_ids) == 3 * len(expected)
    assert {caption.rsplit("#", 1)[0] for caption in result.caption_ids} == expected
    assert (result.seen, result.part) == (False, "test")
    assert result.notes[0] == (
        f"Measured on the {len(expected)} clips held out of synthetic/development for testing, "
        "of 60."
    )


def test_the_test_part_scores_as_a_cache_of_its_own_would(make_cache, held_out):
    cache = make_cache()
    result = evaluate_checkpoint(held_out, cache, PLAIN)
    clips = np.flatnonzero(np.isin(cache.clip_ids, result.clip_ids))
    captions = np.isin(cache.caption_clip, clips)
    alone = dataclasses.replace(
        cache,
        clip_ids=result.clip_ids,
        audio=cache.audio[clips],
        caption_ids=result.caption_ids,
        text=cache.text[captions],
        caption_clip=np.searchsorted(clips, cache.caption_clip[captions]),
    )
    again = evaluate_checkpoint(held_out, alone, PLAIN)
    assert again.part == "all"
    assert again.retrieval.scores == result.retrieval.scores


def test_without_a_test_part_the_cache_is_refused(make_cache):
    config = CONFIG.model_copy(update={"test_fraction": 0.0})
    trained = train_heads([make_cache()], None, HEADS, config).checkpoint
    assert not trained.clips.test
    with pytest.raises(SeenClipsError, match="of 60 clips"):
        evaluate_checkpoint(trained, make_cache(), PLAIN)


def test_too_few_candidates_are_said(make_cache, checkpoint):
    result = evaluate_checkpoint(checkpoint, make_cache(6, 1, split="evaluation"), PLAIN)
    assert result.notes == (
        "Left out, for lack of candidates: text_to_audio_R@10, text_to_audio_mAP@10, "
        "audio_to_text_R@10, audio_to_text_mAP@10 (6 clips, 6 captions).",
    )


@pytest.mark.parametrize("side", ["audio", "text"])
def test_another_encoder_is_named(make_cache, checkpoint, side):
    cache = make_cache(split="evaluation", **{f"{side}_fingerprint": "c0" * 8})
    expected = "a0a0a0a0a0a0a0a0" if side == "audio" else "b0b0b0b0b0b0b0b0"
    with pytest.raises(CheckpointError) as caught:
        evaluate_checkpoint(checkpoint, cache, PLAIN)
    assert str(caught.value) == (
        f"the checkpoint was trained on embeddings of another {side} encoder: got {side} "
        "fingerprint c0c0c0c0c0c0c0c0 in synthetic/evaluation (memory://evaluation), expected "
        f"{expected} as in training. Embed with the same encoder settings, or train on this "
        "cache's encoders."
    )


def test_other_dimensions_are_named(make_cache, checkpoint):
    cache = make_cache(split="evaluation")
    narrow = dataclasses.replace(cache, text=cache.text[:, :5].copy())
    with pytest.raises(
        CheckpointError, match=r"got text dimension 5 in .* expected 16 as in train"
    ):
        evaluate_checkpoint(checkpoint, narrow, PLAIN)


def test_nan_rows_are_refused(make_cache, checkpoint):
    cache = make_cache(split="evaluation")
    cache.text[7, 0] = np.inf
    with pytest.raises(CacheError, match=r"NaN or infinity for 1 of 180 captions"):
        evaluate_checkpoint(checkpoint, cache, PLAIN)


def test_without_a_checkpoint_the_embeddings_are_scored(make_cache):
    cache = make_cache()
    both = dataclasses.replace(cache, text=cache.audio[cache.caption_clip])
    result = evaluate_checkpoint(None, both, PLAIN)
    assert result.retrieval.scores["text_to_audio_R@1"].value == 1.0
    assert (result.seen, result.part) == (False, "all")


def test_without_a_checkpoint_dimensions_have_to_be_equal(make_cache):
    with pytest.raises(CheckpointError) as caught:
        evaluate_checkpoint(None, make_cache(), PLAIN)
    assert str(caught.value) == (
        "without a checkpoint both sides have to lie in one space: got 24 audio and 16 text "
        "dimensions in synthetic/development (memory://development), expected equal ones. "
        "Give --checkpoint."
    )


@pytest.fixture(scope="module")
def other(make_cache):
    """The same clips and selection, another seed."""
    config = CONFIG.model_copy(update={"seed": 14})
    return train_heads([make_cache()], make_cache(split="validation"), HEADS, config).checkpoint


def values(result):
    return {name: score.value for name, score in result.retrieval.scores.items()}


def test_an_ensemble_adds_up_similarities(make_cache, checkpoint, other):
    cache = make_cache(40, split="evaluation")
    one, two = (evaluate_checkpoint(c, cache, PLAIN) for c in (checkpoint, other))
    both = evaluate_checkpoint(checkpoint, cache, PLAIN, extras=Extras(others=(other,)))
    (summed,) = both.similarity.text_to_audio(1_000)
    expected = sum(next(r.similarity.text_to_audio(1_000)) for r in (one, two))
    np.testing.assert_allclose(summed, expected, atol=1e-6)
    np.testing.assert_allclose(both.text @ both.audio.T, expected, atol=1e-6)
    assert both.notes == ("An ensemble: the similarities of 2 checkpoints, added up.",)
    back = evaluate_checkpoint(other, cache, PLAIN, extras=Extras(others=(checkpoint,)))
    assert values(back) == pytest.approx(values(both), abs=1e-9)


def test_an_ensemble_of_one_checkpoint_twice_is_that_checkpoint(make_cache, checkpoint):
    cache = make_cache(40, split="evaluation")
    twice = evaluate_checkpoint(checkpoint, cache, PLAIN, extras=Extras(others=(checkpoint,)))
    assert values(twice) == pytest.approx(values(evaluate_checkpoint(checkpoint, cache, PLAIN)))


def test_every_member_of_an_ensemble_has_to_be_unseen(make_cache, checkpoint, other):
    elsewhere = train_heads(
        [make_cache(split="elsewhere")], make_cache(split="validation"), HEADS, CONFIG
    ).checkpoint
    extras = Extras(others=(checkpoint,))
    with pytest.raises(SeenClipsError, match=r"has seen clips of synthetic/development .* got 60"):
        evaluate_checkpoint(elsewhere, make_cache(), PLAIN, extras=extras)
    seen = evaluate_checkpoint(elsewhere, make_cache(), PLAIN, allow_seen=True, extras=extras)
    assert seen.seen
    assert seen.notes[0].startswith("Seen: ")


def test_members_that_hold_other_clips_out_are_refused(make_cache, held_out):
    config = CONFIG.model_copy(update={"seed": 14})
    second = train_heads([make_cache()], None, HEADS, config).checkpoint
    with pytest.raises(SeenClipsError, match=r"hold different clips of synthetic/development .* o"):
        evaluate_checkpoint(held_out, make_cache(), PLAIN, extras=Extras(others=(second,)))
    same = evaluate_checkpoint(held_out, make_cache(), PLAIN, extras=Extras(others=(held_out,)))
    assert (same.part, same.seen) == ("test", False)


def test_a_member_by_another_encoder_is_named(make_cache, checkpoint):
    changes = {"audio_fingerprint": "c0" * 8}
    foreign = train_heads(
        [make_cache(**changes)], make_cache(split="validation", **changes), HEADS, CONFIG
    ).checkpoint
    with pytest.raises(CheckpointError, match="another audio encoder: got audio fingerprint a0a0"):
        evaluate_checkpoint(
            checkpoint,
            make_cache(split="evaluation"),
            PLAIN,
            extras=Extras(others=(foreign,)),
        )


def test_distractors_are_candidates_and_never_right(make_cache, checkpoint):
    cache, others = make_cache(30, split="evaluation"), make_cache(50, 2, split="extra")
    plain = evaluate_checkpoint(checkpoint, cache, PLAIN)
    more = evaluate_checkpoint(checkpoint, cache, PLAIN, extras=Extras(distractors=others))
    assert (more.retrieval.num_clips, more.retrieval.num_captions) == (30, 90)
    assert more.retrieval.text_to_audio.ranks.num_candidates == 80
    assert more.retrieval.audio_to_text.ranks.num_candidates == 190
    assert more.retrieval.scores["text_to_audio_R@10"].chance == pytest.approx(1 / 8)
    for name, value in values(plain).items():
        if "rank" in name:
            assert values(more)[name] >= value
        else:
            assert values(more)[name] <= value
    assert values(more)["text_to_audio_R@5"] < values(plain)["text_to_audio_R@5"]
    assert more.notes == (
        "Among the candidates are 50 clips and 100 captions of synthetic/extra (memory://extra) "
        "that are never right.",
    )
    assert more.distractor_ids[0] == "synthetic/extra/extra 0 #[%].wav"
    # The first rows are those of the evaluation alone.
    (block,) = more.similarity.text_to_audio(1_000)
    np.testing.assert_allclose(
        block[:, :30], next(plain.similarity.text_to_audio(1_000)), atol=1e-6
    )


def test_distractors_must_be_others_and_unseen(make_cache, checkpoint):
    cache = make_cache(30, split="evaluation")
    with pytest.raises(ConfigError, match="distractors are clips of the evaluation: got 30 in bo"):
        evaluate_checkpoint(checkpoint, cache, PLAIN, extras=Extras(distractors=cache))
    extras = Extras(distractors=make_cache())
    with pytest.raises(SeenClipsError, match="has seen distractors: got 60 clips of synthetic/dev"):
        evaluate_checkpoint(checkpoint, cache, PLAIN, extras=extras)
    result = evaluate_checkpoint(checkpoint, cache, PLAIN, allow_seen=True, extras=extras)
    assert result.seen
    assert result.notes[0].startswith("Seen: ")
    foreign = make_cache(split="extra", text_fingerprint="c0" * 8)
    with pytest.raises(FingerprintMismatchError, match="got text fingerprint c0c0c0c0c0c0c0c0 in"):
        evaluate_checkpoint(checkpoint, cache, PLAIN, extras=Extras(distractors=foreign))
    broken = make_cache(split="extra")
    broken.audio[3, 1] = np.nan
    with pytest.raises(CacheError, match="NaN or infinity for 1 of 60 clips"):
        evaluate_checkpoint(checkpoint, cache, PLAIN, extras=Extras(distractors=broken))


def test_the_bank_is_of_training_captions_alone(make_cache, checkpoint, held_out):
    cache = make_cache(40, split="evaluation")
    cache = dataclasses.replace(cache, captions=tuple(f"own {n}" for n in range(120)))
    plain = evaluate_checkpoint(checkpoint, cache, PLAIN)
    result = evaluate_checkpoint(checkpoint, cache, PLAIN, extras=Extras(bank=make_cache()))
    assert result.notes == (
        "Text to audio is corrected for hubs with 180 captions of synthetic/development "
        "(memory://development) as the bank; audio to text is as it is.",
    )
    assert values(result)["text_to_audio_mAP@10"] != values(plain)["text_to_audio_mAP@10"]
    assert values(result)["audio_to_text_mAP@10"] == values(plain)["audio_to_text_mAP@10"]
    # On its own cache the bank is what was trained on, not what was held out.
    own = evaluate_checkpoint(held_out, make_cache(), PLAIN, extras=Extras(bank=make_cache()))
    trained = 3 * len(held_out.clips.train)
    assert f"with {trained} captions of synthetic/development" in own.notes[-1]


def test_captions_of_the_evaluation_are_no_bank(make_cache, checkpoint):
    cache = make_cache(40, split="evaluation")
    with pytest.raises(ConfigError, match="the bank holds captions of the evaluation: got 40 of"):
        evaluate_checkpoint(checkpoint, cache, PLAIN, extras=Extras(bank=cache))
    # Word for word the same: "caption 0" to "caption 119" stand in both.
    result = evaluate_checkpoint(checkpoint, cache, PLAIN, extras=Extras(bank=make_cache()))
    assert "with 60 captions of synthetic/development" in result.notes[-1]
    with pytest.raises(ConfigError, match="the bank of captions is empty: got none in synthetic/"):
        evaluate_checkpoint(checkpoint, cache, PLAIN, extras=Extras(bank=make_cache(40)))


def test_an_ensemble_is_corrected_by_the_ensembles_own_bank(make_cache, checkpoint, other):
    cache = make_cache(40, split="evaluation")
    extras = Extras(others=(checkpoint,), bank=make_cache())
    twice = evaluate_checkpoint(checkpoint, cache, PLAIN, extras=extras)
    (block,) = twice.similarity.text_to_audio(1_000)
    assert block.shape == (120, 40)
    # The same heads twice are the same heads: the correction may not count them double.
    once = evaluate_checkpoint(checkpoint, cache, PLAIN, extras=Extras(bank=make_cache()))
    assert values(twice) == pytest.approx(values(once), abs=1e-9)
    mixed = Extras(others=(other,), bank=make_cache())
    assert values(evaluate_checkpoint(checkpoint, cache, PLAIN, extras=mixed)) != values(twice)


def test_relevant_clips_are_counted_and_noted(make_cache, checkpoint):
    cache = make_cache(40, split="evaluation")
    rows = [f"caption {n},\"['{cache.clip_ids[n]}', '{cache.clip_ids[n + 1]}']\"" for n in range(9)]
    data = "\n".join(["query,audio_filenames", *rows]).encode()
    relevance = parse_relevance(data, "memory://r.csv")
    result = evaluate_checkpoint(checkpoint, cache, PLAIN, extras=Extras(relevance=relevance))
    assert 0 < values(result)["text_to_audio_multi_mAP@16"] <= 1
    assert result.notes == (
        "text_to_audio_multi is over the 9 captions of which memory://r.csv says which clips "
        "answer them.",
    )


def test_on_the_test_part_rows_about_other_clips_are_left_out(make_cache, held_out):
    cache = make_cache()
    rows = [f"caption {3 * n},['{clip}']" for n, clip in enumerate(cache.clip_ids)]
    data = "\n".join(["query,audio_filenames", *rows]).encode()
    relevance = parse_relevance(data, "memory://r.csv")
    result = evaluate_checkpoint(held_out, cache, PLAIN, extras=Extras(relevance=relevance))
    kept = len(result.clip_ids)
    assert result.retrieval.multi is not None
    assert len(result.retrieval.multi.query) == kept
    assert f"{60 - kept} of its rows are about captions or clips that are not" in result.notes[-1]
