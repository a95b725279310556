"""Options that are wrong."""

from __future__ import annotations

from pathlib import Path

from bad_input_program import Case, Make, World, call, embed


def embed_to(cache: Path | str, *options: str) -> Make:
    """The good data set, into a cache or with options that are wrong."""
    return lambda world, tmp: embed(
        world.metadata, str(cache).format(tmp=tmp, world=world.root), *options
    )


def folder_as_metadata(world: World, tmp: Path) -> list[str]:
    return embed(tmp, tmp / "cache")


def file_as_cache(world: World, tmp: Path) -> list[str]:
    (tmp / "cache").write_text("a file")
    return embed(world.metadata, tmp / "cache")


def checkpoint_folder(world: World, tmp: Path) -> list[str]:
    return ["eval-projection", "--cache-dir", str(world.cache), "--checkpoint", str(tmp)]


OPTIONS = [
    Case("unknown command", call("cache-embedings"), ("'cache-embedings'", "Did you mean"), 2),
    Case("unknown option", call("demo", "--wat"), ("--wat",), 2),
    Case("option without value", call("demo", "--store-url"), ("--store-url",), 2),
    Case("option missing", call("cache-images"), ("--cache-dir",), 2),
    Case(
        "out of bounds",
        call("train-projection", "--epochs", "0"),
        ("epochs", "greater than or", "got 0"),
        2,
    ),
    Case("negative", call("cache-embeddings", "--chunk-size", "-1"), ("chunk-size", "got -1"), 2),
    Case("no number", call("train-projection", "--lr", "fast"), ("--lr", "fast"), 2),
    Case(
        "not finite",
        call("train-projection", "--lr", "nan"),
        ("--lr: got nan, expected a finite number.",),
        2,
    ),
    Case(
        "half a clip",
        call("cache-embeddings", "--max-failures", "1.5"),
        ("got 1.5, expected a share below 1 or a whole number of clips. Round it. `e2i",),
        2,
    ),
    Case(
        "unknown choice",
        call("demo", "--audio-encoder", "vgg"),
        ("--audio-encoder", "vgg", "logmel"),
        2,
    ),
    Case(
        "a metric at another k",
        call("train-projection", "--selection-metric", "text_to_audio_R@7"),
        ("--selection-metric", "text_to_audio_R@7", "R@10"),
        2,
    ),
    Case(
        "shares that leave nothing",
        call("train-projection", "--val-fraction", "0.6", "--test-fraction", "0.6"),
        ("got 0.6 + 0.6, expected a sum below 1", "Lower one"),
        2,
    ),
    Case(
        "image size",
        call("cache-images", "--cache-dir", "x", "--image-size", "0"),
        ("--image-size: got 0, expected a number greater than or equal to 1 or 'native'. `e2i",),
        2,
    ),
    Case(
        "out of bounds, of a group of options",
        call("run", "--vision-training.epochs", "0"),
        ("e2i run: --vision-training.epochs: got 0, expected a number greater than",),
        2,
    ),
    Case(
        "a split with a slash",
        call("cache-embeddings", "--split", "a/b"),
        ("--split: got 'a/b', expected letters, digits, '_', '.' and '-'",),
        2,
    ),
    Case("empty metadata", call("cache-embeddings", "--metadata", ""), ("metadata", "got ''"), 2),
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
    ),
    Case(
        "file as cache",
        file_as_cache,
        ("got Not a directory for", "expected a folder. A file lies where a folder"),
    ),
    Case(
        "folder as checkpoint",
        checkpoint_folder,
        ("the checkpoint is a folder: got", "Give the file in it as --checkpoint."),
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
    ),
    Case(
        "URL without a bucket", embed_to("s3:///cache"), ("malformed URL: got no valid bucket",), 2
    ),
    Case("cache on the web", embed_to("https://x.invalid/cache"), ("https:// is for reading",), 2),
]
