"""Caches and checkpoints that cannot be used."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import torch
from bad_input_program import Case, Make, World, call, e2i, embed, write_metadata
from safetensors.torch import load_file, save_file


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
        call("eval-projection", "--cache-dir", "/nowhere/cache"),
        ("there is no cache: got /nowhere/cache",),
    ),
    Case(
        "no cache to look at",
        call("cache", "info", "--cache-dir", "/nowhere/cache"),
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
        ("shard-", "got 999 bytes in"),
    ),
    Case(
        "a shard damaged",
        cache_with(lambda cache: flip_a_byte(shard(cache, "audio"))),
        ("shard-", "sha256"),
    ),
    Case(
        "NaN rows",
        cache_with(edit_rows("audio", with_nan)),
        ("got values that are not finite for 'good 3.wav' in", "expected numbers"),
    ),
    Case(
        "ids that do not join",
        cache_with(edit_rows("text", with_strangers)),
        (
            "a shard of the cache is damaged: got captions of the clip 'other 0' in",
            "expected captions of clips that the manifest knows. Run `e2i cache repair`",
        ),
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


def relevance_with(rows: str) -> Make:
    """A relevance file, on the good cache."""

    def make(world: World, tmp: Path) -> list[str]:
        (tmp / "relevance.csv").write_text("query,audio_filenames\n" + rows)
        return scoring(world, "--relevance", str(tmp / "relevance.csv"))

    return make


def scoring(world: World, *options: str) -> list[str]:
    return [
        *("eval-projection", "--cache-dir", str(world.cache), "--device", "cpu"),
        *("--checkpoint", str(world.checkpoint), *options),
    ]


def two_records(world: World, tmp: Path) -> list[str]:
    """The test part, and all clips: other captions."""
    for name, options in (("part", ()), ("all", ("--allow-seen",))):
        more = ("--run-name", name, "--reports-dir", str(tmp), "--bootstrap-resamples", "0")
        assert e2i(*scoring(world, *more, *options)).code == 0
    return ["compare", str(tmp / "part.json"), str(tmp / "all.json")]


SCORES = [
    Case(
        "no relevance file",
        lambda world, tmp: scoring(world, "--relevance", str(tmp / "none.csv")),
        ("there is no relevance file: got", "none.csv", "Correct --relevance."),
    ),
    Case(
        "a relevance file about other captions",
        relevance_with("snow,['good 1.wav']\n"),
        ("has 1 wrong row", "row 1: no caption of the split: got 'snow'"),
    ),
    Case(
        "a relevance file about other clips",
        relevance_with("noise 1,['good 99.wav']\n"),
        ("row 1: no clip of the split: got 'good 99.wav'",),
    ),
    Case(
        "a relevance file without lists",
        relevance_with("noise 1,good 1.wav\n"),
        ("row 1: no list of clips: got 'good 1.wav' as audio_filenames",),
    ),
    Case(
        "an ensemble of one",
        lambda world, tmp: [*scoring(world)[:3], "--ensemble", str(world.checkpoint)],
        ("an ensemble needs several checkpoints: got 1, of which 1 differ, expected at least 2",),
        2,
    ),
    Case(
        "an ensemble beside a checkpoint",
        lambda world, tmp: scoring(world, "--ensemble", "a", "b"),
        ("checkpoint and ensemble exclude each other: got", "expected one of the two"),
        2,
    ),
    Case(
        "a bank without its correction",
        lambda world, tmp: scoring(world, "--qb-norm-cache", str(world.cache)),
        ("a bank without its correction: got qb_norm_cache", "Give --qb-norm too."),
        2,
    ),
    Case(
        "a bank of the evaluation's own captions",
        lambda world, tmp: scoring(world, "--qb-norm", "--allow-seen"),
        ("the bank holds captions of the evaluation: got", "as --qb-norm-cache."),
        2,
    ),
    Case(
        "distractors that are the evaluation's own",
        lambda world, tmp: scoring(world, "--distractors", str(world.cache)),
        ("distractors are clips of the evaluation: got 12 in both", "as --distractors."),
        2,
    ),
    Case(
        "predictions of seen clips",
        lambda world, tmp: scoring(
            world, "--allow-seen", "--predictions", str(tmp / "predictions.csv")
        ),
        ("predictions of seen clips are no submission: got", "Leave out --predictions"),
    ),
    Case(
        "no scores to compare",
        call("compare", "/nowhere/a.json", "/nowhere/b.json"),
        ("there are no scores: got /nowhere/a.json", "Evaluate first"),
    ),
    Case(
        "scores of other clips",
        two_records,
        ("the evaluations are of different parts: got test in", "Evaluate both on one cache"),
        2,
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
