"""Captions to embeddings by any transformers text model: RoBERTa, BERT, MiniLM, MPNet, GPT-2, ...

Conventions: captions are tokenized without padding, cut to `max_length` tokens, sorted by length
into batches of about equal work, padded on the right with a mask, and put back in order. `mean` is
the mean of the last layer over all tokens that are not padding, special ones included; `first` its
first token, without a pooler. Pooling and normalization are in float32.

A caption always has an embedding: one without any token (some tokenizers add no special ones) is
read as a single end-of-text token, and a lone surrogate as the replacement character.

Source: mean pooling after N. Reimers and I. Gurevych, "Sentence-BERT", EMNLP 2019; `first` and the
caption form `dcase2025` after the baseline of DCASE 2025 Task 6.
"""

from __future__ import annotations

import string
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e2i.encoders.batching import halved_if_too_large, length_batches
from e2i.encoders.config import EncodersConfig
from e2i.encoders.hf_settings import TEXT_MODEL_OPTION, hf_settings
from e2i.encoders.model_files import ModelFiles, model_files
from e2i.encoders.products import strict_float32
from e2i.encoders.protocols import Settings
from e2i.encoders.transformers_loading import (
    load_ready_model,
    load_tokenizer,
    pack_model,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENS_A_BATCH = {"cpu": 512, "mps": 8192, "cuda": 65_536}
"""Tokens of one forward pass by device: what was quickest on a CPU, what keeps a GPU busy."""

_TRIED = "A dog barks far away while rain falls on a tin roof."
_TRIED_LENGTH = 16
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class HfTextEncoder:
    """A transformers model over captions; `settings` says which. Weights load at the first caption.

    Args:
        config: says which model, and how it runs.

    Raises:
        EncoderUnavailableError: the model cannot be had.
        ConfigError: the model does not take captions as long as asked for.
    """

    def __init__(self, config: EncodersConfig) -> None:
        self._config = config
        self._settings = hf_settings(config)
        self._files = model_files(config.text_model, TEXT_MODEL_OPTION, config.models_dir)
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None

    @property
    def dim(self) -> int:
        """D, the length of an embedding."""
        return int(self._settings["dim"] or 0)

    @property
    def settings(self) -> Settings:
        """All that changes its values."""
        return dict(self._settings)

    def encode(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """Embed captions, each alone: float32 (B, D) in the order given.

        Raises:
            EncoderUnavailableError: weights or tokenizer cannot be read.
            MemoryError: one caption alone does not fit.
        """
        loaded = self._ready()
        form = caption_form(str(self._settings["caption_form"]))
        tokens = tokenized(
            loaded.tokenizer,
            [form(caption) for caption in captions],
            int(self._settings["max_length"] or 0),
        )
        embeddings = embedded(
            tokens,
            self.dim,
            partial(_pooled, loaded, str(self._settings["pooling"])),
            loaded.device,
            self._config.batch_size,
        )
        return _unit_length(embeddings) if self._settings["normalize"] else embeddings

    def _ready(self) -> _Loaded:
        with self._lock:
            if self._loaded is None:
                self._loaded = _load(self._files, self._config, self.dim)
            return self._loaded


@dataclass(frozen=True, slots=True)
class Tokens:
    """Captions as a model takes them, without padding.

    Attributes:
        inputs: by name of the model's input: token ids and their like, a list a caption.
        padding: by name: what shorter captions are padded with.
    """

    inputs: dict[str, list[list[int]]]
    padding: dict[str, int]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each caption."""
        return [len(ids) for ids in self.inputs["input_ids"]]

    def batch(self, rows: Sequence[int], device: torch.device) -> dict[str, Tensor]:
        """Some of the captions (B), padded to the longest (L): each (B, L), with the mask."""
        lengths = [len(self.inputs["input_ids"][row]) for row in rows]
        longest = max(lengths)
        padded = {
            name: [ids[row] + [self.padding[name]] * (longest - len(ids[row])) for row in rows]
            for name, ids in self.inputs.items()
        }
        padded["attention_mask"] = [[1] * n + [0] * (longest - n) for n in lengths]
        return {name: torch.tensor(values).to(device) for name, values in padded.items()}


def caption_form(name: str) -> Callable[[str], str]:
    """What is done to a caption before it is tokenized: nothing, or as DCASE's baseline does.

    `dcase2025`: lower case first, then ASCII punctuation taken out ("bird-song" is "birdsong").
    """
    if name == "dcase2025":
        return lambda caption: _valid(caption).lower().translate(_NO_PUNCTUATION)
    return _valid


def _valid(caption: str) -> str:
    """The caption with each lone surrogate replaced: no tokenizer takes one."""
    try:
        caption.encode()
    except UnicodeEncodeError:
        return "".join("\N{REPLACEMENT CHARACTER}" if "\ud800" <= c <= "\udfff" else c
                       for c in caption)  # fmt: skip
    return caption


def tokenized(
    tokenizer: PreTrainedTokenizerBase, captions: Sequence[str], max_length: int
) -> Tokens:
    """Captions as token ids, cut to `max_length` tokens, not padded."""
    if not captions:
        return Tokens({"input_ids": []}, {"input_ids": 0})
    found = tokenizer(
        list(captions), truncation=True, max_length=max_length, return_attention_mask=False
    )
    padding = {"input_ids": tokenizer.pad_token_id or 0}
    inputs = {"input_ids": [list(ids) for ids in found["input_ids"]]}
    if "token_type_ids" in found:
        inputs["token_type_ids"] = [list(ids) for ids in found["token_type_ids"]]
        padding["token_type_ids"] = getattr(tokenizer, "pad_token_type_id", 0)
    ends = (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, 0)
    end = next(token for token in ends if token is not None)
    for row, ids in enumerate(inputs["input_ids"]):
        if not ids:
            inputs["input_ids"][row] = [end]
            if "token_type_ids" in inputs:
                inputs["token_type_ids"][row] = [0]
    return Tokens(inputs, padding)


def embedded(
    tokens: Tokens,
    dim: int,
    forward: Callable[[dict[str, Tensor]], Tensor],
    device: torch.device,
    most_rows: int | None,
) -> NDArray[np.float32]:
    """Embeddings float32 (N, D) of captions, in their order, batch by batch.

    Args:
        tokens: N captions.
        dim: D.
        forward: the model: inputs (B, L) to embeddings (B, D).
        device: where it is.
        most_rows: most captions in a batch.
    """
    embeddings = np.empty((len(tokens.lengths), dim), dtype=np.float32)
    budget = TOKENS_A_BATCH[device.type]

    def run(rows: Sequence[int]) -> Tensor:
        with torch.inference_mode(), strict_float32():
            return forward(tokens.batch(rows, device)).float().cpu()

    for batch in length_batches(tokens.lengths, budget=budget, most_rows=most_rows):
        for rows, result in halved_if_too_large(batch, run):
            embeddings[list(rows)] = result.numpy()
    return embeddings


def _unit_length(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row with length 1; a row of zeros stays."""
    norms = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    return (embeddings / np.where(norms > 0, norms, 1)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What an encoder has in memory."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    device: torch.device


def _load(files: ModelFiles, config: EncodersConfig, dim: int) -> _Loaded:
    """Model and tokenizer, tried on one caption.

    Raises:
        EncoderUnavailableError: they cannot be had, or are not a text encoder.
    """
    model, device = load_ready_model(
        files, TEXT_MODEL_OPTION, "AutoModel", config, without=("pooler",)
    )
    if getattr(model.config, "is_encoder_decoder", False):
        model = model.get_encoder()
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    loaded = _Loaded(model, load_tokenizer(files), device)
    inputs = tokenized(loaded.tokenizer, [_TRIED], _TRIED_LENGTH).batch([0], device)

    def tried() -> Tensor:
        with torch.inference_mode():
            return _pooled(loaded, config.text_pooling, inputs)

    try:
        shape = tried().shape
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise files.unusable(f"the model reads no captions ({type(error).__name__})") from error
    if shape != (1, dim):
        raise files.unusable(f"an embedding has {shape[-1]} dimensions and not {dim}")
    pack_model(loaded.model, tried)
    return loaded


def _pooled(loaded: _Loaded, pooling: str, inputs: dict[str, Tensor]) -> Tensor:
    """(B, L) token ids to float32 (B, D)."""
    hidden: Tensor = loaded.model(**inputs).last_hidden_state.float()
    if pooling == "first":
        return hidden[:, 0]
    mask = inputs["attention_mask"].unsqueeze(-1).float()
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1)
