"""Captions to embeddings without weights: hashed words, word pairs, places and characters.

Conventions: captions are compared in NFKC form and small letters; a word is a run of letters,
digits and apostrophes. Each feature goes to one bucket of its block with a sign, both from a
BLAKE2b hash of its text, so that the same caption has the same embedding on any machine. Weights
are sublinear in how often a feature occurs; function words count less, by a fixed list. There are
no statistics of the data: a caption's embedding depends on its text alone.

Words count as they are and by a simple English stem. What makes the order of events visible,
besides pairs of words: in which third of the caption a word stands, and which words of time (then,
before, after, while, ...) stand before and after it.

Source: K. Weinberger et al., "Feature hashing for large scale multitask learning", ICML 2009;
P. Bojanowski et al., "Enriching word vectors with subword information", TACL 2017 (character
n-grams within word boundaries).
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from e2i.encoders.protocols import Settings

_VERSION = 1
_EMPTY = "<empty>"

# Buckets and weight of each block. Each block has length 1 before it is weighted.
_BLOCKS: tuple[tuple[str, int, float], ...] = (
    ("words", 384, 1.0),
    ("pairs", 256, 0.4),
    ("places", 256, 0.4),
    ("characters", 128, 0.8),
)
_DIM = sum(buckets for _, buckets, _ in _BLOCKS)
_FUNCTION_WORD_LIST = (
    "a an and are as at be been being by can could each for from had has have he her his how in "
    "into is it its itself like of off on one's onto or other out over she so some such that the "
    "their them there these they this those through to under up was were which who will with "
    "would you your"
)
_FUNCTION_WORDS = frozenset(_FUNCTION_WORD_LIST.split())
_FUNCTION_WEIGHT = 0.25
_TIME_WORD_LIST = (
    "after afterwards again also as before during finally first followed following follows last "
    "later next once since soon suddenly then together twice until when whereas while"
)
_TIME_WORDS = frozenset(_TIME_WORD_LIST.split())
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_CACHED_LETTERS = 40


class HashingEncoder:
    """Feature hashing of captions; `settings` says with which features.

    Args:
        normalize: give each embedding length 1.
    """

    def __init__(self, *, normalize: bool = True) -> None:
        self._normalize = normalize

    @property
    def dim(self) -> int:
        """D, the length of an embedding."""
        return _DIM

    @property
    def settings(self) -> Settings:
        """All that changes its values."""
        return hashing_settings(normalize=self._normalize)

    def encode(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """Embed captions, each alone: float32 (B, D) in the order given.

        A caption without any word (empty, punctuation only) has an embedding of its own, not zero.
        """
        embeddings = np.empty((len(captions), _DIM), dtype=np.float32)
        for row, caption in enumerate(captions):
            embedding = _embed(caption)
            embeddings[row] = (
                embedding / np.linalg.norm(embedding) if self._normalize else embedding
            )
        return embeddings


def hashing_settings(*, normalize: bool) -> dict[str, str | int | float | bool | None]:
    """What `HashingEncoder.settings` is, without making one."""
    return {
        "encoder": "hashing",
        "version": _VERSION,
        "dim": _DIM,
        "blocks": " ".join(f"{name}:{buckets}:{weight}" for name, buckets, weight in _BLOCKS),
        "function_word_weight": _FUNCTION_WEIGHT,
        "normalize": normalize,
    }


def _embed(caption: str) -> NDArray[np.float64]:
    words = _words(caption)
    features = {
        "words": _word_features(words),
        "pairs": _pair_features(words),
        "places": _place_features(words),
    }
    blocks = []
    for name, buckets, weight in _BLOCKS:
        if name == "characters":
            block = _characters(words, buckets)
        else:
            block = _hashed(features[name], name, buckets)
        length = float(np.linalg.norm(block))
        blocks.append(block * (weight / length) if length > 0 else block)
    embedding = np.concatenate(blocks)
    return embedding if embedding.any() else _embed("")


def _words(caption: str) -> list[str]:
    text = unicodedata.normalize("NFKC", caption).casefold().replace("’", "'")
    return _WORD.findall(text) or [_EMPTY]


def _hashed(features: dict[str, float], block: str, buckets: int) -> NDArray[np.float64]:
    places = [_place(block, feature, buckets) for feature in features]
    signs = np.array([sign for _, sign in places], dtype=np.float64)
    hashed = np.zeros(buckets)
    np.add.at(hashed, [bucket for bucket, _ in places], signs * np.array([*features.values()]))
    return hashed


@lru_cache(maxsize=2**17)
def _place(block: str, feature: str, buckets: int) -> tuple[int, float]:
    digest = hashlib.blake2b(f"{block}\0{feature}".encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "little")
    return (number >> 1) % buckets, 1.0 if number & 1 else -1.0


def _weight(word: str) -> float:
    return _FUNCTION_WEIGHT if word in _FUNCTION_WORDS else 1.0


def _sublinear(counts: Counter[tuple[str, float]]) -> dict[str, float]:
    return {feature: weight * (1 + math.log(n)) for (feature, weight), n in counts.items()}


def _word_features(words: list[str]) -> dict[str, float]:
    """Words, and the stems of content words."""
    features = [(word, _weight(word)) for word in words]
    features += [("=" + _stem(word), 1.0) for word in words if word not in _FUNCTION_WORDS]
    return _sublinear(Counter(features))


def _stem(word: str) -> str:
    """Without the commonest English endings: barks, barked, barking are bark."""
    for ending in ("ing", "ed", "es", "s", "e"):
        stem = word.removesuffix(ending)
        if stem != word and len(stem) >= 3 and not word.endswith("ss"):
            doubled = stem[-1] == stem[-2] and ending in {"ing", "ed"}
            return stem[:-1] if doubled else stem
    return word


def _pair_features(words: list[str]) -> dict[str, float]:
    """Neighbors, and pairs of content words with one or two function words in between."""
    neighbors = [
        (f"{a} {b}", max(0.5 * _weight(a) + 0.5 * _weight(b), 0.25)) for a, b in pairwise(words)
    ]
    content = [word for word in words if word not in _FUNCTION_WORDS]
    skipped = [(f"{a} ~ {b}", 1.0) for a, b in pairwise(content)]
    return _sublinear(Counter(neighbors + skipped))


def _place_features(words: list[str]) -> dict[str, float]:
    """Where content words stand: third of the caption, words of time before and after."""
    features: list[tuple[str, float]] = []
    after = _next_time_words(words)
    before = "^"
    for place, word in enumerate(words):
        if word in _TIME_WORDS:
            before = word
        elif word not in _FUNCTION_WORDS:
            third = 3 * place // len(words)
            features.append((f"{word} @{third}", 1.0))
            features.append((f"{before} < {word}", 1.0))
            features.append((f"{word} < {after[place]}", 1.0))
    return _sublinear(Counter(features))


def _next_time_words(words: list[str]) -> list[str]:
    following, current = [""] * len(words), "$"
    for place in range(len(words) - 1, -1, -1):
        following[place] = current
        if words[place] in _TIME_WORDS:
            current = words[place]
    return following


def _characters(words: list[str], buckets: int) -> NDArray[np.float64]:
    """Sum over the words of their character n-grams, each word with length 1 or less."""
    block = np.zeros(buckets)
    for word, n in Counter(words).items():
        spelled = _cached_spelling if len(word) <= _CACHED_LETTERS else _spelling
        block += spelled(word, buckets) * (_weight(word) * (1 + math.log(n)))
    return block


def _spelling(word: str, buckets: int) -> NDArray[np.float64]:
    """Each run of 3 to 5 characters, the word's ends marked, once."""
    marked = f"<{word}>"
    grams = {marked[i : i + n] for n in (3, 4, 5) for i in range(len(marked) - n + 1)}
    places = [_place("characters", gram, buckets) for gram in sorted(grams)]
    spelling = np.bincount(
        [bucket for bucket, _ in places], [sign for _, sign in places], minlength=buckets
    )
    return spelling / math.sqrt(len(grams))


_cached_spelling = lru_cache(maxsize=2**14)(_spelling)
