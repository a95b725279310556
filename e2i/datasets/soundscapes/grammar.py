"""Captions: what five listeners would write about a scene.

Conventions: English in ASCII, without digits and names of files. A caption is drawn from a small
grammar: how much is told (order, numbers, distance, background; now and then a part is missed, or
all is vague), then in which words, in which voice and order. Most captions tell most of it, none
has to. As among people's, some lack the full stop or the capital.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from numpy.random import Generator

from e2i.datasets.soundscapes.scenes import Background, Composition, Part
from e2i.datasets.soundscapes.words import (
    ADJECTIVES,
    ADVERBS,
    BACKGROUND,
    FOREGROUND,
    NUMBERS,
    TIMES,
)

NUM_CAPTIONS = 5
_T = TypeVar("_T")

_ALONE = (
    "{0.clause}",
    "{0.gerund}",
    "{0.noun}",
    "{0.noun} can be heard",
    "the sound of {0.noun}",
    "you can hear {0.noun}",
)
_THEN = {
    2: (
        "{0.clause} and then {1.clause}",
        "{0.clause}, then {1.clause}",
        "{0.clause} before {1.clause}",
        "{0.clause} and afterwards {1.clause}",
        "{1.clause} after {0.noun}",
        "after {0.noun}, {1.clause}",
        "{0.noun} followed by {1.noun}",
        "{0.gerund}, followed by {1.gerund}",
        "{0.noun} and then {1.noun}",
        "first {0.noun}, then {1.noun}",
        "{1.noun} following {0.noun}",
        "{0.noun} ahead of {1.noun}",
    ),
    3: (
        "{0.clause}, then {1.clause} and finally {2.clause}",
        "{0.clause}, {1.clause} and then {2.clause}",
        "{0.clause} before {1.clause} and then {2.clause}",
        "{0.noun}, {1.noun} and finally {2.noun}",
        "{0.noun} followed by {1.noun} and then {2.noun}",
        "first {0.noun}, then {1.noun}, then {2.noun}",
        "{0.gerund}, then {1.gerund}, then {2.gerund}",
        "{2.clause} after {0.noun} and {1.noun}",
        "after {0.noun}, {1.clause} and at the end {2.clause}",
    ),
}
_WHILE = {
    2: (
        "{0.clause} while {1.clause}",
        "{1.clause} while {0.clause}",
        "{1.clause} as {0.clause}",
        "while {0.clause}, {1.clause}",
        "{0.noun} and {1.noun} at the same time",
        "{0.gerund} together with {1.noun}",
        "{1.gerund} during {0.noun}",
        "{1.noun} over {0.noun}",
    ),
    3: (
        "{1.clause} and then {2.clause} while {0.clause}",
        "while {0.clause}, {1.clause} and then {2.clause}",
        "{1.noun} followed by {2.noun} during {0.noun}",
        "{0.clause} all the time, with {1.noun} and then {2.noun}",
        "{1.noun} and then {2.noun} over {0.noun}",
    ),
}
_LISTED = {
    2: (
        "{0.noun} and {1.noun}",
        "{0.clause} and {1.clause}",
        "{0.gerund} and {1.gerund}",
        "{0.noun} along with {1.noun}",
        "the sounds of {0.noun} and {1.noun}",
    ),
    3: (
        "{0.noun}, {1.noun} and {2.noun}",
        "{0.clause}, {1.clause} and {2.clause}",
        "the sounds of {0.noun}, {1.noun} and {2.noun}",
    ),
}
_OVER = (
    "{body} with {0.noun} in the background",
    "{body} while {0.clause} in the background",
    "{body} as {0.clause}",
    "{body}, and {0.clause} in the background",
    "over {0.noun}, {body}",
    "as {0.clause}, {body}",
    "{0.noun} in the background of {nouns}",
    "{body} {0.setting}",
    "{0.setting}, {body}",
    "{body}, with {0.gerund}",
)
# Bodies made of nouns alone, which may stand after a preposition.
_NOUNS = re.compile(r"(\{\d\.noun\}(, | [a-z ]+ )?)+")
_VAGUE = (
    "{0} makes a sound",
    "{0} can be heard",
    "the sound of {0}",
    "{0} and something else",
    "some noise, perhaps {0}",
    "there is {0}, then it is over",
    "{0} and {1}",
    "a recording of {0} and {1}",
    "{0} somewhere",
)


@dataclass(frozen=True, slots=True)
class _Phrase:
    """One sound in three grammatical forms, each in words of its own."""

    clause: str
    gerund: str
    noun: str
    setting: str = ""


def write_captions(composition: Composition, rng: Generator) -> tuple[str, ...]:
    """Five captions of a scene, different beyond capitals and full stops."""
    captions: dict[str, str] = {}
    while len(captions) < NUM_CAPTIONS:
        plain = _caption(composition, rng)
        if plain not in captions:
            captions[plain] = _as_typed(plain, rng)
    return tuple(captions.values())


def _caption(composition: Composition, rng: Generator) -> str:
    """One caption in small letters, without a full stop."""
    if _chance(rng, 0.06):
        return _vague(composition, rng)
    parts = composition.parts
    in_order = _chance(rng, 0.85)
    if len(parts) > 1 and _chance(rng, 0.06):
        missed = int(rng.integers(len(parts)))
        parts = (*parts[:missed], *parts[missed + 1 :])
        in_order = in_order and composition.arrangement == "then"
    if not in_order:
        parts = tuple(parts[place] for place in rng.permutation(len(parts)))
    phrases = [_phrase(part, rng) for part in parts]
    templates = _templates(composition, len(parts), in_order)
    body = _one_of(rng, templates).format(*phrases)
    if composition.background is None or not _chance(rng, 0.8):
        return body
    nouns = _one_of(rng, [template for template in templates if _NOUNS.fullmatch(template)])
    return _one_of(rng, _OVER).format(
        _background(composition.background, rng), body=body, nouns=nouns.format(*phrases)
    )


def _templates(composition: Composition, count: int, in_order: bool) -> Sequence[str]:
    if count == 1:
        return _ALONE
    if not in_order:
        return _LISTED[count]
    return (_THEN if composition.arrangement == "then" else _WHILE)[count]


def _phrase(part: Part, rng: Generator) -> _Phrase:
    """One part, telling its number and distance, or not."""
    words = FOREGROUND[part.kind]
    count = part.count if _chance(rng, 0.8) else None
    manner: str = part.change if part.change != "steady" else part.distance
    told = manner in ADVERBS and _chance(rng, 0.65)
    ending = [_one_of(rng, TIMES[count])] if count else []
    ending += [_one_of(rng, ADVERBS[manner])] if told else []
    clause, gerund = _clauses(words.clauses, ending, rng)
    adjective = _one_of(rng, ADJECTIVES[manner]) if told else ""
    if count is None or not words.nouns:
        return _Phrase(clause, gerund, _noun(_one_of(rng, words.names), adjective))
    one, many = _one_of(rng, words.nouns)
    number = _one_of(rng, NUMBERS[count])
    noun = _joined(number, adjective, one if count == 1 else many)
    return _Phrase(clause, gerund, noun)


def _background(background: Background, rng: Generator) -> _Phrase:
    words = BACKGROUND[background.kind]
    adjective = ""
    if _chance(rng, 0.85):
        adjective = _one_of(rng, words.strong if background.strong else words.soft)
    clause, gerund = _clauses(words.clauses, [], rng)
    return _Phrase(
        clause, gerund, _noun(_one_of(rng, words.names), adjective), _one_of(rng, words.settings)
    )


def _clauses(
    clauses: Sequence[tuple[str, str, str]], ending: Sequence[str], rng: Generator
) -> tuple[str, str]:
    """A clause with a verb, and one with a gerund; their subjects may differ."""
    subject, verb, _ = _one_of(rng, clauses)
    actor, _, gerund = _one_of(rng, [clause for clause in clauses if clause[0] != "it"])
    return _joined(subject, verb, *ending), _joined(actor, gerund, *ending)


def _vague(composition: Composition, rng: Generator) -> str:
    """What somebody writes who did not listen closely."""
    kinds = [composition.parts[place].kind for place in rng.permutation(len(composition.parts))]
    heard = [_one_of(rng, FOREGROUND[kind].vague) for kind in kinds]
    heard.append(_one_of(rng, ("some noise", "other sounds", "something else")))
    return _one_of(rng, _VAGUE).format(*heard)


def _noun(name: str, adjective: str) -> str:
    """A noun phrase: with an article, unless the name is marked to take none."""
    head = _joined(adjective, name.removeprefix("~"))
    if name.startswith("~"):
        return head
    return ("an " if head[0] in "aeiou" else "a ") + head


def _as_typed(caption: str, rng: Generator) -> str:
    """Capital and full stop, mostly."""
    if not _chance(rng, 0.1):
        caption = caption[0].upper() + caption[1:]
    return caption if _chance(rng, 0.25) else caption + "."


def _joined(*words: str) -> str:
    return " ".join(word for word in words if word)


def _one_of(rng: Generator, values: Sequence[_T]) -> _T:
    return values[int(rng.integers(len(values)))]


def _chance(rng: Generator, probability: float) -> bool:
    return bool(rng.random() < probability)
