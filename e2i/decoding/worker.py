"""What runs in a decoding process: recordings in, waveforms out, one at a time.

Conventions: a request is a line of JSON that comes over a socket together with two open files: the
recording, and an empty file for its waveform (float32, as in memory). Each answer is a line of
JSON: `{"begun": true}` when the request is taken, `{"moved": true}` after each block, so that a
hang can be told from a long recording, and at the end `{"samples": T, "duration_s": s}` or
`{"error": <what is to blame>, "text": <reason>}`. A request that comes without a second file is
answered with the T that is to be expected, or null.

The process ends when nobody is at the other end of the socket, when nothing was asked of it for a
while, and when a block takes much longer than it may, by an alarm of the operating system: so
nothing of it is left when the process that started it is killed, even where a decoder hangs.

It is started with the signals of a terminal blocked, so that Ctrl-C leaves it to its work. Nothing
heavy is imported here: with NumPy and libsndfile a process takes 40 MB, and no torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import resource
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from e2i.audio import WaveformStream, expected_samples
from e2i.errors import AudioError
from e2i.resampling import ResamplerName

MEMORY_BYTES = 2**30
"""What a decoding process may take; a waveform is not kept in memory."""

IDLE_S = 60.0
_MESSAGE_BYTES = 2**16
_ALARM_FACTOR = 2
_LEVELED_SAMPLES = 2**20

RECORDING = "recording"
SYSTEM = "system"
"""What is to blame for an error."""


def serve(descriptor: int) -> None:
    """Answer requests on the socket of this descriptor, until it closes."""
    connection = socket.socket(fileno=descriptor)
    _bound()
    requests: queue.Queue[tuple[dict[str, Any], list[int]]] = queue.Queue()
    threading.Thread(target=_receive, args=(connection, requests), daemon=True).start()
    with contextlib.suppress(queue.Empty, OSError):
        while True:
            request, files = requests.get(timeout=IDLE_S)
            _answer(connection, request, files)
    os._exit(0)


def _bound() -> None:
    """Limit memory, leave no core dump, and say no more on stderr, where decoders chatter."""
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    if most == resource.RLIM_INFINITY or most > MEMORY_BYTES:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    os.close(silence)


def _receive(
    connection: socket.socket, requests: queue.Queue[tuple[dict[str, Any], list[int]]]
) -> None:
    """Pass requests on; when the other end is gone, end the process, whatever it is doing."""
    line = b""
    files: list[int] = []
    with contextlib.suppress(OSError):
        while True:
            data, found, _, _ = socket.recv_fds(connection, _MESSAGE_BYTES, 2)
            if not data:
                break
            line, files = line + data, files + found
            if line.endswith(b"\n"):
                requests.put((json.loads(line), files))
                line, files = b"", []
    os._exit(0)


def _answer(connection: socket.socket, request: dict[str, Any], files: list[int]) -> None:
    def say(**answer: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, _ALARM_FACTOR * request["timeout_s"])
        connection.sendall(json.dumps(answer).encode() + b"\n")

    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open(files[0], "rb", buffering=0))  # noqa: PTH123
        target = stack.enter_context(open(files[1], "r+b")) if files[1:] else None  # noqa: PTH123
        say(begun=True)
        answer = _outcome(source, target, request, lambda: say(moved=True))
    say(**answer)
    signal.setitimer(signal.ITIMER_REAL, 0)


def _outcome(
    source: BinaryIO, target: BinaryIO | None, request: dict[str, Any], moved: Callable[[], None]
) -> dict[str, object]:
    """What came of a request, whatever that is."""
    name = request["name"]
    try:
        if target is None:
            return {"samples": expected_samples(source, request["sample_rate"], name)}
        samples, duration_s = write_waveform(
            source,
            target,
            sample_rate=request["sample_rate"],
            name=name,
            resampler=request["resampler"],
            moved=moved,
        )
    except AudioError as error:
        return {"error": RECORDING, "text": str(error)}
    except MemoryError:
        return {
            "error": RECORDING,
            "text": f"recording {name!r} takes too much memory to decode: got no more of the "
            f"{MEMORY_BYTES:,} bytes, expected it to fit. Convert it to wav.",
        }
    except OSError as error:
        return {"error": SYSTEM, "errno": error.errno, "text": str(error)}
    except Exception as error:
        return {
            "error": RECORDING,
            "text": f"recording {name!r} cannot be decoded: got {type(error).__name__}: {error}, "
            "expected a waveform. Convert it to wav.",
        }
    return {"samples": samples, "duration_s": duration_s}


def write_waveform(
    source: BinaryIO,
    target: BinaryIO,
    *,
    sample_rate: int,
    name: str,
    resampler: ResamplerName,
    moved: Callable[[], None],
) -> tuple[int, float]:
    """Decode a recording into a file, in the memory of a few blocks.

    Args:
        source: the recording.
        target: empty, readable and writable; float32 afterwards.
        sample_rate: rate wanted, in Hz.
        name: what the recording is called, for messages.
        resampler: which.
        moved: called after each block.

    Returns:
        T, the number of samples written, and the duration as stored, in seconds.

    Raises:
        AudioError: as `e2i.audio.decode`.
        OSError: no space is left.
    """
    stream = WaveformStream(source, sample_rate, name, resampler)
    length = 0
    for block in stream.blocks():
        target.write(np.ascontiguousarray(block).data)
        length += len(block)
        moved()
    target.flush()
    for start in range(0, length if stream.is_over else 0, _LEVELED_SAMPLES):
        # Mapped anew for each block: what was mapped counts as memory.
        stream.level(
            np.memmap(
                target,
                dtype=np.float32,
                mode="r+",
                offset=start * 4,
                shape=(min(_LEVELED_SAMPLES, length - start),),
            )
        )
        moved()
    return length, stream.duration_s
