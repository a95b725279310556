"""Scenes: which events a clip holds, in which order, how many, how loud, over which background.

Conventions: a clip's set of events is its set of foreground kinds; the background is told apart
from it. Sets come from 28 recipes with one or two backgrounds each. Every block of 46 clips of
a split passes each pair of recipe and background once, in an order of its own; so the sets are
the same in every split, and what a clip holds depends on (seed, split, index) alone.

Since each set is shared by so many clips, knowing it does not find the clip: see
`event_set_oracle`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.random import Generator

from e2i.datasets.soundscapes.config import SPLITS
from e2i.datasets.soundscapes.events import HITS, RUNS
from e2i.datasets.soundscapes.signals import num_samples

Distance = Literal["near", "plain", "far"]
Change = Literal["steady", "rising", "fading"]
Arrangement = Literal["then", "while"]

LONGEST_S = 6.0
SHORTEST_S = 2.5

# Foreground kinds, and the backgrounds that they are heard over (None: silence).
RECIPES: tuple[tuple[tuple[str, ...], tuple[str | None, ...]], ...] = (
    (("thunder",), ("rain", "wind")),
    (("helicopter",), (None, "waves")),
    (("birds",), ("stream", "waves")),
    (("applause",), ("crowd",)),
    (("dog", "siren"), (None, "wind")),
    (("dog", "footsteps"), (None, "rain")),
    (("dog", "bell"), (None,)),
    (("bell", "birds"), (None, "wind")),
    (("bell", "footsteps"), ("rain", "crowd")),
    (("knock", "dog"), (None, "rain")),
    (("knock", "footsteps"), (None,)),
    (("beep", "typing"), (None, "hum")),
    (("drop", "footsteps"), (None, "stream")),
    (("drop", "beep"), (None,)),
    (("thunder", "owl"), ("rain", "crickets")),
    (("owl", "birds"), ("stream", "crickets")),
    (("engine", "horn"), (None, "crowd")),
    (("engine", "birds"), ("wind",)),
    (("siren", "horn"), (None,)),
    (("siren", "whistle"), ("crowd",)),
    (("applause", "whistle"), (None, "crowd")),
    (("hammer", "sawing"), (None,)),
    (("hammer", "engine"), ("hum",)),
    (("whistle", "helicopter"), ("waves", "wind")),
    (("knock", "footsteps", "typing"), (None, "hum")),
    (("horn", "siren", "engine"), (None, "rain")),
    (("bell", "applause", "drop"), (None,)),
    (("hammer", "dog", "sawing"), (None, "crickets")),
)
_CELLS = tuple((kinds, texture) for kinds, textures in RECIPES for texture in textures)
_PLAN, _BLOCK = 0, 1  # streams of chance; the others are CAPTION_STREAM and SOUND_STREAM
CAPTION_STREAM, SOUND_STREAM = 2, 3


@dataclass(frozen=True, slots=True)
class Part:
    """One foreground event of a scene: some hits, or one run.

    Attributes:
        kind: key of `HITS` or `RUNS`.
        onset_s: where it begins.
        duration_s: until something may follow; the ring of a hit may last longer.
        hits_s: where each hit begins, from the onset; empty for a run.
        distance: near (loud), far (faint and dull), or neither.
        change: of its level; hits are steady.
    """

    kind: str
    onset_s: float
    duration_s: float
    hits_s: tuple[float, ...]
    distance: Distance
    change: Change

    @property
    def count(self) -> int | None:
        """Number of hits; None for a run."""
        return len(self.hits_s) or None


@dataclass(frozen=True, slots=True)
class Background:
    """What is heard all the time.

    Attributes:
        kind: key of `TEXTURES`.
        strong: loud rather than soft.
    """

    kind: str
    strong: bool


@dataclass(frozen=True, slots=True)
class Composition:
    """All that is heard in a clip.

    Attributes:
        arrangement: `then`: the parts follow each other. `while`: the first part lasts through
            the others, which follow each other.
        parts: one to three, of different kinds.
        background: or None.
        duration_s: of the clip.
        num_channels: 1 or 2.
    """

    arrangement: Arrangement
    parts: tuple[Part, ...]
    background: Background | None
    duration_s: float
    num_channels: int

    @property
    def num_samples(self) -> int:
        """Samples in each channel."""
        return num_samples(self.duration_s)


@dataclass(frozen=True, slots=True)
class Scene:
    """One clip of the generated data set, before it is heard.

    Attributes:
        split: its split.
        index: its position there.
        file_name: its name, and clip id.
        composition: what is heard.
        captions: five, all different.
    """

    split: str
    index: int
    file_name: str
    composition: Composition
    captions: tuple[str, ...]

    @property
    def event_set(self) -> frozenset[str]:
        """Foreground kinds."""
        return frozenset(part.kind for part in self.composition.parts)

    @property
    def order(self) -> tuple[str, ...]:
        """Foreground kinds as they follow; in `while` the lasting one comes first."""
        return tuple(part.kind for part in self.composition.parts)

    @property
    def counts(self) -> dict[str, int]:
        """How often each countable kind is heard."""
        return {part.kind: part.count for part in self.composition.parts if part.count}

    @property
    def background(self) -> str | None:
        """Kind of the background."""
        return self.composition.background.kind if self.composition.background else None


def random_stream(seed: int, split: str, index: int, stream: int) -> Generator:
    """The chance of one aspect of one clip, independent of all others."""
    return np.random.default_rng([seed, SPLITS.index(split), index, stream])


def compose(seed: int, split: str, index: int) -> Composition:
    """What is heard in the clip at one position of a split."""
    kinds, texture = _cell(seed, split, index)
    rng = random_stream(seed, split, index, _PLAN)
    ordered = tuple(kinds[place] for place in rng.permutation(len(kinds)))
    together = len(kinds) > 1 and rng.random() < 0.35
    lead_s, tail_s = rng.uniform(0.08, 0.25), rng.uniform(0.15, 0.4)
    if together:
        arrangement: Arrangement = "while"
        host = next((kind for kind in ordered if kind in RUNS), ordered[0])
        ordered = (host, *(kind for kind in ordered if kind != host))
        inner = _sequence(rng, ordered[1:], lead_s + rng.uniform(0.2, 0.35), budget_s=4.2)
        parts = (_host(rng, host, lead_s, _end(inner) + 0.25), *inner)
    else:
        arrangement = "then"
        parts = _sequence(rng, ordered, lead_s, budget_s=5.3)
    duration_s = min(max(_end(parts) + tail_s, SHORTEST_S), LONGEST_S)
    return Composition(
        arrangement=arrangement,
        parts=parts,
        background=None if texture is None else Background(texture, bool(rng.random() < 0.5)),
        duration_s=round(duration_s, 3),
        num_channels=2 if rng.random() < 0.2 else 1,
    )


def event_set_oracle(scenes: Sequence[Scene], *, with_background: bool = False) -> float:
    """Expected text→audio R@1 of a scorer that knows each clip's set of events and nothing else.

    It cannot tell clips of one set apart, so that each of their captions finds its clip with
    1 / (clips of that set); the mean of it is the number of different sets over that of clips.

    Args:
        scenes: the candidates, one or more.
        with_background: the scorer knows the background too.
    """
    keys = [(scene.event_set, scene.background if with_background else None) for scene in scenes]
    sharing = Counter(keys)
    return sum(1.0 / sharing[key] for key in keys) / len(keys)


def _cell(seed: int, split: str, index: int) -> tuple[tuple[str, ...], str | None]:
    """Recipe and background of a clip: each once in a block, blocks shuffled one by one."""
    block, place = divmod(index, len(_CELLS))
    order = random_stream(seed, split, block, _BLOCK).permutation(len(_CELLS))
    return _CELLS[int(order[place])]


def _sequence(
    rng: Generator, kinds: Sequence[str], start_s: float, budget_s: float
) -> tuple[Part, ...]:
    """Parts one after the other, none longer than its share of the budget."""
    gaps_s = rng.uniform(0.12, 0.3, len(kinds)).tolist()
    longest_s = min(4.0, (budget_s - 0.3 * len(kinds)) / len(kinds))
    parts: list[Part] = []
    at = start_s
    for kind, gap_s in zip(kinds, gaps_s, strict=True):
        part = _part(rng, kind, at, longest_s)
        parts.append(part)
        at += part.duration_s + gap_s
    return tuple(parts)


def _part(rng: Generator, kind: str, onset_s: float, longest_s: float) -> Part:
    """A part of a countable or a lasting kind."""
    if kind in RUNS:
        duration_s = rng.uniform(max(0.9, 0.6 * longest_s), longest_s)
        return Part(kind, onset_s, duration_s, (), _distance(rng), _change(rng))
    ring_s, (closest_s, widest_s) = HITS[kind].ring_s, HITS[kind].spacing_s
    fitting = 1 + int(max(0.0, longest_s - ring_s) / widest_s)
    count = int(rng.integers(1, min(HITS[kind].most, fitting) + 1))
    spacing_s = rng.uniform(closest_s, widest_s)
    return _hits(rng, kind, onset_s, count, spacing_s)


def _hits(rng: Generator, kind: str, onset_s: float, count: int, spacing_s: float) -> Part:
    """So many hits, not quite evenly spaced."""
    jitter = rng.uniform(-0.06, 0.06, count) * spacing_s
    times = [max(0.0, place * spacing_s + float(jitter[place])) for place in range(count)]
    duration_s = times[-1] + HITS[kind].ring_s
    return Part(kind, onset_s, duration_s, tuple(times), _distance(rng), "steady")


def _host(rng: Generator, kind: str, onset_s: float, end_s: float) -> Part:
    """A part that lasts through the others: a long run, or hits spread over them."""
    whole_s = max(end_s - onset_s, 1.6)
    if kind in RUNS:
        return Part(kind, onset_s, whole_s, (), _distance(rng), _change(rng))
    room_s = max(0.0, whole_s - HITS[kind].ring_s)
    most = min(HITS[kind].most, 1 + int(room_s / HITS[kind].spacing_s[1]))
    count = int(rng.integers(min(2, most), most + 1))
    return _hits(rng, kind, onset_s, count, room_s / max(1, count - 1))


def _distance(rng: Generator) -> Distance:
    """Half of the parts are neither near nor far."""
    draw = rng.random()
    return "near" if draw < 0.25 else "far" if draw < 0.5 else "plain"


def _change(rng: Generator) -> Change:
    """Most runs keep their level."""
    draw = rng.random()
    return "rising" if draw < 0.2 else "fading" if draw < 0.4 else "steady"


def _end(parts: Sequence[Part]) -> float:
    """When the last of the parts is over."""
    return max(part.onset_s + part.duration_s for part in parts)
