"""The program `e2i` with decoding processes that do what recordings say: hang, crash.

Run as `python faulty_program.py COMMAND …` with `--decode-workers 2`.
"""

from __future__ import annotations

import sys

from e2i.decoding import pool
from e2i.decoding.process import DecodingProcess
from flows.command_line import main

pool._pools[2] = pool.DecodingPool(2, lambda: DecodingProcess("faulty_decoders:serve"))
main(sys.argv[1:])
