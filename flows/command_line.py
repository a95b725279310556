"""The program `e2i`: one command a flow, made from the same configuration objects.

Conventions: progress goes to stderr, results to stdout; with `--json` stdout is one JSON object.
Exit codes: 0 done; 1 the run failed; 2 the call was wrong; 130 and 143 on Ctrl-C and SIGTERM.
Nothing heavy is imported before the call is known to be right.
"""

from __future__ import annotations

import difflib
import gc
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from flows.commands import COMMANDS

USAGE = """\
usage: e2i COMMAND [OPTIONS]

Captioned recordings in, text-to-audio search out: Prefect flows over an object store.
"""


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [USAGE, "commands:"]
    lines += [f"  {name:<{width}}{command.summary}" for name, command in COMMANDS.items()]
    lines += [
        "",
        "`e2i COMMAND --help` lists the options of a command; `e2i --version` the version.",
    ]
    return "\n".join(lines)


def _refuse(message: str) -> NoReturn:
    sys.stderr.write(f"e2i: {message}\n")
    raise SystemExit(2)


def _split_command(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The command's name and its own arguments."""
    for length in (2, 1):
        name = " ".join(arguments[:length])
        if name in COMMANDS and len(arguments) >= length:
            return name, _with_location(name, list(arguments[length:]))
    groups = {name.split()[0] for name in COMMANDS if " " in name}
    if arguments[0] in groups:
        members = [name for name in COMMANDS if name.startswith(f"{arguments[0]} ")]
        rest = [a for a in arguments[1:] if a not in ("-h", "--help")]
        if not rest:
            width = max(map(len, members)) + 2
            lines = [f"  e2i {name:<{width}}{COMMANDS[name].summary}" for name in members]
            sys.stdout.write(
                "\n".join([f"usage: e2i {arguments[0]} COMMAND [OPTIONS]", "", *lines, ""])
            )
            raise SystemExit(0 if len(arguments) > 1 else 2)
        _refuse(f"unknown command: got '{arguments[0]} {rest[0]}', expected one of {members}.")
    close = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
    hint = f"Did you mean '{close[0]}'?" if close else "`e2i --help` lists the commands."
    _refuse(f"unknown command: got {arguments[0]!r}, expected one of {', '.join(COMMANDS)}. {hint}")


def _with_location(name: str, rest: list[str]) -> list[str]:
    """`e2i cache verify URL` for `e2i cache verify --cache-dir URL`."""
    if name.startswith("cache ") and rest and not rest[0].startswith("-"):
        return ["--cache-dir", *rest]
    return rest


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    raise SystemExit(128 + signum)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the program and end the process with its exit code."""
    try:
        _main(list(sys.argv[1:] if argv is None else argv))
    except BrokenPipeError:
        os._exit(128 + signal.SIGPIPE)  # whoever read the output has gone, as `head` does


def _main(arguments: list[str]) -> NoReturn:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(_overview() + "\n")
        raise SystemExit(0 if arguments else 2)
    if arguments[0] in ("--version", "-V"):
        from e2i import __version__

        sys.stdout.write(f"e2i {__version__}\n")
        raise SystemExit(0)
    name, rest = _split_command(arguments)
    signal.signal(signal.SIGTERM, _terminate)
    gc.disable()  # a tenth of the answer's time, and what is made here stays anyway
    try:
        from flows.command_options import parse_options

        options = parse_options(name, COMMANDS[name].parameters, rest)
    finally:
        gc.enable()
    from flows.execution import execute

    code = execute(name, COMMANDS[name], options)
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of libraries that are still winding down have nothing left to say.
    os._exit(code)


if __name__ == "__main__":
    main()
