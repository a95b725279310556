"""Embeds one recording and prints what memory it took.

Run as `python long_recording_program.py FILE`: prints the peak of this process before it, the
peak after it, and that of the decoding process, in bytes; then the number of samples embedded.
"""

from __future__ import annotations

import resource
import sys
import uuid
from pathlib import Path

import numpy as np

from e2i.cache.embed_audio import embed_audio_chunk
from e2i.cache.header import SideSettings
from e2i.cache.plan import AudioChunk, WantedClip
from e2i.cache.shards import ShardStamp
from e2i.decoding.pool import WaveformLoader, shared_pool
from e2i.encoders.logmel import LogMelEncoder
from e2i.storage import Folder

path = Path(sys.argv[1])
lengths = []


class Encoder(LogMelEncoder):
    def encode(self, waveforms):
        lengths.extend(len(waveform) for waveform in waveforms)
        return super().encode(waveforms)


def peak_bytes(who: int) -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(who).ru_maxrss * unit


encoder = Encoder()
encoder.encode([np.zeros(32_000, np.float32)])
side = SideSettings.of(encoder)
stamp = ShardStamp("audio", "data", "all", side.fingerprint, 0, side.dim)
chunk = AudioChunk(0, 1, stamp, (WantedClip("clip", path.name),))
cache = Folder(f"memory://long/{uuid.uuid4().hex}")
before = peak_bytes(resource.RUSAGE_SELF)
result = embed_audio_chunk(cache, Folder(path.parent), chunk, encoder, WaveformLoader(processes=1))
after = peak_bytes(resource.RUSAGE_SELF)
shared_pool(1).close()
assert result.embedded == 1, result
peaks = (before, after, peak_bytes(resource.RUSAGE_CHILDREN))
sys.stdout.write(" ".join(map(str, (*peaks, lengths[-1]))))
