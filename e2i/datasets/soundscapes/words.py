"""The words of the captions: how people call each kind of sound.

Conventions: all clauses are in the present tense, with the subject apart, so that a gerund can be
made of them; noun heads carry no article and take an adjective in front. A vague noun is what
somebody says who did not listen closely.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Words:
    """What a foreground kind is called.

    Attributes:
        clauses: (subject, verb, gerund).
        nouns: (one, many): heads of a countable kind, for numbers in front.
        names: heads without a number; a leading `~` marks those that take no article.
        vague: noun phrases, complete.
    """

    clauses: tuple[tuple[str, str, str], ...]
    nouns: tuple[tuple[str, str], ...]
    names: tuple[str, ...]
    vague: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BackgroundWords:
    """What a background is called.

    Attributes:
        clauses: (subject, verb, gerund).
        names: noun heads, as in `Words`.
        settings: where or when it is heard; no strength is told with these.
        soft: adjectives, fit for all names.
        strong: adjectives, fit for all names.
    """

    clauses: tuple[tuple[str, str, str], ...]
    names: tuple[str, ...]
    settings: tuple[str, ...]
    soft: tuple[str, ...]
    strong: tuple[str, ...]


FOREGROUND: dict[str, Words] = {
    "beep": Words(
        (
            ("a machine", "beeps", "beeping"),
            ("an electronic device", "beeps", "beeping"),
            ("an alarm", "beeps", "beeping"),
        ),
        (("beep", "beeps"), ("electronic beep", "electronic beeps"), ("tone", "tones")),
        ("~beeping", "electronic signal"),
        ("some device", "an electronic sound"),
    ),
    "bell": Words(
        (
            ("a bell", "rings", "ringing"),
            ("a bell", "is struck", "being struck"),
            ("a church bell", "chimes", "chiming"),
            ("someone", "strikes a bell", "striking a bell"),
        ),
        (("bell stroke", "bell strokes"), ("chime of a bell", "chimes of a bell")),
        ("ringing bell", "~bell ringing"),
        ("something metallic", "a ringing sound"),
    ),
    "dog": Words(
        (
            ("a dog", "barks", "barking"),
            ("a dog", "is barking", "barking"),
            ("a hound", "barks", "barking"),
            ("a dog", "woofs", "woofing"),
        ),
        (("bark of a dog", "barks of a dog"), ("dog bark", "dog barks"), ("woof", "woofs")),
        ("barking dog", "~dog barking"),
        ("an animal", "a pet"),
    ),
    "drop": Words(
        (
            ("water", "drips", "dripping"),
            ("a drop of water", "falls", "falling"),
            ("a tap", "drips", "dripping"),
        ),
        (("drop of water", "drops of water"), ("water drop", "water drops"), ("drip", "drips")),
        ("~dripping water", "dripping tap"),
        ("some water", "a liquid"),
    ),
    "hammer": Words(
        (
            ("someone", "hammers on metal", "hammering on metal"),
            ("a hammer", "hits metal", "hitting metal"),
            ("a piece of metal", "is struck", "being struck"),
            ("a hammer", "clanks", "clanking"),
        ),
        (("hammer blow", "hammer blows"), ("metal clank", "metal clanks")),
        ("~hammering on metal", "clanking hammer"),
        ("a tool", "something metallic"),
    ),
    "horn": Words(
        (
            ("a car", "honks", "honking"),
            ("a car horn", "blares", "blaring"),
            ("a driver", "honks the horn", "honking the horn"),
            ("a horn", "is honked", "being honked"),
        ),
        (("honk", "honks"), ("honk of a car", "honks of a car"), ("horn blast", "horn blasts")),
        ("car horn", "~honking"),
        ("a vehicle", "some traffic"),
    ),
    "knock": Words(
        (
            ("someone", "knocks on a door", "knocking on a door"),
            ("a person", "knocks on wood", "knocking on wood"),
            ("a door", "is knocked on", "being knocked on"),
            ("a visitor", "raps on the door", "rapping on the door"),
        ),
        (("knock on a door", "knocks on a door"), ("knock", "knocks")),
        ("~knocking on a door", "~door knocking"),
        ("someone at a door", "a wooden sound"),
    ),
    "owl": Words(
        (
            ("an owl", "hoots", "hooting"),
            ("an owl", "calls", "calling"),
            ("a night bird", "hoots", "hooting"),
        ),
        (("hoot of an owl", "hoots of an owl"), ("owl call", "owl calls"), ("hoot", "hoots")),
        ("hooting owl", "~hooting"),
        ("an animal", "a creature"),
    ),
    "thunder": Words(
        (
            ("thunder", "rumbles", "rumbling"),
            ("thunder", "rolls", "rolling"),
            ("a thunderclap", "is heard", "being heard"),
            ("a thunderstorm", "rumbles", "rumbling"),
        ),
        (("clap of thunder", "claps of thunder"), ("thunderclap", "thunderclaps")),
        ("~thunder", "~rumbling thunder"),
        ("bad weather", "a low rumble"),
    ),
    "whistle": Words(
        (
            ("a whistle", "is blown", "being blown"),
            ("a referee", "blows a whistle", "blowing a whistle"),
            ("a whistle", "shrills", "shrilling"),
            ("someone", "blows a whistle", "blowing a whistle"),
        ),
        (("blow of a whistle", "blows of a whistle"), ("whistle blast", "whistle blasts")),
        ("shrill whistle", "referee whistle"),
        ("a shrill sound", "a signal"),
    ),
    "applause": Words(
        (
            ("people", "applaud", "applauding"),
            ("an audience", "claps", "clapping"),
            ("a group of people", "clap their hands", "clapping their hands"),
        ),
        (),
        ("~applause", "~clapping", "applauding audience"),
        ("a group of people", "an audience"),
    ),
    "birds": Words(
        (
            ("birds", "chirp", "chirping"),
            ("a bird", "sings", "singing"),
            ("birds", "are singing", "singing"),
            ("a small bird", "tweets", "tweeting"),
        ),
        (),
        ("~birdsong", "~chirping birds", "~singing birds"),
        ("an animal", "some creatures"),
    ),
    "engine": Words(
        (
            ("an engine", "runs", "running"),
            ("a motor", "rumbles", "rumbling"),
            ("a car engine", "revs", "revving"),
            ("an engine", "is running", "running"),
        ),
        (),
        ("running engine", "car engine", "rumbling motor"),
        ("a vehicle", "a machine"),
    ),
    "footsteps": Words(
        (
            ("someone", "walks", "walking"),
            ("a person", "walks by", "walking by"),
            ("footsteps", "are heard", "being heard"),
            ("a person", "takes steps on the floor", "taking steps on the floor"),
        ),
        (),
        ("~footsteps", "~steps of a person", "~steps on the floor"),
        ("a person", "somebody moving"),
    ),
    "helicopter": Words(
        (
            ("a helicopter", "flies", "flying"),
            ("a helicopter", "hovers", "hovering"),
            ("the rotor of a helicopter", "chops", "chopping"),
            ("a chopper", "whirs", "whirring"),
        ),
        (),
        ("helicopter", "helicopter rotor", "chopper"),
        ("an aircraft", "a machine"),
    ),
    "sawing": Words(
        (
            ("someone", "saws wood", "sawing wood"),
            ("a person", "saws", "sawing"),
            ("a saw", "cuts wood", "cutting wood"),
            ("a board", "is sawn", "being sawn"),
        ),
        (),
        ("~sawing", "handsaw", "~sawing of wood"),
        ("a tool", "some work"),
    ),
    "siren": Words(
        (
            ("a siren", "wails", "wailing"),
            ("an ambulance", "wails", "wailing"),
            ("a siren", "is sounded", "being sounded"),
            ("a police siren", "howls", "howling"),
        ),
        (),
        ("siren", "wailing siren", "police siren"),
        ("an emergency vehicle", "a vehicle"),
    ),
    "typing": Words(
        (
            ("someone", "types on a keyboard", "typing on a keyboard"),
            ("a person", "types", "typing"),
            ("a keyboard", "clatters", "clattering"),
            ("keys", "are typed on", "being typed on"),
        ),
        (),
        ("~typing", "~typing on a keyboard", "clattering keyboard"),
        ("somebody at work", "a clicking sound"),
    ),
}

BACKGROUND: dict[str, BackgroundWords] = {
    "crickets": BackgroundWords(
        (("crickets", "chirp", "chirping"), ("insects", "buzz", "buzzing")),
        ("~crickets", "~chirping crickets", "~insects"),
        ("on a summer night", "at night with crickets", "among crickets"),
        ("faint", "soft"),
        ("loud", "shrill"),
    ),
    "crowd": BackgroundWords(
        (("people", "talk", "talking"), ("a crowd", "chatters", "chattering")),
        ("crowd", "~chatter", "~talking people"),
        ("in a crowd", "among people", "in a busy room"),
        ("quiet", "murmuring"),
        ("loud", "noisy"),
    ),
    "hum": BackgroundWords(
        (("a machine", "hums", "humming"), ("a fan", "hums", "humming")),
        ("humming machine", "~humming", "~electric humming"),
        ("beside a humming machine", "in a room with a fan", "in a humming room"),
        ("low", "quiet"),
        ("loud", "noisy"),
    ),
    "rain": BackgroundWords(
        (
            ("rain", "falls", "falling"),
            ("it", "rains", "raining"),
            ("rain", "patters", "pattering"),
        ),
        ("~rain", "~falling rain", "~rainfall"),
        ("in the rain", "on a rainy day", "while it is raining"),
        ("light", "gentle"),
        ("heavy", "strong"),
    ),
    "stream": BackgroundWords(
        (
            ("a stream", "flows", "flowing"),
            ("water", "runs", "running"),
            ("a brook", "babbles", "babbling"),
        ),
        ("~running water", "stream", "babbling brook"),
        ("by a stream", "next to running water", "at a brook"),
        ("gentle", "quiet"),
        ("loud", "rushing"),
    ),
    "waves": BackgroundWords(
        (
            ("waves", "roll in", "rolling in"),
            ("waves", "break on the shore", "breaking on the shore"),
        ),
        ("~waves", "~ocean waves", "~surf"),
        ("by the sea", "at the beach", "on the shore"),
        ("gentle", "soft"),
        ("heavy", "roaring"),
    ),
    "wind": BackgroundWords(
        (("wind", "blows", "blowing"), ("the wind", "howls", "howling")),
        ("~wind", "~blowing wind", "breeze"),
        ("in the wind", "on a windy day", "out in the wind"),
        ("light", "gentle"),
        ("strong", "gusty"),
    ),
}

TIMES = {
    1: ("once", "one time", "a single time"),
    2: ("twice", "two times"),
    3: ("three times", "three times in a row"),
    4: ("four times", "several times"),
    5: ("five times", "many times", "again and again"),
}
NUMBERS = {
    1: ("one", "a single"),
    2: ("two", "a couple of", "a pair of"),
    3: ("three", "a few"),
    4: ("four", "several"),
    5: ("five", "many", "a series of"),
}
ADVERBS = {
    "near": ("loudly", "close by", "very near", "nearby"),
    "far": ("in the distance", "far away", "faintly"),
    "rising": ("louder and louder", "ever closer", "with growing volume"),
    "fading": ("fainter and fainter", "more and more quietly", "ever more softly"),
}
ADJECTIVES = {
    "near": ("loud", "nearby", "close"),
    "far": ("distant", "faint", "faraway"),
    "rising": ("approaching", "growing"),
    "fading": ("fading", "receding"),
}
