"""Start and end a Prefect server on this machine: `make server`, `make stop-server`.

Prefect returns from a start in the background before its API listens, and a server that was killed
leaves a file that makes the next start fail; this waits for the one and clears the other.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

PREFECT = str(Path(sys.executable).with_name("prefect"))
WAIT_S = 120.0


def is_healthy(port: int) -> bool:
    """Whether a Prefect API answers on the port."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def start(port: int) -> str:
    """Start the server unless it runs, wait for its API, and say how to use it."""
    url = f"http://127.0.0.1:{port}/api"
    if is_healthy(port):
        return f"A Prefect server already answers at {url}"
    subprocess.run([PREFECT, "server", "stop"], capture_output=True, check=False)
    command = [PREFECT, "server", "start", "--background", "--host", "127.0.0.1"]
    started = subprocess.run(
        [*command, "--port", str(port)], capture_output=True, text=True, check=False
    )
    if started.returncode:
        raise SystemExit(f"The Prefect server did not start:\n{started.stdout}{started.stderr}")
    deadline = time.monotonic() + WAIT_S
    while not is_healthy(port):
        if time.monotonic() > deadline:
            raise SystemExit(f"The Prefect server did not answer at {url} within {WAIT_S:.0f} s.")
        time.sleep(0.3)
    return (
        f"Prefect server: http://127.0.0.1:{port} (end it with `make stop-server`)\n"
        f"Use it from this shell: export PREFECT_API_URL={url}"
    )


def stop() -> str:
    """End the server that `start` started."""
    stopped = subprocess.run(
        [PREFECT, "server", "stop"], capture_output=True, text=True, check=False
    )
    return (stopped.stdout or stopped.stderr).strip()


def main() -> None:
    """Parse the command line and act."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["start", "stop"])
    parser.add_argument("--port", type=int, default=4200)
    arguments = parser.parse_args()
    sys.stdout.write((start(arguments.port) if arguments.action == "start" else stop()) + "\n")


if __name__ == "__main__":
    main()
