"""One decoding process, as seen from the process that started it.

Why not a process pool of the standard library, loky or Pebble: the first two do not kill what
hangs. All three start their processes through `multiprocessing`, which imports the main module
again in each of them (in a run that a Prefect worker started, that is Prefect), copies a waveform
twice on its way back, and leaves a process that hangs when its parent is killed.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from e2i.decoding.worker import SYSTEM
from e2i.errors import AudioError, RunFailedError
from e2i.resampling import ResamplerName
from e2i.storage import translation

_START_S = 120.0
_END_S = 5.0
_MESSAGE_BYTES = 2**16
_ROOT = str(Path(__file__).parents[2])
_SERVE = "e2i.decoding.worker:serve"
_BLOCKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP)
"""What a terminal or a supervisor sends to everybody; the process ends with the one it serves."""

_CODE = """\
import os, sys
os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
sys.path.insert(0, {root!r})
from {module} import {function}
{function}({descriptor})
"""


class Decoded(NamedTuple):
    """What a recording came to.

    Attributes:
        samples: T, the number of samples in the file.
        duration_s: length of the recording as stored, in seconds.
    """

    samples: int
    duration_s: float


class NotBegunError(RunFailedError):
    """The process ended before it took the recording, which is not to blame for that."""


class DecodingProcess:
    """A process that decodes one recording at a time; not to be used by two threads at once.

    Args:
        serve: `module:function` that it runs, for tests; it takes the descriptor of a socket.

    Raises:
        NotBegunError: the system starts no more processes.
    """

    def __init__(self, serve: str = _SERVE) -> None:
        module, _, function = serve.partition(":")
        self._connection, theirs = socket.socketpair()
        self._received = b""
        self._last_words = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `end`
        code = _CODE.format(
            root=_ROOT, module=module, function=function, descriptor=theirs.fileno()
        )
        # The mask is inherited, so there is no moment at which Ctrl-C could end it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
        try:
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 - this program itself
                    [sys.executable, "-P", "-c", code],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._last_words,
                )
        except OSError as error:
            self._connection.close()
            self._last_words.close()
            raise _not_begun(str(error)) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @property
    def alive(self) -> bool:
        """Whether it is there to be asked."""
        return self._connection.fileno() >= 0

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def decode(
        self,
        source: BinaryIO,
        target: BinaryIO,
        *,
        sample_rate: int,
        name: str,
        resampler: ResamplerName,
        timeout_s: float,
    ) -> Decoded:
        """Decode a recording into a file. After any error but a refusal the process is no more.

        Args:
            source: an open file.
            target: an open file, empty; float32 afterwards.
            sample_rate: rate wanted, in Hz.
            name: what the recording is called, for messages.
            resampler: which.
            timeout_s: how long it may go without another block.

        Raises:
            AudioError: the recording cannot be used, or its decoder hung or crashed.
            NotBegunError: the process ended for a reason of its own.
            StorageError: the disk of temporary files refused.
        """
        answer = self._asked(
            [source, target],
            timeout_s,
            {"sample_rate": sample_rate, "name": name, "resampler": resampler},
        )
        return Decoded(answer["samples"], answer["duration_s"])

    def measure(
        self, source: BinaryIO, *, sample_rate: int, name: str, timeout_s: float
    ) -> int | None:
        """How many samples a recording will come to, by its header; None where that does not say.

        Args:
            source: an open file.
            sample_rate: rate wanted, in Hz.
            name: what the recording is called, for messages.
            timeout_s: how long it may take.

        Raises:
            AudioError: as `decode`.
            NotBegunError: as `decode`.
        """
        samples: int | None = self._asked(
            [source], timeout_s, {"sample_rate": sample_rate, "name": name}
        )["samples"]
        return samples

    def _asked(
        self, files: list[BinaryIO], timeout_s: float, request: dict[str, object]
    ) -> dict[str, Any]:
        """The answer to a request; after any error but a refusal the process is no more."""
        name = str(request["name"])
        line = json.dumps(request | {"timeout_s": timeout_s}).encode() + b"\n"
        try:
            self._begin(line, [file.fileno() for file in files])
            while "moved" in (answer := self._answer(timeout_s)):
                pass
        except _EndedError:
            raise self._crash(name, timeout_s) from None
        except TimeoutError:
            self.end()
            raise _hangs(name, timeout_s) from None
        except BaseException:
            self.end()
            raise
        if answer.get("error") == SYSTEM:
            error = OSError(answer["errno"], answer["text"])
            raise translation.from_os_error(error, "decode", f"{name!r} ({tempfile.gettempdir()})")
        if "error" in answer:
            raise AudioError(answer["text"])
        return answer

    def end(self) -> int:
        """End it, whatever it is doing; its return code."""
        self._connection.close()
        self._process.kill()
        code = self._process.wait()
        self._last_words.close()
        return code

    def _begin(self, request: bytes, files: list[int]) -> None:
        """Hand a request over, and wait until it is taken."""
        try:
            socket.send_fds(self._connection, [request], files)
            self._answer(_START_S)
        except (_EndedError, OSError) as error:
            self._last_words.seek(0)
            said = self._last_words.read().decode(errors="replace").strip().splitlines()
            self.end()
            raise _not_begun(said[-1] if said else type(error).__name__) from None

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        """The next line that it sends."""
        self._connection.settimeout(timeout_s)
        while b"\n" not in self._received:
            try:
                data = self._connection.recv(_MESSAGE_BYTES)
            except ConnectionError:
                data = b""
            if not data:
                raise _EndedError
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _crash(self, name: str, timeout_s: float) -> AudioError:
        """What to say of a recording during which the process ended."""
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            code = -signal.SIGKILL
        self.end()
        if code == -signal.SIGALRM:
            return _hangs(name, timeout_s)
        got = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if code == -signal.SIGKILL:
            got += ", as when memory runs out"
        return AudioError(
            f"recording {name!r} makes its decoder crash: got {got}, expected a waveform or a "
            "refusal. Convert it to wav, or leave it out."
        )


class _EndedError(Exception):
    """Nobody is at the other end."""


def _not_begun(got: str) -> NotBegunError:
    return NotBegunError(
        f"a decoding process does not start: got {got}, expected it to take a recording. Check "
        "that this Python can start processes, and that memory is left."
    )


def _hangs(name: str, timeout_s: float) -> AudioError:
    return AudioError(
        f"recording {name!r} takes too long to decode: got no further block in {timeout_s:g} s, "
        "expected one within --decode-timeout. Convert it to wav; if the machine was busy, raise "
        "the time-out."
    )
