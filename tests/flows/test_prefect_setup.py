from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.prefect_setup import read_setup

PROFILES = """
active = "team"
[profiles.team]
PREFECT_API_URL = "http://team:4200/api"
[profiles.quiet]
PREFECT_LOGGING_LEVEL = "ERROR"
[profiles.moved]
PREFECT_HOME = "{folder}/elsewhere"
"""

# Name: files by path, environment. `{folder}` is the working directory, also of the profiles.
CASES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "nothing": ({}, {}),
    "environment": ({"profiles.toml": PROFILES}, {"PREFECT_API_URL": "http://env/api"}),
    "environment in lower case": ({}, {"prefect_api_url": "http://env/api"}),
    "environment empty": ({"profiles.toml": PROFILES}, {"PREFECT_API_URL": ""}),
    "profile": ({"profiles.toml": PROFILES}, {}),
    "profile named by the environment": (
        {"profiles.toml": PROFILES},
        {"PREFECT_PROFILE": "quiet"},
    ),
    "profile that does not exist": ({"profiles.toml": PROFILES}, {"PREFECT_PROFILE": "none"}),
    "profile with a home": ({"profiles.toml": PROFILES}, {"PREFECT_PROFILE": "moved"}),
    "profiles elsewhere": (
        {"other.toml": PROFILES},
        {"PREFECT_PROFILES_PATH": "{folder}/other.toml"},
    ),
    "profiles elsewhere by dotenv": (
        {"other.toml": PROFILES, ".env": "PREFECT_PROFILES_PATH={folder}/other.toml"},
        {},
    ),
    "profiles elsewhere by pyproject": (
        {
            "other.toml": PROFILES,
            "pyproject.toml": '[tool.prefect]\nprofiles_path = "{folder}/other.toml"',
        },
        {},
    ),
    "dotenv": (
        {"profiles.toml": PROFILES, ".env": "export PREFECT_API_URL='http://dotenv/api'  # here"},
        {},
    ),
    "dotenv before toml": (
        {
            ".env": "PREFECT_API_URL=http://dotenv/api",
            "prefect.toml": '[api]\nurl = "http://toml/api"',
        },
        {},
    ),
    "prefect.toml": (
        {
            "profiles.toml": PROFILES,
            "prefect.toml": '[api]\nurl = "http://toml/api"',
            "pyproject.toml": '[tool.prefect.api]\nurl = "http://pyproject/api"',
        },
        {},
    ),
    "pyproject": ({"pyproject.toml": '[tool.prefect.api]\nurl = "http://pyproject/api"'}, {}),
    "pyproject of others": ({"pyproject.toml": '[tool.other]\nurl = "http://other/api"'}, {}),
    "home by toml": ({"prefect.toml": 'home = "{folder}/toml-home"'}, {"PREFECT_HOME": None}),
    "home by dotenv": ({".env": "PREFECT_HOME={folder}/dotenv-home"}, {"PREFECT_HOME": None}),
    "home of the user": ({}, {"PREFECT_HOME": None}),
    "home under the user's": ({}, {"PREFECT_HOME": "~/runs"}),
    "test mode": ({"profiles.toml": PROFILES}, {"PREFECT_TEST_MODE": "1"}),
}

ASK_PREFECT = """
import json, os, sys, warnings
warnings.simplefilter("ignore")
from prefect.settings import Settings
answers = {}
clean = dict(os.environ)
for name, (folder, environ) in json.load(sys.stdin).items():
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(clean, **environ)
    settings = Settings()
    answers[name] = [settings.api.url or None, str(settings.home.absolute())]
print(json.dumps(answers))
"""


def _environment(folder: Path, environ: dict[str, str | None]) -> dict[str, str]:
    """The user's home and PREFECT_HOME are the case's folder, unless the case says otherwise."""
    wanted = {"HOME": str(folder), "PREFECT_HOME": str(folder), **environ}
    return {k: v.format(folder=folder) for k, v in wanted.items() if v is not None}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A working directory for each case."""
    root = tmp_path_factory.mktemp("cases")
    made = {}
    for number, (name, (files, _)) in enumerate(CASES.items()):
        made[name] = root / str(number)
        made[name].mkdir()
        for path, text in files.items():
            (made[name] / path).write_text(text.replace("{folder}", str(made[name])))
    return made


@pytest.fixture(scope="module")
def golden(folders: dict[str, Path]) -> dict[str, list[str | None]]:
    """What Prefect itself makes of each case, in a process of its own."""
    cases = {
        name: [str(folders[name]), _environment(folders[name], environ)]
        for name, (_, environ) in CASES.items()
    }
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "HOME"))}
    # Prefect fixes the user's home when it is imported: that of the case that asks for it.
    bare["HOME"] = str(folders["home of the user"])
    done = subprocess.run(
        [sys.executable, "-c", ASK_PREFECT],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
        env=bare,
    )
    answers: dict[str, list[str | None]] = json.loads(done.stdout)
    return answers


@pytest.mark.parametrize("name", CASES)
def test_reads_what_prefect_reads(
    name: str,
    folders: dict[str, Path],
    golden: dict[str, list[str | None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "prefect.settings", raising=False)
    environ = _environment(folders[name], CASES[name][1])
    monkeypatch.setenv("HOME", environ["HOME"])
    setup = read_setup(environ, folders[name])
    assert [setup.api_url or None, str(setup.home)] == golden[name]


def test_the_cases_tell_servers_apart(golden: dict[str, list[str | None]]) -> None:
    urls = {url for url, _ in golden.values()}
    assert urls == {
        None,
        "http://env/api",
        "http://team:4200/api",
        "http://dotenv/api",
        "http://toml/api",
        "http://pyproject/api",
    }


@pytest.mark.parametrize("text", ["no = toml =", "[profiles"])
def test_files_that_are_no_toml_are_left_to_prefect(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "prefect.settings", raising=False)
    for name in ("profiles.toml", "prefect.toml", "pyproject.toml"):
        (tmp_path / name).write_text(text)
    setup = read_setup({"PREFECT_HOME": str(tmp_path)}, tmp_path)
    assert (setup.api_url, setup.home) == (None, tmp_path)
    assert setup.profiles_path == tmp_path / "profiles.toml"


def test_does_not_import_prefect(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=b\n")
    code = (
        "import sys\nfrom flows.private_server import ensure_server\n"
        "assert ensure_server().url == 'http://set.up/api'\n"
        "assert 'prefect' not in sys.modules and 'asyncio' not in sys.modules"
    )
    root = str(Path(__file__).parents[2])
    environ = {**os.environ, "PREFECT_API_URL": "http://set.up/api", "PYTHONPATH": root}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environ)
