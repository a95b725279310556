"""The house rules that a tool can hold."""

from __future__ import annotations

import ast
import importlib.machinery
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = sorted((ROOT / "e2i").rglob("*.py"))
FLOW_FILES = sorted((ROOT / "flows").glob("*.py"))


def _module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(' '.join(m.split('.')[0] for m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("path", LIBRARY, ids=_module_name)
def test_the_library_reads_no_environment_and_prints_nothing(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert "print" not in names
    assert not {"environ", "getenv", "putenv"} & (names | attributes)


@pytest.mark.parametrize("path", LIBRARY, ids=_module_name)
def test_the_library_imports_no_orchestrator(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        assert not {m.split(".")[0] for m in modules} & {"prefect", "tasks", "flows"}


def test_only_storage_uses_fsspec() -> None:
    users = [
        _module_name(path)
        for path in LIBRARY
        if any(
            word in path.read_text(encoding="utf-8") for word in ("import fsspec", "import s3fs")
        )
        or "from fsspec" in path.read_text(encoding="utf-8")
    ]
    assert users
    assert all(name.startswith("e2i.storage") for name in users)


def test_configuration_loads_neither_torch_nor_prefect() -> None:
    configs = [_module_name(path) for path in LIBRARY if path.name == "config.py"]
    assert len(configs) >= 7
    loaded = _loaded_after("import " + ", ".join([*configs, "flows.parameters"]))
    assert not {"torch", "prefect", "numpy", "pyarrow"} & loaded


@pytest.mark.parametrize("path", FLOW_FILES, ids=lambda path: path.stem)
def test_no_flow_file_hides_an_importable_package(path: Path) -> None:
    if path.stem == "__init__":
        return
    flows_dir = str(path.parent)
    search = [entry for entry in sys.path if entry != flows_dir]
    assert importlib.machinery.PathFinder.find_spec(path.stem, search) is None
