"""The program `e2i` with an encoder that is slowed down and writes down what it embeds.

Run as `python counted_program.py LOG SECONDS_A_CLIP COMMAND …`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from counted_encoder import count

from flows.command_line import main

log, seconds = Path(sys.argv[1]), float(sys.argv[2])
count(log, lambda: seconds)
main(sys.argv[3:])
