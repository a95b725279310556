"""The sounds: 18 kinds of foreground events and 7 kinds of backgrounds, made from nothing.

Conventions: a *hit* is a sound that can be counted (a bark, a knock), a *run* one that goes on for
a while (a siren, footsteps), a *texture* the background of a whole clip. A maker gets the
generator, the length in samples and, for hits, the samples at which they begin; it draws the
instance first (this dog, this bell), then each hit, so that no two instances and no two hits are
the same waveform. Levels are set in `rendering`.

The recipes are the textbook ones of procedural sound design: damped modes for struck bodies, noise
with a shaped spectrum and a course of level for air and water, harmonic tones for voices and
machines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from e2i.datasets.soundscapes.signals import (
    Signal,
    add,
    arch,
    decay,
    flat,
    num_samples,
    ringing,
    shaped_noise,
    time_axis,
    tone,
    wander,
)

Maker = Callable[[Generator, int], Signal]
HitMaker = Callable[[Generator, int, Sequence[int]], Signal]

_VOWEL = (0.5, 0.6, 0.55, 0.4, 0.27, 0.18, 0.12, 0.07)


@dataclass(frozen=True, slots=True)
class Hit:
    """A countable kind.

    Attributes:
        make: the maker.
        ring_s: what one hit takes before something else may follow.
        spacing_s: shortest and longest time from one hit to the next.
        most: the largest count.
    """

    make: HitMaker
    ring_s: float
    spacing_s: tuple[float, float]
    most: int


def _repeat(length: int, hits: Sequence[int], one: Callable[[], Signal]) -> Signal:
    out = np.zeros(length)
    for at in hits:
        add(out, at, one())
    return out


def _dog(rng: Generator, length: int, hits: Sequence[int]) -> Signal:
    pitch_hz = rng.uniform(260.0, 620.0)
    bend, roughness = rng.uniform(0.4, 0.8), rng.uniform(0.15, 0.4)

    def bark() -> Signal:
        size = num_samples(rng.uniform(0.15, 0.25))
        course = pitch_hz * rng.uniform(0.93, 1.07) * (0.7 + bend * arch(size))
        voice = tone(course, size, (0.6, 1.0, 0.9, 0.5, 0.3, 0.2, 0.1))
        breath = shaped_noise(rng, size, [(300, -20), (900, 0), (2500, 0), (6000, -20)])
        return (voice + roughness * breath) * arch(size, 0.6) * decay(size, 0.15)

    return _repeat(length, hits, bark)


def _bell(rng: Generator, length: int, hits: Sequence[int]) -> Signal:
    strike_hz, ring_s = rng.uniform(480.0, 1050.0), rng.uniform(0.5, 0.9)
    ratios = np.array([0.5, 1.0, 1.2, 1.5, 2.0, 2.67, 3.98]) * rng.uniform(0.985, 1.015, 7)
    amplitudes = np.array([0.5, 0.9, 0.6, 0.4, 0.8, 0.4, 0.25]) * rng.uniform(0.6, 1.3, 7)
    modes = [
        (strike_hz * ratio, amplitude, ring_s / ratio**0.5)
        for ratio, amplitude in zip(ratios.tolist(), amplitudes.tolist(), strict=True)
    ]
    stroke = ringing(num_samples(2.2), modes)
    stroke *= flat(stroke.size, 0.002)
    return _repeat(length, hits, lambda: stroke * rng.uniform(0.75, 1.0))


def _knock(rng: Generator, length: int, hits: Sequence[int]) -> Signal:
    body_hz, wood_s = rng.uniform(120.0, 240.0), rng.uniform(0.025, 0.05)

    def knock() -> Signal:
        hz = body_hz * rng.uniform(0.96, 1.04)
        modes = [(hz, 1.0, wood_s), (1.62 * hz, 0.6, wood_s), (2.8 * hz, 0.4, 0.6 * wood_s)]
        size = num_samples(0.25)
        click = shaped_noise(rng, size, [(400, 0), (1500, -6), (5000, -24)])
        return (ringing(size, modes) + 0.3 * click * decay(size, 0.006)) * rng.uniform(0.75, 1.0)

    return _repeat(length, hits, knock)


def _drop(rng: Generator, length: int, hits: Sequence[int]) -> Signal:
    bubble_hz = rng.uniform(700.0, 1500.0)

    def drop() -> Signal:
        size = num_samples(0.2)
        rise = 1.0 + rng.uniform(2.0, 7.0) * time_axis(size)
        bubble = tone(bubble_hz * rng.uniform(0.8, 1.25) * rise, size, (1.0, 0.08))
        return bubble * decay(size, rng.uniform(0.02, 0.04)) * rng.uniform(0.6, 1.0)

    return _repeat(length, hits, drop)


def _beep(rng: Generator, length: int, hits: Sequence[int]) -> Signal:
    hz, size = rng.uniform(850.0, 1900.0), num_samples(rng.uniform(0.1, 0.2))
    harmonics = ((1.0,), (1.0, 0.0, 0.33, 0.0, 0.2), (1.0, 0.5, 0.25))[rng.integers(3)]
    beep = tone(hz, size, harmonics) * flat(size, 0.004)
    return _repeat(length, hits, lambda: beep * rng.uniform(0.95, 1.0))


def _horn(rng: Generator, length: int, hits: Sequence[int]) -> Signal:
    low_hz = rng.uniform(310.0, 460.0)
    high_hz = low_hz * rng.uniform(1.18, 1.3)
    reeds = [order ** -rng.uniform(0.5, 0.9) for order in range(1, 15)]

    def honk() -> Signal:
        size = num_samples(rng.uniform(0.22, 0.34))
        return (tone(low_hz, size, reeds) + tone(high_hz, size, reeds)) * flat(size, 0.02)

    return _repeat(length, hits, honk)


def _thunder(rng: Generator, length: int, hits: Sequence[int]) -> Signal:
    def clap() -> Signal:
        size = num_samples(2.4)
        rumble = shaped_noise(rng, size, [(25, -6), (60, 0), (160, -6), (500, -22), (3000, -48)])
        envelope = np.zeros(size)
        for at in (0.0, *rng.uniform(0.1, 1.0, 4).tolist()):
            roll = decay(size, rng.uniform(0.25, 0.5)) * rng.uniform(0.3, 0.8)
            add(envelope, num_samples(at), roll * (1.0 - decay(size, 0.012)))
        crack = shaped_noise(rng, num_samples(0.5), [(100, 0), (800, -6), (6000, -24)])
        out = rumble * envelope
        add(out, 0, crack * decay(crack.size, 0.07), rng.uniform(0.1, 0.5))
        return out

    return _repeat(length, hits, clap)


def _whistle(rng: Generator, length: int, hits: Sequence[int]) -> Signal:
    hz, trill_hz = rng.uniform(2300.0, 3200.0), rng.uniform(24.0, 38.0)

    def blow() -> Signal:
        size = num_samples(rng.uniform(0.25, 0.36))
        pea = tone(trill_hz, size)
        pipe = tone(hz * (1.0 + 0.03 * pea), size, (1.0, 0.15, 0.08)) * (1.0 + 0.6 * pea)
        air = shaped_noise(rng, size, [(800, -30), (2600, 0), (6000, -15)])
        return (pipe + 0.15 * air) * flat(size, 0.02)

    return _repeat(length, hits, blow)


def _owl(rng: Generator, length: int, hits: Sequence[int]) -> Signal:
    hz, vibrato_hz = rng.uniform(330.0, 480.0), rng.uniform(5.0, 8.0)

    def hoot() -> Signal:
        size = num_samples(rng.uniform(0.28, 0.4))
        course = hz * rng.uniform(0.98, 1.02) * (0.94 + 0.08 * arch(size))
        course *= 1.0 + 0.012 * tone(vibrato_hz, size)
        return tone(course, size, (1.0, 0.12, 0.05)) * arch(size, 0.7)

    return _repeat(length, hits, hoot)


def _hammer(rng: Generator, length: int, hits: Sequence[int]) -> Signal:
    hz, ring_s = rng.uniform(1500.0, 2500.0), rng.uniform(0.06, 0.13)
    ratios = np.array([1.0, 1.58, 2.24, 2.92, 3.46, 4.6]) * rng.uniform(0.97, 1.03, 6)

    def blow() -> Signal:
        size = num_samples(0.4)
        modes = [
            (hz * ratio, amplitude, ring_s / ratio**0.5)
            for ratio, amplitude in zip(
                ratios.tolist(), rng.uniform(0.4, 1.0, 6).tolist(), strict=True
            )
        ]
        contact = shaped_noise(rng, size, [(500, -12), (2000, 0), (9000, -6)])
        return (ringing(size, modes) + 0.8 * contact * decay(size, 0.005)) * rng.uniform(0.7, 1.0)

    return _repeat(length, hits, blow)


def _siren(rng: Generator, length: int) -> Signal:
    low_hz, beat_hz = rng.uniform(480.0, 720.0), rng.uniform(0.6, 1.3)
    swing = tone(beat_hz, length)
    if rng.random() < 0.5:
        course = low_hz * (1.0 + rng.uniform(0.5, 0.8) * (0.5 + 0.5 * swing))
    else:
        course = low_hz * np.where(swing > 0.0, rng.uniform(1.3, 1.4), 1.0)
    return tone(course, length, (1.0, 0.45, 0.3, 0.18, 0.1, 0.05)) * flat(length, 0.06)


def _engine(rng: Generator, length: int) -> Signal:
    course = rng.uniform(34.0, 62.0) * wander(rng, length, 1.2, 0.85, 1.6)
    cylinders = [rng.uniform(0.4, 1.0) * order**-0.55 for order in range(1, 25)]
    exhaust = shaped_noise(rng, length, [(40, 0), (200, -3), (900, -18), (4000, -40)])
    pulse = 0.6 + 0.4 * tone(2.0 * course, length)
    return (tone(course, length, cylinders) + 1.3 * exhaust * pulse) * flat(length, 0.08)


def _birds(rng: Generator, length: int) -> Signal:
    out = np.zeros(length)
    song_hz, sweep = rng.uniform(3200.0, 5200.0), rng.uniform(-0.35, 0.35)
    at, end = rng.uniform(0.0, 0.05), length / float(num_samples(1.0))
    while at < end - 0.04:
        size = num_samples(rng.uniform(0.04, 0.11))
        course = song_hz * rng.uniform(0.85, 1.25) * (1.0 + sweep * np.linspace(-1.0, 1.0, size))
        chirp = tone(course, size, (1.0, 0.1)) * arch(size)
        add(out, num_samples(at), chirp, rng.uniform(0.4, 1.0))
        at += rng.uniform(0.09, 0.24)
    return out


def _footsteps(rng: Generator, length: int) -> Signal:
    pace_s, heel_hz = rng.uniform(0.32, 0.5), rng.uniform(85.0, 150.0)
    grit = rng.uniform(0.35, 0.9)
    envelope, thuds = np.zeros(length), np.zeros(length)
    at, end = 0.02, length / float(num_samples(1.0))
    while at < end - 0.1:
        strength = rng.uniform(0.7, 1.0)
        thud = ringing(num_samples(0.16), [(heel_hz * rng.uniform(0.92, 1.08), 1.0, 0.028)])
        add(thuds, num_samples(at), thud, strength)
        sole = arch(num_samples(rng.uniform(0.06, 0.1)), 1.5)
        add(envelope, num_samples(at + 0.01), sole, strength)
        at += pace_s * rng.uniform(0.93, 1.07)
    scrape = shaped_noise(rng, length, [(300, -14), (1200, 0), (3500, -4), (9000, -22)])
    return thuds + 0.45 * grit * scrape * envelope


def _typing(rng: Generator, length: int) -> Signal:
    envelope, thocks = np.zeros(length), np.zeros(length)
    rate_hz, case_hz = rng.uniform(6.5, 10.0), rng.uniform(380.0, 620.0)
    key = decay(num_samples(0.04), rng.uniform(0.004, 0.007))
    thock = ringing(num_samples(0.06), [(case_hz, 1.0, 0.009)])
    at, end = rng.uniform(0.0, 0.05), length / float(num_samples(1.0))
    while at < end - 0.03:
        strength = rng.uniform(0.45, 1.0)
        add(envelope, num_samples(at), key, strength)
        add(envelope, num_samples(at + rng.uniform(0.05, 0.08)), key, 0.4 * strength)
        add(thocks, num_samples(at), thock, strength)
        at += rng.exponential(0.5 / rate_hz) + 0.5 / rate_hz
    plastic = shaped_noise(rng, length, [(900, -18), (2500, 0), (7000, -2), (14000, -14)])
    return plastic * envelope + 0.5 * thocks


def _applause(rng: Generator, length: int) -> Signal:
    claps_per_s = rng.uniform(45.0, 110.0)
    count = int(claps_per_s * length / num_samples(1.0))
    clap = decay(num_samples(0.05), rng.uniform(0.006, 0.012))
    envelope = np.zeros(length)
    for at, strength in zip(
        rng.integers(0, length, count).tolist(), rng.uniform(0.2, 1.0, count).tolist(), strict=True
    ):
        add(envelope, at, clap, strength**2)
    palms = shaped_noise(rng, length, [(350, -18), (900, 0), (2200, 0), (6000, -14), (12000, -26)])
    return palms * (envelope + 0.05) * flat(length, 0.12)


def _sawing(rng: Generator, length: int) -> Signal:
    stroke_hz, teeth_hz = rng.uniform(1.6, 2.7), rng.uniform(70.0, 120.0)
    swing = tone(stroke_hz, length)
    push, pull = np.maximum(swing, 0.0) ** 0.7, np.maximum(-swing, 0.0) ** 0.7
    bright = shaped_noise(rng, length, [(500, -20), (2500, 0), (7000, -3), (14000, -20)])
    dull = shaped_noise(rng, length, [(300, -14), (1300, 0), (4000, -12), (10000, -30)])
    teeth = 1.0 + 0.5 * tone(teeth_hz, length)
    return (bright * push + 0.7 * dull * pull) * teeth * flat(length, 0.02)


def _helicopter(rng: Generator, length: int) -> Signal:
    blades_hz = rng.uniform(10.0, 15.0)
    phase = (np.arange(length) * (blades_hz / num_samples(1.0))) % 1.0
    chop: Signal = np.exp(phase * -rng.uniform(3.5, 6.0))
    air = shaped_noise(rng, length, [(40, -6), (90, 0), (350, -4), (1200, -20), (5000, -40)])
    turbine = tone(rng.uniform(500.0, 800.0), length, (0.05, 0.03))
    blades: Signal = air * chop + turbine
    return blades * flat(length, 0.15)


def _rain(rng: Generator, length: int) -> Signal:
    tilt = rng.uniform(-5.0, 3.0)
    hiss = shaped_noise(rng, length, [(200, -22), (1500, -6), (5000, 0), (15000, tilt - 4)])
    patter = np.zeros(length)
    splash = decay(num_samples(0.02), 0.003)
    count = int(rng.uniform(25.0, 70.0) * length / num_samples(1.0))
    for at, strength in zip(
        rng.integers(0, length, count).tolist(), rng.uniform(0.5, 3.0, count).tolist(), strict=True
    ):
        add(patter, at, splash, strength)
    return hiss * (1.0 + patter)


def _wind(rng: Generator, length: int) -> Signal:
    howl_hz = rng.uniform(260.0, 520.0)
    body = shaped_noise(rng, length, [(40, -8), (120, 0), (350, -8), (900, -24), (5000, -50)])
    howl = shaped_noise(
        rng, length, [(0.6 * howl_hz, -50), (howl_hz, 0), (1.6 * howl_hz, -50), (20000, -60)]
    )
    gusts = wander(rng, length, 0.9, 0.25, 1.3)
    return body * gusts + 0.45 * howl * gusts**2


def _stream(rng: Generator, length: int) -> Signal:
    bright_db = rng.uniform(-8.0, -2.0)
    flow = shaped_noise(
        rng, length, [(150, -24), (450, -4), (900, 0), (2600, bright_db), (9000, -26)]
    )
    out = flow * wander(rng, length, 14.0, 0.6, 1.2)
    count = int(rng.uniform(14.0, 26.0) * length / num_samples(1.0))
    size = num_samples(0.07)
    rise, fall = 1.0 + 5.0 * time_axis(size), decay(size, 0.018)
    for at, hz in zip(
        rng.integers(0, length, count).tolist(),
        rng.uniform(450.0, 1100.0, count).tolist(),
        strict=True,
    ):
        add(out, at, tone(hz * rise, size) * fall, rng.uniform(0.6, 1.8))
    return out


def _waves(rng: Generator, length: int) -> Signal:
    swell_hz, start = rng.uniform(0.22, 0.34), rng.uniform(0.0, 2.0 * np.pi)
    swell = 0.5 + 0.5 * np.sin(2.0 * np.pi * swell_hz * time_axis(length) + start)
    roar = shaped_noise(rng, length, [(60, -10), (250, 0), (900, -4), (4000, -18), (12000, -34)])
    foam = shaped_noise(rng, length, [(600, -30), (3000, 0), (9000, -6), (16000, -16)])
    return roar * (0.15 + swell**1.5) + 0.5 * foam * swell**3


def _crickets(rng: Generator, length: int) -> Signal:
    out = np.zeros(length)
    for _ in range(int(rng.integers(2, 4))):
        chirps_hz, pulses_hz = rng.uniform(1.8, 3.2), rng.uniform(28.0, 42.0)
        seconds = time_axis(length) + rng.uniform(0.0, 1.0)
        chirping = np.sin(2.0 * np.pi * chirps_hz * seconds) > rng.uniform(-0.2, 0.3)
        pulses = np.sin(2.0 * np.pi * pulses_hz * seconds).clip(0.0)
        out += tone(rng.uniform(4300.0, 5600.0), length) * chirping * pulses * rng.uniform(0.4, 1.0)
    return out


def _crowd(rng: Generator, length: int) -> Signal:
    out, loudness = np.zeros(length), np.zeros(length)
    for _ in range(4):
        voice_hz = rng.uniform(105.0, 230.0) * wander(rng, length, 3.0, 0.85, 1.2)
        throat = tone(voice_hz, length, _VOWEL)
        syllables = wander(rng, length, 8.0, -0.5, 1.0).clip(0.0)
        out += throat * syllables
        loudness += syllables
    vowel_hz = rng.uniform(420.0, 800.0)
    breath = shaped_noise(rng, length, [(200, -14), (vowel_hz, 0), (2400, -12), (6000, -30)])
    return out + breath * loudness


def _hum(rng: Generator, length: int) -> Signal:
    motor_hz = rng.uniform(96.0, 124.0)
    coils = [rng.uniform(0.3, 1.0) / order for order in range(1, 8)]
    fan = shaped_noise(rng, length, [(80, -4), (250, 0), (700, -14), (3000, -36)])
    return tone(motor_hz, length, coils) + 0.35 * fan


HITS: dict[str, Hit] = {
    "beep": Hit(_beep, 0.25, (0.3, 0.45), 5),
    "bell": Hit(_bell, 0.9, (0.45, 0.6), 4),
    "dog": Hit(_dog, 0.3, (0.3, 0.5), 5),
    "drop": Hit(_drop, 0.25, (0.3, 0.55), 5),
    "hammer": Hit(_hammer, 0.35, (0.35, 0.5), 5),
    "horn": Hit(_horn, 0.4, (0.45, 0.6), 4),
    "knock": Hit(_knock, 0.25, (0.25, 0.4), 5),
    "owl": Hit(_owl, 0.45, (0.5, 0.65), 4),
    "thunder": Hit(_thunder, 1.3, (0.85, 1.0), 2),
    "whistle": Hit(_whistle, 0.4, (0.45, 0.6), 4),
}
"""Countable kinds."""

RUNS: dict[str, Maker] = {
    "applause": _applause,
    "birds": _birds,
    "engine": _engine,
    "footsteps": _footsteps,
    "helicopter": _helicopter,
    "sawing": _sawing,
    "siren": _siren,
    "typing": _typing,
}
"""Kinds that go on for a while."""

TEXTURES: dict[str, Maker] = {
    "crickets": _crickets,
    "crowd": _crowd,
    "hum": _hum,
    "rain": _rain,
    "stream": _stream,
    "waves": _waves,
    "wind": _wind,
}
"""Backgrounds."""
