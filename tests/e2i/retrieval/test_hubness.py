"""The correction for hubs against the published quotient, written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from e2i.errors import RetrievalInputError
from e2i.retrieval.config import EvaluationConfig
from e2i.retrieval.evaluation import evaluate_similarity
from e2i.retrieval.hubness import HubnessCorrected
from e2i.retrieval.similarity import CosineSimilarity

QUICK = EvaluationConfig(bootstrap_resamples=0)


def world(num_clips=12, captions=3, bank=20, width=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    audio = torch.randn(num_clips, width, generator=generator)
    clip = torch.arange(num_clips).repeat_interleave(captions)
    text = audio[clip] + 1.2 * torch.randn(len(clip), width, generator=generator)
    return text, audio, clip.numpy(), torch.randn(bank, width, generator=generator)


def published(similarity, bank):
    """exp(β s) over the bank's sum, for captions whose best clip is a best clip of the bank."""
    scores, bank_scores = similarity.double().numpy(), bank.double().numpy()
    hubs = set(bank_scores.argmax(axis=1).tolist())
    quotient = np.exp(20 * scores) / np.exp(20 * bank_scores).sum(axis=0)
    chosen = np.array([int(row.argmax()) in hubs for row in scores])
    return np.where(chosen[:, None], quotient, scores), chosen


@pytest.mark.parametrize("block", [1, 7, 512])
def test_orders_candidates_as_the_published_quotient(block):
    text, audio, _, bank = world()
    plain = CosineSimilarity(text, audio)
    against = CosineSimilarity(bank, audio)
    (scores,) = plain.text_to_audio(1000)
    (bank_scores,) = against.text_to_audio(1000)
    expected, chosen = published(scores, bank_scores)
    assert 0 < chosen.sum() < len(chosen)
    corrected = torch.cat(list(HubnessCorrected(plain, against, block).text_to_audio(block)))
    np.testing.assert_array_equal(
        np.argsort(-corrected.numpy(), axis=1), np.argsort(-expected, axis=1)
    )
    torch.testing.assert_close(corrected[~torch.from_numpy(chosen)], scores.double()[~chosen])
    logs = np.log(expected[chosen]) / 20
    np.testing.assert_allclose(corrected.numpy()[chosen], logs, atol=1e-9)


@pytest.mark.parametrize("models", [2, 3])
def test_several_equal_models_are_corrected_as_one_of_them(models):
    text, audio, _, bank = world()
    alone = HubnessCorrected(CosineSimilarity(text, audio), CosineSimilarity(bank, audio), 64)
    together = HubnessCorrected(
        CosineSimilarity([text] * models, [audio] * models),
        CosineSimilarity([bank] * models, [audio] * models),
        64,
        num_models=models,
    )
    (one,), (several,) = alone.text_to_audio(1000), together.text_to_audio(1000)
    torch.testing.assert_close(several / models, one, rtol=0, atol=1e-6)
    assert not torch.allclose(one, next(CosineSimilarity(text, audio).text_to_audio(1000)).double())


def test_a_hub_comes_down():
    # Clip 0 lies in the middle of everything and is closest to all captions.
    generator = torch.Generator().manual_seed(3)
    middle = torch.full((16,), 1.0)
    audio = torch.randn(30, 16, generator=generator) + 0.4 * middle
    audio[0] = middle
    clip = torch.arange(1, 30).repeat_interleave(4)
    text = audio[clip] + 0.9 * torch.randn(len(clip), 16, generator=generator) + middle
    text, clip = torch.cat([text, middle[None]]), np.append(clip.numpy(), 0)
    bank = audio[torch.randint(1, 30, (200,), generator=generator)]
    bank = bank + 0.9 * torch.randn(200, 16, generator=generator) + middle
    plain = CosineSimilarity(text, audio)
    corrected = HubnessCorrected(plain, CosineSimilarity(bank, audio), 64)
    before, after = (evaluate_similarity(one, clip, QUICK).scores for one in (plain, corrected))
    key = "text_to_audio_mAP@10"
    assert after[key].value > before[key].value + 0.05
    assert after["audio_to_text_mAP@10"] == before["audio_to_text_mAP@10"]


def test_equal_clips_stay_tied_and_a_constant_scorer_gets_chance():
    text, audio, clip, bank = world()
    audio[5] = audio[2]
    one = HubnessCorrected(CosineSimilarity(text, audio), CosineSimilarity(bank, audio), 8)
    for block in one.text_to_audio(10):
        assert torch.equal(block[:, 5], block[:, 2])
    audio = audio[:1].expand(12, -1)
    one = HubnessCorrected(CosineSimilarity(text, audio), CosineSimilarity(bank, audio), 8)
    for key, score in evaluate_similarity(one, clip, QUICK).scores.items():
        if key.startswith("text_to_audio"):
            assert score.value == score.chance


def test_an_empty_bank_is_an_error():
    text, audio, _, _ = world()
    plain = CosineSimilarity(text, audio)
    nothing = CosineSimilarity(text, audio, num_captions=0)
    with pytest.raises(RetrievalInputError, match="the bank of captions is empty: got 0"):
        HubnessCorrected(plain, nothing, 8)
