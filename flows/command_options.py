"""From words on the command line to a command's parameters, by tyro on the pydantic models."""

from __future__ import annotations

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
        "output_dir",
        "log_dir",
        "checkpoint",
        "metadata",
        "audio_root",
        "data_root",
        "checksums",
    }
)


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
    try:
        return tyro.cli(
            gather,
            prog=f"e2i {name}",
            description=(model.__doc__ or "").strip(),
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except ValidationError as error:
        sys.stderr.write(f"e2i {name}: {_faults(error)}\n")
        sys.stderr.write(f"`e2i {name} --help` lists the options.\n")
        raise SystemExit(2) from None


def _faults(error: ValidationError) -> str:
    """All faults, one a line, with the option's name."""
    lines = []
    for fault in error.errors(include_url=False, include_context=False):
        option = ".".join(str(part).replace("_", "-") for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        where = f"--{option}: " if option else ""
        got = f": got {fault['input']!r}" if option and not isinstance(fault["input"], dict) else ""
        lines.append(f"{where}{message[0].lower()}{message[1:]}{got}")
    return "\n".join(lines)


def _resolved(parameters: Configuration) -> Configuration:
    """The parameters, with each local location made absolute."""
    changes: dict[str, object] = {}
    for name in type(parameters).model_fields:
        value = getattr(parameters, name)
        if isinstance(value, Configuration):
            changes[name] = _resolved(value)
        elif name in _LOCATIONS and isinstance(value, str) and value and "://" not in value:
            is_none = name == "checkpoint" and value == "none"
            changes[name] = value if is_none else str(Path(value).expanduser().absolute())
    return parameters.model_copy(update=changes)
