"""File names as odd as Clotho's, and saying nothing about the sound.

Conventions: twelve positions in a row share one vague word and number, and differ in the signs
around the number alone; a sanitizer that drops or replaces these makes them equal. The number is
unique across splits. Four names stand in every split, as four of Clotho's stand in two.
"""

from __future__ import annotations

import numpy as np

from e2i.datasets.soundscapes.config import SPLITS

_WORDS = (
    "Untitled take",
    "field recording",
    "Zoom H4n",
    "my street",
    "old tape",
    "hallway",
    "Location",
    "backyard",
    "Sunday, early",
    "session",
    "test.final",
    "AMBIENCE",
    "holidays",
    "Track",
    "sound",
    "upstairs",
    "mic check",
    "downtown",
    "new folder",
    "rec",
)
_PATTERNS = (
    "{word} #{number}.wav",
    "{word} [{number}].wav",
    "{word} %{number}.wav",
    "{word} ({number}).wav",
    "{word} &{number}.wav",
    "{word}, {number}.wav",
    "{word} &#39;{number}&#39;.wav",
    "{word}.{number}.wav",
    "{word}_{number}.wav",
    "{word}  {number}.wav",
    "{word} @ {number}!.wav",
    "{word}+{number}.wav",
)
_IN_EVERY_SPLIT = {
    2: "Untitled.wav",
    9: "Untitled (copy).wav",
    16: "Untitled [copy].wav",
    23: "100% final mix #.wav",
}
_STREAM = 4


def file_name(seed: int, split: str, index: int) -> str:
    """Name of the clip at one position of a split, unique there."""
    if index in _IN_EVERY_SPLIT:
        return _IN_EVERY_SPLIT[index]
    group, place = divmod(index, len(_PATTERNS))
    rng = np.random.default_rng([seed, SPLITS.index(split), group, _STREAM])
    word = _WORDS[int(rng.integers(len(_WORDS)))]
    pattern = _PATTERNS[int(rng.permutation(len(_PATTERNS))[place])]
    return pattern.format(word=word, number=len(SPLITS) * group + SPLITS.index(split) + 1)
