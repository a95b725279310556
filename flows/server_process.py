"""The process of the private Prefect server: serves until its last user is gone, stores all, ends.

Conventions: standard output and error go to a log file. The caller passes a listening socket and
the lock that tells that this process lives; users hold a shared lock on the users' file, so the
exclusive lock on it comes when the last of them is gone, also by SIGKILL. Ctrl-C in the terminal
is none of this process's business; SIGTERM makes it store what it was sent and end.

What takes long to import is imported once the users are watched.
"""

from __future__ import annotations

import argparse
import fcntl
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until the last user is gone."""
    parser = argparse.ArgumentParser(description="The private Prefect server of e2i.")
    parser.add_argument("--socket", type=int, required=True, help="descriptor, listening")
    parser.add_argument("--alive", type=int, required=True, help="descriptor, exclusively locked")
    parser.add_argument("--users-lock", type=Path, required=True, help="file that users lock")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for descriptor in (arguments.socket, arguments.alive):
        os.set_inheritable(descriptor, False)
    unused, serving = threading.Event(), threading.Event()
    watch = (arguments.users_lock, unused, serving)
    threading.Thread(target=_await_last_user, args=watch, daemon=True).start()
    # Run by its path, with the working directory kept out: a folder `flows` there is not ours.
    sys.path.append(str(Path(__file__).parents[1]))
    gc.disable()  # Importing makes a great many objects and no garbage.
    from flows.server_app import serve

    gc.freeze()
    gc.enable()
    serving.set()
    if not unused.is_set():
        with socket.socket(fileno=arguments.socket) as listener:
            serve(listener, unused)
    return 0


def _await_last_user(path: Path, unused: threading.Event, serving: threading.Event) -> None:
    """Take the exclusive lock, which comes when no user is left, and keep it until the end.

    A process that does not serve yet, and has touched nothing, ends at once.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    unused.set()
    if not serving.is_set():
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
