"""Small transformers models of random weights, stored in the published formats.

They are made by transformers itself, from a configuration and a seed, with a tokenizer trained on a
few sentences; what is under test reads them as it reads published ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, RobertaConfig, RobertaModel
from transformers.models.roberta import RobertaTokenizer

SENTENCES = (
    "A dog barks far away while rain falls on a tin roof.",
    "Water drips, then a door slams and somebody walks away.",
    "Birds sing in a forest; a bird-song answers from the left.",
    "An engine idles, revs up twice and drives off to the right.",
)
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def make_roberta(
    folder: Path,
    *,
    seed: int = 0,
    safe: bool = True,
    std: float = 0.2,
    sentences: Sequence[str] = SENTENCES,
    **changes: object,
) -> Path:
    """A RoBERTa of two layers, its tokenizer beside it.

    Args:
        folder: to be made.
        seed: of the weights.
        safe: as safetensors; else as a PyTorch file.
        std: standard deviation of the weights.
        sentences: that the tokenizer is trained on.
        changes: to the configuration.
    """
    tokenizer = make_tokenizer(sentences)
    options = {
        **{"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 514},
    }
    config = RobertaConfig(**{**options, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _shaken(RobertaModel(config), std)
    model.save_pretrained(folder)
    if not safe:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    tokenizer.save_pretrained(folder)
    return folder


def make_tokenizer(sentences: Sequence[str] = SENTENCES) -> RobertaTokenizer:
    """A byte-level BPE tokenizer like RoBERTa's, with a small vocabulary."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        sentences, vocab_size=400, special_tokens=list(SPECIAL), show_progress=False
    )
    merges = [tuple(merge.split()) for merge in _merges(trained)]
    return RobertaTokenizer(vocab=trained.get_vocab(), merges=merges, model_max_length=512)


def _merges(trained: ByteLevelBPETokenizer) -> list[str]:
    import json

    merges = json.loads(trained.to_str())["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]


def make_clap(folder: Path, *, seed: int = 0, fused: bool = False, dim: int = 16) -> Path:
    """A ClapModel of a few layers, tokenizer and feature extractor beside it."""
    tokenizer = make_tokenizer()
    config = ClapConfig(
        text_config={
            **{"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2},
            **{"num_attention_heads": 4, "intermediate_size": 64, "projection_dim": dim},
        },
        audio_config={
            **{"patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [1, 2]},
            **{"hidden_size": 16, "num_hidden_layers": 2, "spec_size": 128, "num_mel_bins": 16},
            **{"window_size": 4, "projection_dim": dim, "enable_fusion": fused},
        },
        projection_dim=dim,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _shaken(ClapModel(config))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    truncation = "fusion" if fused else "rand_trunc"
    ClapFeatureExtractor(feature_size=16, truncation=truncation).save_pretrained(folder)
    return folder


def _shaken(model: torch.nn.Module, std: float = 0.2) -> torch.nn.Module:
    """Weights drawn anew; by default far enough from nothing that embeddings differ."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=std)
    return model.eval()
