"""One run of a cache on the local disk, as a process that tests kill.

Called with the folder of the data set, the cache and a file to which each encoded clip and caption
is appended before its forward begins.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[3])]

from cache_world import CountingAudioEncoder, CountingTextEncoder, World  # noqa: E402

from e2i.storage import Folder  # noqa: E402

FORWARD_S = 0.02
CHUNK_SIZE = 4


class SlowAudio(CountingAudioEncoder):
    log: int

    def encode(self, waveforms):
        for waveform in waveforms:
            os.write(self.log, b"a " + (waveform * 256).astype("u1").tobytes() + b"\n")
        time.sleep(FORWARD_S)
        return super().encode(waveforms)


class SlowText(CountingTextEncoder):
    log: int

    def encode(self, captions):
        for caption in captions:
            os.write(self.log, b"t " + caption.encode() + b"\n")
        time.sleep(FORWARD_S)
        return super().encode(captions)


def main(data: str, cache: str, log: str) -> None:
    world = World(Folder(cache), Folder(data), audio=SlowAudio(), text=SlowText())
    world.audio.log = world.text.log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for path in sorted(Path(data).iterdir()):
        world.texts[path.name] = [f"{n} of {path.name}" for n in range(2)]
    Path(log + ".started").touch()
    world.build(CHUNK_SIZE)


if __name__ == "__main__":
    main(*sys.argv[1:])
