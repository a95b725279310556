"""From words on the command line to a command's parameters, by tyro on the pydantic models."""

from __future__ import annotations

import contextlib
import inspect
import io
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import ValidationError

from e2i.configuration import Configuration
from flows import parameters as models

# Fields that hold a location: a relative path is relative to the working directory.
_LOCATIONS = frozenset(
    {
        "store_url",
        "cache_dir",
        "val_cache_dir",
        "eval_cache_dir",
        "sweep",
        "output_dir",
        "log_dir",
        "checkpoint",
        "metadata",
        "val_metadata",
        "test_metadata",
        "waveform_dir",
        "audio_root",
        "data_root",
        "checksums",
        "exclude_ids",
        "vision_backbone_weights",
        "ensemble",
        "qb_norm_cache",
        "distractors",
        "relevance",
        "reports_dir",
        "predictions",
        "embeddings_out",
        "first",
        "second",
    }
)

# A URL, or what was meant as one: never a path of the working directory.
_URL = re.compile(r"[A-Za-z][\w+.-]*:/|.*://")

# Fields that may hold a location behind `checkpoint:`.
_ENCODERS = frozenset({"audio_encoder", "text_encoder"})
_CHECKPOINT = "checkpoint:"

_PATTERNS = {
    "audio_encoder": "checkpoint:<path or URL>",
    "text_encoder": "checkpoint:<path or URL>",
    "device": "auto, cpu, mps, cuda or cuda:<n>, or several of these with commas between them",
    "run_name": "letters, digits, spaces and . : + = @ , - _ behind a letter or digit, at most "
    "128 characters",
    "checkpoint_name": "a file name that ends in .safetensors, of letters, digits and . _ + = @ -",
    "score_split": "letters, digits, '_', '.' and '-' behind a letter or digit",
    "split": "letters, digits, '_', '.' and '-' behind a letter or digit",
    "view": "https://<host>/<entity>/<project>?nw=<view>, as `e2i wandb-dashboard` printed it",
    "vision_backbone": "a name of timm, as resnet18 or vit_tiny_patch16_224.augreg_in21k",
    "wandb_project": "1 to 128 characters without / \\ # ? % :",
    "wandb_entity": "at most 128 characters without / \\ # ? % :",
    "wandb_group": "at most 128 characters without / \\ # ? % :",
}
"""What the patterns of options mean, by field."""


@dataclass(frozen=True)
class OutputOptions:
    """What a command prints.

    Attributes:
        json: Print the result as one JSON object on stdout, and nothing else there.
        no_progress: Show no progress on stderr.
        log_level: Show the log of the run on stderr too, from this level on.
    """

    json: bool = False
    no_progress: bool = False
    log_level: Literal["debug", "info", "warning", "none"] = "none"


@dataclass(frozen=True)
class Options:
    """A command's parameters, and what it is to print."""

    parameters: Configuration
    output: OutputOptions


def parse_options(name: str, model_name: str, arguments: list[str]) -> Options:
    """Parse the options of a command.

    Args:
        name: the command, as typed.
        model_name: its parameter class in `flows.parameters`.
        arguments: what stands behind the command.

    Raises:
        SystemExit: 0 after help, 2 where an option is unknown, missing or out of bounds.
    """
    model: type[Configuration] = getattr(models, model_name)
    default = models.DEMO if name == "demo" else tyro.MISSING_NONPROP
    if name == "finetune":
        default = models.finetune_defaults(_typed(arguments, "--preset"))
    bare = tyro.conf.arg(name="")

    def gather(
        parameters: Any,
        output: Any = OutputOptions(),
    ) -> Options:
        return Options(_resolved(parameters), output)

    gather.__annotations__ = {
        "parameters": Annotated[model, bare],
        "output": Annotated[OutputOptions, bare],
    }
    if default is not tyro.MISSING_NONPROP:
        gather.__defaults__ = (default, OutputOptions())
    held = _Held()
    try:
        with contextlib.redirect_stderr(held):
            return tyro.cli(
                gather,
                prog=f"e2i {name}",
                description=inspect.cleandoc(model.__doc__ or ""),
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except (ValidationError, SystemExit) as ended:
        error, prefix = _cause(ended)
        if error is None:
            sys.stderr.write(held.getvalue())
            raise
        sys.stderr.write(f"e2i {name}: {_faults(error, prefix)}\n")
        sys.stderr.write(f"`e2i {name} --help` lists the options.\n")
        raise SystemExit(2) from None


def _typed(arguments: list[str], option: str) -> str:
    """The value that an option is given, the last one; empty without."""
    value = ""
    for place, word in enumerate(arguments):
        if word.startswith(f"{option}="):
            value = word.partition("=")[2]
        elif word == option and place + 1 < len(arguments):
            value = arguments[place + 1]
    return value


class _Held(io.StringIO):
    """What the parser says on stderr, held back: of values out of bounds we say it better."""

    def isatty(self) -> bool:
        return sys.__stderr__ is not None and sys.__stderr__.isatty()


def _cause(ended: BaseException) -> tuple[ValidationError | None, str]:
    """The refusal behind the end of parsing, if one is, and the prefix of the options refused.

    The parser lets a refusal through, but for one by a group of options with a prefix: that one it
    turns into an exit.
    """
    prefix = ""
    error: BaseException | None = ended
    while error is not None and not isinstance(error, ValidationError):
        group = getattr(error, "arg", None)
        if isinstance(group, str):
            prefix = group.removeprefix("parameters").removeprefix(".")
        error = error.__context__
    return error, f"{prefix}." if prefix else ""


def _faults(error: ValidationError, prefix: str = "") -> str:
    """All faults, one a line, with the option's name."""
    faults: dict[str, tuple[object, list[str]]] = {}
    lines = []
    for fault in error.errors(include_url=False):
        message = fault["msg"].removeprefix("Value error, ")
        option = str(fault["loc"][0]).replace("_", "-") if fault["loc"] else ""
        where = f"--{prefix}{option}: " if option else ""
        if not option or ": got " in message:  # the library's own words, which are whole
            lines.append(f"{where}{message}")
            continue
        # What stands behind the name tells which kind of value was tried.
        _, rules = faults.setdefault(where, (fault["input"], []))
        infinite = isinstance(fault["input"], float) and not math.isfinite(fault["input"])
        rule = _rule(str(fault["loc"][0]), fault["type"], message)
        rules.append("a finite number" if infinite else rule)
    lines += [f"{w}got {got!r}, expected {' or '.join(r)}." for w, (got, r) in faults.items()]
    return "\n".join(lines)


def _rule(field: str, kind: str, message: str) -> str:
    """What is expected, of a message like "Input should be greater than 0"."""
    if kind == "string_pattern_mismatch" and field in _PATTERNS:
        return _PATTERNS[field]
    rule = re.sub(r"^(Input|String|Value|Tuple) should (be |have )?", "", message)
    return f"a number {rule}" if rule.startswith(("greater", "less")) else rule


def _resolved(parameters: Configuration) -> Configuration:
    """The parameters, with each local location made absolute."""
    changes: dict[str, object] = {}
    for name in type(parameters).model_fields:
        value = getattr(parameters, name)
        if isinstance(value, Configuration):
            changes[name] = _resolved(value)
        elif name in _LOCATIONS and isinstance(value, tuple):
            changes[name] = tuple(_absolute(item) for item in value)
        elif name in _LOCATIONS and isinstance(value, str):
            is_none = name == "checkpoint" and value == "none"
            changes[name] = value if is_none else _absolute(value)
        elif name in _ENCODERS and isinstance(value, str) and value.startswith(_CHECKPOINT):
            changes[name] = _CHECKPOINT + _absolute(value.removeprefix(_CHECKPOINT))
    return parameters.model_copy(update=changes)


def _absolute(location: str) -> str:
    """A local path as seen from the root; a URL, or nothing, as it is."""
    if not location or _URL.match(location):
        return location
    return str(Path(location).expanduser().absolute())
