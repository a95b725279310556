"""Bad input of every kind: a clear error, the right exit code, no traceback, nothing lost.

Each case is a call of the program, parsed and run by its own code. To be quick, tasks are called
as the plain functions that they are, without Prefect around them; a few calls at the end go
through the installed program, whole.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

import flows.caching
import flows.learning
import tasks.embedding
import tasks.learning
import tasks.progress
from e2i.configuration import Configuration
from flows import command_line, execution
from flows.preflight import check_call

ENCODERS = ("--audio-encoder", "logmel", "--text-encoder", "hashing")
RATE = 8_000
NOBODY = 65_534
PROGRAM = str(Path(sys.executable).with_name("e2i"))


# The program in this process.


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def e2i(*arguments: str) -> Outcome:
    """Call the program; an error that it does not turn into an exit code fails the test."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            command_line.main(arguments)
        except SystemExit as ended:
            return Outcome(int(ended.code or 0), out.getvalue(), err.getvalue())


def _run_without_prefect(command: command_line.Command, options) -> object:
    check_call(options.parameters)
    function = execution._load(command.runs)
    if not command.needs_prefect:
        return function(options.parameters)
    fields: Configuration = options.parameters
    return function.fn(**{name: getattr(fields, name) for name in type(fields).model_fields})


def _embed_chunks(cache_url, split, encoders) -> list[dict[str, int]]:
    root, stage = split.clips.audio_root_url, split.stage
    embed_audio, embed_text = tasks.embedding.embed_audio.fn, tasks.embedding.embed_text.fn
    return [
        *(embed_audio(cache_url, root, c, encoders, stage) for c in split.plan.audio_chunks),
        *(embed_text(cache_url, c, encoders, stage) for c in split.plan.text_chunks),
    ]


def _end(code: int) -> None:
    raise SystemExit(code)


@pytest.fixture(scope="module", autouse=True)
def _plain() -> Iterator[None]:
    """Tasks without Prefect, and a program that does not end the process."""
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "_run", _run_without_prefect)
        patch.setattr("os._exit", _end)
        for module in (tasks.embedding, tasks.learning, tasks.progress):
            patch.setattr(module, "get_run_logger", lambda: logging.getLogger("bad input"))
        patch.setattr(tasks.progress, "create_progress_artifact", lambda **_: None)
        patch.setattr(tasks.learning, "scores_artifact", lambda *_: None)
        patch.setattr(flows.caching, "submit_chunks", _embed_chunks)
        patch.setattr(
            flows.caching, "gather_chunks", lambda done, _: sum(map(Counter, done), Counter())
        )
        patch.setattr(flows.caching, "unvisited", lambda parameter: parameter)
        for module, name in (
            (flows.caching, "plan_embedding"),
            (flows.caching, "finish_embedding"),
            (flows.learning, "train"),
            (flows.learning, "evaluate"),
        ):
            patch.setattr(module, name, getattr(module, name).fn)
        yield
    signal.signal(signal.SIGTERM, handler)


# What is whole, and must stay so.


class World(NamedTuple):
    """A data set, its cache and a checkpoint trained on it."""

    root: Path

    @property
    def metadata(self) -> Path:
        return self.root / "data" / "development.csv"

    @property
    def cache(self) -> Path:
        return self.root / "embeddings" / "development"

    @property
    def checkpoint(self) -> Path:
        return self.root / "checkpoints" / "projection_heads.safetensors"

    def state(self) -> dict[str, str]:
        return {
            str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.root.rglob("*")
            if path.is_file()
        }


def write_recordings(folder: Path, count: int, rate: int = RATE) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    names = [f"good {number}.wav" for number in range(count)]
    for name in names:
        soundfile.write(folder / name, 0.1 * rng.standard_normal(rate // 4), rate)
    return names


def write_metadata(path: Path, names: list[str]) -> Path:
    rows = [f'"{name}",sound of number {n},noise {n}' for n, name in enumerate(names)]
    path.write_text("\n".join(["file_name,caption_1,caption_2", *rows]))
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("world"))
    write_metadata(made.metadata, write_recordings(made.metadata.parent, 12))
    done = e2i(
        *("cache-embeddings", "--metadata", str(made.metadata), "--cache-dir", str(made.cache)),
        *ENCODERS,
    )
    assert done.code == 0, done.err
    done = e2i(
        *("train-projection", "--cache-dir", str(made.cache), "--epochs", "1", "--device", "cpu"),
        *("--output-dir", str(made.checkpoint.parent), "--hidden-dim", "8", "--out-dim", "4"),
    )
    assert done.code == 0, done.err
    return made


# The table.

Make = Callable[[World, Path], list[str]]


class Case(NamedTuple):
    """A call that is wrong.

    Attributes:
        name: of the case.
        make: prepares the input in a folder of its own; gives the arguments.
        words: that the message has to hold: what is wrong, got, expected, the next step.
        code: exit code.
        flaw: why the case does not pass yet.
    """

    name: str
    make: Make
    words: tuple[str, ...]
    code: int = 1
    flaw: str = ""


def metadata(name: str, data: bytes | str, *words: str, options: tuple[str, ...] = ()) -> Case:
    """A metadata file that is wrong."""

    def make(world: World, tmp: Path) -> list[str]:
        path = tmp / name.split(": ")[-1]
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return embed(path, tmp / "cache", *options)

    return Case(name, make, ("metadata", *words))


def embed(source: Path | str, cache: Path | str, *options: str) -> list[str]:
    return [
        *("cache-embeddings", "--metadata", str(source), "--cache-dir", str(cache)),
        *(*ENCODERS, *options),
    ]


def embed_to(cache: Path | str, *options: str) -> Make:
    """The good data set, into a cache or with options that are wrong."""
    return lambda world, tmp: embed(
        world.metadata, str(cache).format(tmp=tmp, world=world.root), *options
    )


HEADER = "file_name,caption_1,caption_2\n"
CSV = [
    metadata(
        "no column file_name: a.csv",
        "file,caption_1\na.wav,x\n",
        "got no column file_name",
        "expected file_name, caption_1",
        "Correct the header.",
    ),
    metadata("no caption column: a.csv", "file_name,text\na.wav,x\n", "got no caption column"),
    metadata(
        "no caption: a.csv",
        HEADER + "a.wav,x,y\nb.wav,, \n",
        "row 2 (line 3): no caption",
        "'b.wav'",
        "expected at least one caption",
        "Add one, or remove the row.",
    ),
    metadata(
        "duplicate row: a.csv",
        HEADER + "a.wav,x,y\na.wav,x,y\n",
        "row 2 (line 3): file_name",
        "got 'a.wav' here and in row 1 (line 2)",
        "Remove one of the rows.",
    ),
    metadata(
        "latin-1: a.csv",
        (HEADER + "a.wav,café,x\n").encode("latin-1"),
        "is not UTF-8",
        "got byte 0xe9 in line 2",
        "iconv -f ISO-8859-1",
    ),
    metadata("UTF-16: a.csv", (HEADER + "a.wav,x,y\n").encode("utf-16"), "got UTF-16", "iconv"),
    metadata("binary: a.csv", b"RIFF\x24\x00\x00\x00WAVE" * 9, "is not text", "a NUL byte in line"),
    metadata("empty: a.csv", "", "is empty: got no text, expected a header and rows", "Fetch"),
    metadata("no rows: a.csv", HEADER, "holds no clips: got a header and 0 rows"),
    metadata(
        "quotes unbalanced: a.csv",
        HEADER + 'a.wav,"x,y\nb.wav,x,y\n',
        "cannot be read at row 1 (line 2): got an unbalanced quote",
        "Correct the quotes.",
    ),
    metadata(
        "unquoted comma: a.csv",
        HEADER + "a.wav,rain, heavy,y\n",
        "got 4, expected 3",
        "Put captions with commas in double quotes",
    ),
    metadata(
        "cut short: a.csv", HEADER + "a.wav,x,y\nb.wa", "row 2 (line 3): wrong number of cells"
    ),
    metadata("semicolons: a.csv", "file_name;caption_1\na.wav;x\n", "separated by commas"),
    metadata("endless cell: a.csv", HEADER + 'a.wav,"' + "x" * 200_000, "a quote that opens there"),
]

ENTRY = '{"id": "a", "audio": "a.wav", "text": "x"}'
JSON = [
    metadata(
        "not a list: a.json",
        '{"data": [1]}',
        "is not a list: got an object (keys: 'data')",
        "expected a list of objects, or one object a line",
    ),
    metadata(
        "entries of wrong type: a.json",
        '["a", 3]',
        "has 2 wrong entries",
        "entry 1: not an object: got the string 'a'",
        "entry 2: not an object",
    ),
    metadata(
        "wrong id: a.json",
        '[{"id": [], "audio": "a.wav", "text": "x"}]',
        "under 'id': got a list, expected a string",
    ),
    metadata(
        "wrong text: a.json",
        '[{"id": 1, "audio": "a.wav", "text": 5}]',
        "under 'text': got "
        "the number 5, expected a string or a list of strings. Correct the entry.",
    ),
    metadata(
        "wrong audio: a.json",
        '[{"id": 1, "audio": [0.1, 0.2], "text": "x"}]',
        "under 'audio': got a list, expected the path or URL of a recording",
    ),
    metadata(
        "wrong rate: a.json",
        '[{"id": 1, "audio": "a", "text": "x", "sample_rate": "fast"}]',
        "under 'sample_rate': got the string 'fast', expected a sample rate in Hz",
    ),
    metadata(
        "missing key: a.json",
        '[{"id": 1, "audio": "a.wav", "caption": "x"}]',
        "entry 1: no key 'text': got the keys 'id', 'audio', 'caption'",
        "--text-key",
    ),
    metadata(
        "missing key of that name: a.json",
        f"[{ENTRY}]",
        "no key 'path'",
        "--audio-key",
        options=("--audio-key", "path"),
    ),
    metadata(
        "duplicate ids: a.json",
        f"[{ENTRY}, {ENTRY}]",
        "entry 2: id stands twice: got 'a' here and in entry 1, expected each once",
    ),
    metadata("deep nesting: a.json", "[" * 100_000, "is nested too deeply", "Correct the file."),
    metadata("cut short: a.json", f"[{ENTRY}, ", "is not JSON: got", "line 1, column"),
    metadata("no entries: a.json", "[]", "holds no clips: got 0 entries, expected at least 1"),
    metadata("empty: a.json", "", "is empty: got no text"),
    metadata("latin-1: a.json", '["é"]'.encode("latin-1"), "is not UTF-8: got byte 0xe9"),
    metadata("binary: a.jsonl", bytes(range(256)), "is not text: got a NUL byte"),
    metadata(
        "a broken line: a.jsonl", f"{ENTRY}\n{ENTRY[:20]}\n", "entry 2 (line 2): not JSON: got"
    ),
    metadata("half a surrogate: a.jsonl", ENTRY.replace('"x"', '"\\ud800"'), "half a surrogate"),
]


def folder_as_metadata(world: World, tmp: Path) -> list[str]:
    return embed(tmp, tmp / "cache")


def file_as_cache(world: World, tmp: Path) -> list[str]:
    (tmp / "cache").write_text("a file")
    return embed(world.metadata, tmp / "cache")


def checkpoint_folder(world: World, tmp: Path) -> list[str]:
    return ["eval-projection", "--cache-dir", str(world.cache), "--checkpoint", str(tmp)]


def words(*arguments: str) -> Make:
    return lambda world, tmp: list(arguments)


OPTIONS = [
    Case("unknown command", words("cache-embedings"), ("'cache-embedings'", "Did you mean"), 2),
    Case("unknown option", words("demo", "--wat"), ("--wat",), 2),
    Case("option without value", words("demo", "--store-url"), ("--store-url",), 2),
    Case("option missing", words("cache-images"), ("--cache-dir",), 2),
    Case(
        "out of bounds",
        words("train-projection", "--epochs", "0"),
        ("epochs", "greater than or", "got 0"),
        2,
    ),
    Case("negative", words("cache-embeddings", "--chunk-size", "-1"), ("chunk-size", "got -1"), 2),
    Case("no number", words("train-projection", "--lr", "fast"), ("--lr", "fast"), 2),
    Case("not finite", words("train-projection", "--lr", "nan"), ("lr", "nan"), 2),
    Case(
        "half a clip",
        words("cache-embeddings", "--max-failures", "1.5"),
        ("max_failures", "1.5", "expected a share below 1 or a whole number", "Round it."),
        2,
    ),
    Case(
        "unknown choice",
        words("demo", "--audio-encoder", "vgg"),
        ("--audio-encoder", "vgg", "logmel"),
        2,
    ),
    Case(
        "a metric at another k",
        words("train-projection", "--selection-metric", "text_to_audio_R@7"),
        ("--selection-metric", "text_to_audio_R@7", "R@10"),
        2,
    ),
    Case(
        "shares that leave nothing",
        words("train-projection", "--val-fraction", "0.6", "--test-fraction", "0.6"),
        ("got 0.6 + 0.6, expected a sum below 1", "Lower one"),
        2,
    ),
    Case(
        "image size",
        words("cache-images", "--cache-dir", "x", "--image-size", "0"),
        ("image-size",),
        2,
    ),
    Case("a split with a slash", words("cache-embeddings", "--split", "a/b"), ("split", "a/b"), 2),
    Case("empty metadata", words("cache-embeddings", "--metadata", ""), ("metadata", "got ''"), 2),
    Case(
        "unknown device",
        lambda world, tmp: [
            "train-projection",
            "--cache-dir",
            str(world.cache),
            "--output-dir",
            str(tmp / "heads"),
            "--device",
            "abacus",
        ],
        ("device", "'abacus'"),
        2,
    ),
    Case(
        "metadata that is missing",
        lambda world, tmp: embed(tmp / "no.csv", tmp / "cache"),
        ("metadata not found: got", "no.csv, expected a caption file. Correct --metadata."),
    ),
    Case(
        "folder as metadata",
        folder_as_metadata,
        ("metadata is a folder: got", "expected a caption file", "--metadata"),
        1,
        "a folder as --metadata reads as 'not found'",
    ),
    Case("file as cache", file_as_cache, ("got Not a directory for", "a file lies where a folder")),
    Case(
        "folder as checkpoint",
        checkpoint_folder,
        ("checkpoint is a folder",),
        1,
        "a folder as --checkpoint reads as 'there is no checkpoint'",
    ),
    Case(
        "URL of an unknown protocol",
        lambda world, tmp: embed("gopher://x/a.csv", tmp / "cache"),
        ("unknown protocol: got 'gopher', expected one of: local paths", "Correct the URL."),
        2,
    ),
    Case("cache of an unknown protocol", embed_to("gopher://x/cache"), ("unknown protocol",), 2),
    Case(
        "URL with one slash",
        embed_to("s3:/bucket/cache"),
        ("malformed URL: got one slash",),
        2,
        "the command line makes s3:/bucket a path of the working directory",
    ),
    Case(
        "URL without a bucket", embed_to("s3:///cache"), ("malformed URL: got no valid bucket",), 2
    ),
    Case("cache on the web", embed_to("https://x.invalid/cache"), ("https:// is for reading",), 2),
]


def cache_with(change: Callable[[Path], None], command: str = "train-projection") -> Make:
    """A copy of the good cache, changed."""

    def make(world: World, tmp: Path) -> list[str]:
        cache = tmp / "embeddings" / "development"
        shutil.copytree(world.cache, cache)
        change(cache)
        if command == "embed":
            return embed(world.metadata, cache)
        options = ["--output-dir", str(tmp / "heads")] if command == "train-projection" else []
        return [*command.split(), "--cache-dir", str(cache), *options]

    return make


def shard(cache: Path, side: str) -> Path:
    (path,) = (cache / side).iterdir()
    return path


def edit_rows(side: str, edit: Callable[[dict[str, list]], None]) -> Callable[[Path], None]:
    """Rows of another content, which the manifest agrees with."""

    def change(cache: Path) -> None:
        path = shard(cache, side)
        table = pq.read_table(path)
        rows = table.to_pydict()
        edit(rows)
        pq.write_table(type(table).from_pydict(rows, schema=table.schema), path)
        manifest = json.loads((cache / "manifest.json").read_text())
        (entry,) = manifest[side]["shards"]
        data = path.read_bytes()
        entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (cache / "manifest.json").write_text(json.dumps(manifest))

    return change


def with_nan(rows: dict[str, list]) -> None:
    rows["embedding"][3][0] = float("nan")


def with_strangers(rows: dict[str, list]) -> None:
    rows["clip_id"] = [f"other {n}" for n in range(len(rows["clip_id"]))]


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def newer_schema(cache: Path) -> None:
    header = json.loads((cache / "cache.json").read_text())
    (cache / "cache.json").write_text(json.dumps(header | {"schema_version": 99}))


def originals_only(cache: Path) -> None:
    shutil.rmtree(cache)
    cache.mkdir()
    (cache / "audio_embeddings.pt").write_bytes(b"not ours")


def other_split(world: World, tmp: Path) -> list[str]:
    return embed(world.metadata, world.cache, "--split", "other")


def other_settings(world: World, tmp: Path) -> list[str]:
    return embed(world.metadata, world.cache, "--no-normalize")


def train_on(cache: Path) -> list[str]:
    return ["train-projection", "--cache-dir", str(cache), "--output-dir", str(cache / "heads")]


CACHES = [
    Case(
        "no cache",
        lambda world, tmp: train_on(tmp / "nothing"),
        ("there is no cache: got", "expected a folder with cache.json", "--cache-dir"),
    ),
    Case(
        "no cache to evaluate",
        words("eval-projection", "--cache-dir", "/nowhere/cache"),
        ("there is no cache: got /nowhere/cache",),
    ),
    Case(
        "no cache to look at",
        words("cache", "info", "--cache-dir", "/nowhere/cache"),
        ("there is no cache: got /nowhere/cache",),
    ),
    Case(
        "a folder of other things",
        lambda world, tmp: train_on(world.metadata.parent),
        ("there is no cache: got",),
    ),
    Case(
        "embeddings of the original's",
        cache_with(originals_only, "embed"),
        ("holds embeddings that e2i did not write: got audio_embeddings.pt", "another --cache-dir"),
    ),
    Case(
        "not finished",
        cache_with(lambda cache: (cache / "manifest.json").unlink()),
        ("the cache is not whole: got no manifest.json", "e2i cache-embeddings"),
    ),
    Case(
        "header cut short",
        cache_with(lambda cache: os.truncate(cache / "cache.json", 20)),
        ("cache.json cannot be read", "Restore the file"),
    ),
    Case(
        "manifest cut short",
        cache_with(lambda cache: os.truncate(cache / "manifest.json", 99)),
        ("manifest.json cannot be read", "Restore the file"),
    ),
    Case(
        "another version",
        cache_with(newer_schema),
        ("of another schema version: got 99, expected 1", "Use the version of e2i"),
    ),
    Case(
        "a shard that is gone",
        cache_with(lambda cache: shard(cache, "text").unlink()),
        ("shard-", "expected", "cache-embeddings"),
    ),
    Case(
        "a shard cut short",
        cache_with(lambda cache: os.truncate(shard(cache, "audio"), 999)),
        ("shard-", "got 999 bytes, expected"),
    ),
    Case(
        "a shard damaged",
        cache_with(lambda cache: flip_a_byte(shard(cache, "audio"))),
        ("shard-", "sha256"),
    ),
    Case(
        "NaN rows",
        cache_with(edit_rows("audio", with_nan)),
        ("values that are not finite for 'good 3.wav', expected numbers",),
    ),
    Case(
        "ids that do not join",
        cache_with(edit_rows("text", with_strangers)),
        ("the cache holds nothing to use: got 12 clips and 24 captions that do not join",),
    ),
    Case(
        "the cache of another split",
        other_split,
        (
            "holds another data set or split: got 'data', 'other', expected 'data', 'development'",
            "Choose another --cache-dir.",
        ),
    ),
    Case("the cache of other encoders", other_settings, ("normalize", "--force")),
]


def evaluate_with(make: Callable[[World, Path], None], *options: str) -> Make:
    """A checkpoint made by `make`, on the good cache."""

    def prepare(world: World, tmp: Path) -> list[str]:
        path = tmp / "heads.safetensors"
        make(world, path)
        return [
            *("eval-projection", "--cache-dir", str(world.cache), "--checkpoint", str(path)),
            *("--device", "cpu", *options),
        ]

    return prepare


def changed_checkpoint(**changes: object) -> Callable[[World, Path], None]:
    """The good checkpoint with other entries in its record."""

    def make(world: World, path: Path) -> None:
        data = world.checkpoint.read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        record = json.loads(header["__metadata__"]["e2i"]) | changes
        save_file(load_file(world.checkpoint), path, {"e2i": json.dumps(record)})

    return make


def nan_checkpoint(world: World, path: Path) -> None:
    changed_checkpoint()(world, path)
    record = path.read_bytes()
    header = json.loads(record[8 : 8 + int.from_bytes(record[:8], "little")])
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if tensor.dtype == torch.float32:
            tensors[name] = torch.full_like(tensor, float("nan"))
    save_file(tensors, path, header["__metadata__"])


CHECKPOINTS = [
    Case(
        "no checkpoint",
        evaluate_with(lambda world, path: None),
        ("there is no checkpoint: got", "heads.safetensors", "Train first, or give --checkpoint."),
    ),
    Case(
        "a pickle",
        evaluate_with(lambda world, path: torch.save({"a": torch.ones(2)}, path)),
        ("the checkpoint is a pickle", "expected a safetensors file"),
    ),
    Case(
        "cut short",
        evaluate_with(lambda world, path: path.write_bytes(world.checkpoint.read_bytes()[:-100])),
        ("truncated or no safetensors file", "Copy it"),
    ),
    Case(
        "empty checkpoint",
        evaluate_with(lambda world, path: path.touch()),
        ("truncated or no safetensors file: got 0 bytes",),
    ),
    Case(
        "somebody else's",
        evaluate_with(lambda world, path: save_file({"a": torch.ones(2)}, path)),
        ("is not a checkpoint of e2i",),
    ),
    Case(
        "other dimensions",
        evaluate_with(changed_checkpoint(audio_dim=7)),
        ("tensors do not fit its configuration: got", "expected"),
    ),
    Case(
        "of another encoder",
        evaluate_with(changed_checkpoint(audio_fingerprint="feed")),
        ("was trained on embeddings of another audio encoder", "expected feed"),
    ),
    Case(
        "of another version",
        evaluate_with(changed_checkpoint(schema_version=9)),
        ("got schema version 9", "expected 1"),
    ),
    Case("weights that are NaN", evaluate_with(nan_checkpoint), ("finite float32 values",)),
    Case(
        "none, and sides of two dimensions",
        lambda world, tmp: [
            "eval-projection",
            "--cache-dir",
            str(world.cache),
            "--checkpoint",
            "none",
        ],
        ("have to lie in one space", "--checkpoint"),
    ),
    Case(
        "on the clips that it was trained on",
        lambda world, tmp: [
            "eval-projection",
            "--cache-dir",
            str(seen_part(world, tmp)),
            "--checkpoint",
            str(world.checkpoint),
        ],
        ("has seen clips", "--allow-seen"),
    ),
]


def seen_part(world: World, tmp: Path) -> Path:
    """A cache without the clips that training held out."""
    cache = tmp / "embeddings" / "development"
    names = [f"good {n}.wav" for n in range(12)]
    data = tmp / "data"
    shutil.copytree(world.metadata.parent, data)
    for kept in (names[:6], names[6:], names[::2], names[1::2], names[:1]):
        write_metadata(data / "development.csv", kept)
        shutil.rmtree(cache, ignore_errors=True)
        assert e2i(*embed(data / "development.csv", cache)).code == 0
        arguments = ["eval-projection", "--cache-dir", str(cache), "--checkpoint"]
        if e2i(*arguments, str(world.checkpoint)).code:
            return cache
    raise AssertionError("every part of the cache holds a clip that was held out")


TABLE = [*CSV, *JSON, *OPTIONS, *CACHES, *CHECKPOINTS]


def test_the_table_holds_each_case_once() -> None:
    names = [case.name for case in TABLE]
    assert len(set(names)) == len(names) >= 50


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case, id=case.name,
            marks=[pytest.mark.xfail(strict=True, reason=case.flaw)] if case.flaw else [],
        )
        for case in TABLE
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_words(
    case: Case, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = case.make(world, tmp_path)
    before = world.state()
    outcome = e2i(*arguments)
    if os.environ.get("SHOW"):
        sys.__stderr__.write(f"### {case.name} {outcome.code}\n{outcome.err}\n")
    for said in case.words:
        assert said in " ".join(outcome.err.split())
    assert outcome.code == case.code
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert world.state() == before
