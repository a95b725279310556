"""Run a command: its flow in this process, against the server that is set up or a private one."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from e2i.errors import ConfigError, E2IError
from flows.summary import RunSummary, print_summary

if TYPE_CHECKING:
    from flows.command_line import Command
    from flows.command_options import Options

INTERRUPTED = 128 + signal.SIGINT


def execute(name: str, command: Command, options: Options) -> int:
    """Run a command and print what came of it.

    Returns:
        The exit code: 0 done, 1 failed, 2 a wrong call, 130 and 143 after signals.
    """
    try:
        summary = _run(command, options)
    except ConfigError as error:
        return _fail(name, error, 2)
    except E2IError as error:
        return _fail(name, error, 1)
    except KeyboardInterrupt:
        return _fail(name, "interrupted; what is stored stays, and the same command resumes.", INTERRUPTED)
    except SystemExit as stop:
        text = "ended by a signal; what is stored stays, and the same command resumes."
        return _fail(name, text, stop.code if isinstance(stop.code, int) else 1)
    summary = replace(summary, command=name)
    if options.output.json:
        sys.stdout.write(summary.as_json() + "\n")
    else:
        print_summary(summary, sys.stdout)
    return 0


def _fail(name: str, error: object, code: int) -> int:
    sys.stderr.write(f"e2i {name}: {error}\n")
    return code
