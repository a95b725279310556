"""Run a command: its flow in this process, against the server that is set up or a private one."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from e2i.errors import ConfigError, E2IError
from flows.summary import RunSummary, print_summary

if TYPE_CHECKING:
    from flows.command_options import Options, OutputOptions
    from flows.commands import Command

_OF_PREFECT = frozenset({"prefect", "httpx", "httpcore", "websockets"})
RESUME = "What is stored stays, and the same command goes on from there."


def execute(name: str, command: Command, options: Options) -> int:
    """Run a command and print what came of it.

    Returns:
        The exit code: 0 done, 1 failed, 2 a wrong call, 130 and 143 after signals.
    """
    try:
        summary = _run(command, options)
    except ConfigError as error:
        return _fail(name, str(error), 2)
    except E2IError as error:
        return _fail(name, str(error), 1)
    except KeyboardInterrupt:
        return _fail(name, f"interrupted. {RESUME}", 128 + signal.SIGINT)
    except BaseException as error:
        if _is_termination(error):
            return _fail(name, f"ended by a signal. {RESUME}", 128 + signal.SIGTERM)
        if not isinstance(error, Exception):
            raise
        if options.output.log_level == "debug":
            traceback.print_exception(error)
        return _fail(name, _unforeseen(error), 1)
    summary = replace(summary, command=name)
    if options.output.json:
        sys.stdout.write(summary.as_json() + "\n")
    else:
        print_summary(summary, sys.stdout)
    return 1 if summary.counts.get("problems") else 0


def _run(command: Command, options: Options) -> RunSummary:
    """The command's flow, or the quick command itself."""
    from flows.credentials import refuse_credentials
    from flows.preflight import check_call, check_server

    if command.needs_prefect:
        refuse_credentials(dict(options.parameters))
    check_call(options.parameters)
    if not command.needs_prefect:
        quick: Callable[[object], RunSummary] = _load(command.runs)
        return quick(options.parameters)
    _choose_logging(options.output)
    from flows.bars import progress_on_stderr
    from flows.private_server import ensure_server, flush_events
    from flows.server_watch import CLIENT_SETTINGS, ServerWatch

    sink = progress_on_stderr(quiet=options.output.no_progress)
    with ensure_server() as server:
        with sink.waiting("starting Prefect"):
            if not server.private:
                check_server(server.url)
                for setting, value in CLIENT_SETTINGS.items():
                    os.environ.setdefault(setting, value)
            flow = _load(command.runs)
            from tasks.progress import install_sink

            server.wait_ready()
        install_sink(sink)
        parameters = {
            name: getattr(options.parameters, name)
            for name in type(options.parameters).model_fields
        }
        try:
            # A private server is watched, and started again, by its own guard.
            with nullcontext() if server.private else ServerWatch(server.url):
                return flow(**parameters)
        finally:
            sink.close()
            if not flush_events():
                sys.stderr.write("Some states of task runs did not reach the Prefect server.\n")


def _load(reference: str) -> Callable[..., RunSummary]:
    module, _, function = reference.partition(":")
    return cast("Callable[..., RunSummary]", getattr(importlib.import_module(module), function))


def _choose_logging(output: OutputOptions) -> None:
    """The run's log goes to the server; on stderr it shows only where it is asked for.

    Errors end the command with one message of its own. Prefect reads this when it is imported.
    """
    level = "CRITICAL" if output.log_level == "none" else output.log_level.upper()
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = level
    if output.log_level == "debug":
        os.environ["PREFECT_LOGGING_LEVEL"] = "DEBUG"


def _is_termination(error: BaseException) -> bool:
    """Whether it is SIGTERM: as this program turns it into, or as Prefect does."""
    if isinstance(error, SystemExit):
        return error.code == 128 + signal.SIGTERM
    return type(error).__name__ == "TerminationSignal"


def _unforeseen(error: Exception) -> str:
    """What to say of an error that is none of e2i's own: its kind decides the next step."""
    lines = str(error).strip().splitlines()
    got = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    if isinstance(error, MemoryError):
        return f"out of memory: got {got}, expected room. Lower --batch-size or --chunk-size."
    if type(error).__module__.partition(".")[0] in _OF_PREFECT:
        return (
            f"Prefect ended the run: got {got}, expected it to go through. Look at the flow run "
            f"and its server. {RESUME}"
        )
    return (
        f"an error that e2i did not foresee: got {got}, expected none. Report it with what "
        f"--log-level debug shows. {RESUME}"
    )


def _fail(name: str, message: str, code: int) -> int:
    sys.stderr.write(f"e2i {name}: {message}\n")
    return code
