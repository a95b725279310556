"""Decoding processes: the same waveforms; whatever a decoder does, it costs one recording."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from e2i.audio import load_waveform
from e2i.cores import usable_cores
from e2i.decoding import mapping
from e2i.decoding.pool import DecodingPool, WaveformLoader, shared_pool
from e2i.decoding.process import DecodingProcess
from e2i.errors import AudioError, RunFailedError, StorageFullError

HERE = Path(__file__).parent
LONG_S = 60.0


def wav(seconds: float = 0.5, rate: int = 44_100, **options: str) -> bytes:
    file = io.BytesIO()
    samples = np.random.default_rng(3).uniform(-0.9, 0.9, (round(seconds * rate), 2))
    soundfile.write(file, samples, rate, format="WAV", **options)
    return file.getvalue()


def faulty(function: str = "serve") -> DecodingProcess:
    return DecodingProcess(f"faulty_decoders:{function}")


@pytest.fixture(autouse=True)
def decoders_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))


@pytest.fixture
def pool() -> Iterator[DecodingPool]:
    pool = DecodingPool(1, faulty)
    yield pool
    pool.close()


@pytest.mark.parametrize("resampler", ["torchaudio", "soxr"])
@pytest.mark.parametrize("rate", [8000, 32_000])
def test_waveforms_are_those_of_this_process(pool: DecodingPool, rate: int, resampler) -> None:
    expected = load_waveform(wav(), rate, "a", resampler)
    got = pool.load(wav(), rate, "a", resampler=resampler)
    np.testing.assert_array_equal(got.samples, expected.samples)
    assert got.duration_s == expected.duration_s
    assert (got.samples.dtype, got.samples.flags.writeable) == (np.float32, True)


def test_a_float_recording_over_full_scale_is_leveled(pool: DecodingPool) -> None:
    loud = io.BytesIO()
    soundfile.write(loud, np.array([0.5, -3.0, 1.5]), 8000, format="WAV", subtype="FLOAT")
    expected = load_waveform(loud.getvalue(), 8000, "a").samples
    np.testing.assert_array_equal(pool.load(loud.getvalue(), 8000, "a").samples, expected)
    assert np.abs(expected).max() == 1


def test_an_open_file_is_decoded_too(pool: DecodingPool, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav())
    with (tmp_path / "a.wav").open("rb") as file:
        got = pool.load(file, 32_000, "a")
    np.testing.assert_array_equal(got.samples, load_waveform(wav(), 32_000, "a").samples)


FAULTS = [
    ("hang", "'hang.wav' takes too long to decode: got no further block in 0.5 s, expected one"),
    ("segfault", "'segfault.wav' makes its decoder crash: got SIGSEGV, expected a waveform or a"),
    ("abort", "'abort.wav' makes its decoder crash: got SIGABRT, expected"),
    ("exit", "'exit.wav' makes its decoder crash: got exit code 7, expected"),
    ("killed", "'killed.wav' makes its decoder crash: got SIGKILL, as when memory runs out, exp"),
    ("memory", "'memory.wav' takes too much memory to decode: got no more of the 1,073,741,824"),
    ("strange", "cannot be decoded: got RuntimeError: the decoder lost its way, expected a wave"),
    ("words", "'words.wav' cannot be decoded: got 'Format not recognised', expected wav"),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS)
def test_a_faulty_decoder_costs_its_recording_only(
    pool: DecodingPool, fault: str, message: str
) -> None:
    limit_s = 0.5 if fault == "hang" else LONG_S
    with pytest.raises(AudioError) as raised:
        pool.load(fault.encode() + b" " * 20, 8000, f"{fault}.wav", timeout_s=limit_s)
    assert message in str(raised.value)
    assert len(pool.load(wav(), 8000, "a", timeout_s=LONG_S).samples) == 4000


def test_a_full_disk_is_not_the_recordings_fault(pool: DecodingPool) -> None:
    with pytest.raises(StorageFullError, match="no space is left to decode: got No space left"):
        pool.load(b"full ", 8000, "a")


def test_a_long_recording_may_take_longer_than_a_block_may(pool: DecodingPool) -> None:
    started = time.monotonic()
    with pytest.raises(AudioError, match="cannot be decoded: got 'Format not recognised'"):
        pool.load(b"slow ", 8000, "a", timeout_s=3.0)
    assert time.monotonic() - started > 3.0


def test_a_process_that_left_is_replaced() -> None:
    pool = DecodingPool(1, lambda: faulty("leave_soon"))
    for _ in range(3):
        assert len(pool.load(wav(), 8000, "a").samples) == 4000
        process = pool._free.get()
        assert process is not None
        process._process.wait()
        pool._free.put(process)
    pool.close()


def test_processes_that_cannot_start_end_the_run_and_not_the_clip() -> None:
    pool = DecodingPool(1, lambda: faulty("refuse"))
    with pytest.raises(RunFailedError, match="does not start: got no such decoder, expected it"):
        pool.load(wav(), 8000, "a")


def test_a_system_without_room_for_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    pool = DecodingPool(1)
    monkeypatch.setattr("e2i.decoding.process.subprocess.Popen", refuse)
    with pytest.raises(RunFailedError, match=r"does not start: got .Errno 11. Resource"):
        pool.load(wav(), 8000, "a")
    monkeypatch.undo()
    assert len(pool.load(wav(), 8000, "a").samples) == 4000
    pool.close()


def test_no_room_for_temporary_files(pool: DecodingPool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("e2i.decoding.temporary.tempfile.TemporaryFile", refuse)
    with pytest.raises(StorageFullError, match="no space is left to write: got No space left"):
        pool.load(wav(), 8000, "a")


def test_many_threads_share_few_processes() -> None:
    started: list[DecodingProcess] = []

    def start() -> DecodingProcess:
        started.append(DecodingProcess())
        return started[-1]

    pool = DecodingPool(2, start)
    recordings = [wav(0.01 * (1 + n)) for n in range(12)]
    with ThreadPoolExecutor(6) as threads:
        made = list(threads.map(lambda data: pool.load(data, 8000, "a"), recordings))
    assert [len(w.samples) for w in made] == [80 * (1 + n) for n in range(12)]
    assert 1 <= len(started) <= 2
    pool.close()
    assert not any(process.alive for process in started)
    assert len(pool.load(wav(), 8000, "a").samples) == 4000
    pool.close()


def test_ctrl_c_and_sigterm_leave_a_process_to_its_work(pool: DecodingPool) -> None:
    pool.load(wav(), 8000, "a")
    process = pool._free.get()
    assert process is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(process.pid, number)
    pool._free.put(process)
    assert len(pool.load(wav(), 8000, "a").samples) == 4000
    assert pool._free.get() is process
    process.end()


def test_the_pool_of_a_process_is_one() -> None:
    assert shared_pool(3) is shared_pool(3)
    assert shared_pool() is shared_pool(usable_cores())
    loader = WaveformLoader(processes=1, resampler="soxr")
    assert (loader.at_once, WaveformLoader().at_once) == (1, usable_cores())
    expected = load_waveform(wav(), 8000, "a", "soxr").samples
    np.testing.assert_array_equal(loader(wav(), 8000, "a").samples, expected)


def test_a_large_waveform_outlives_that_its_memory_is_given_back(
    pool: DecodingPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "_LARGE_BYTES", 0)
    monkeypatch.setattr(mapping, "_PAUSE_S", 0.001)
    waveform = pool.load(wav(2), 32_000, "a")
    (watcher,) = [t for t in threading.enumerate() if t.name == mapping.WATCHER]
    expected = load_waveform(wav(2), 32_000, "a").samples
    for value in range(50):
        waveform.samples[:100] = value
        mapping.give_back(waveform.samples[5:])
        time.sleep(0.002)
        np.testing.assert_array_equal(waveform.samples[100:], expected[100:])
        assert (waveform.samples[:100] == value).all()
    del waveform
    watcher.join(60)
    assert not watcher.is_alive()


PARENT = """
import tempfile, threading
from e2i.decoding.process import DecodingProcess
idle, hangs = [DecodingProcess("faulty_decoders:serve") for _ in range(2)]
for process, word in ((idle, b"words "), (hangs, b"hang ")):
    source, target = tempfile.TemporaryFile(), tempfile.TemporaryFile()
    source.write(word)
    source.flush()
    request = b'{"timeout_s": 1, "sample_rate": 8000, "name": "a", "resampler": "torchaudio"}\\n'
    process._begin(request, [source.fileno(), target.fileno()])
print(idle.pid, hangs.pid, flush=True)
threading.Event().wait()
"""


def test_nothing_is_left_of_a_killed_program() -> None:
    """One process is idle, and one hangs in native code, when the program is killed."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        left = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
        parent.kill()
    assert len(pids) == 2
    _, alive = psutil.wait_procs(left, timeout=60)
    assert not alive
