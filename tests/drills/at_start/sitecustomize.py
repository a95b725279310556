"""Python imports this first where PYTHONPATH names its folder: see counted_encoder.py."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

ENCODER = "e2i.encoders.logmel"


class _Counting(MetaPathFinder):
    """Finds the encoder's module as Python would, and has it counted once it is loaded."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != ENCODER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_count(module: ModuleType) -> None:
            load(module)
            from counted_encoder import LOG, PACE, count

            pace = Path(os.environ[PACE])
            count(Path(os.environ[LOG]), lambda: float(pace.read_text()))

        spec.loader.exec_module = load_and_count  # type: ignore[method-assign]
        return spec


if "E2I_DRILL_LOG" in os.environ:
    sys.meta_path.insert(0, _Counting())
