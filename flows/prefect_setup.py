"""What Prefect's settings say about the server, read without importing Prefect (which takes 2 s).

Conventions: sources and their order are those of Prefect 3: the environment, `.env`, `prefect.toml`
and `pyproject.toml` in the working directory, then the active profile. A name that is set but empty
counts as set. Files that Prefect cannot read are passed over here; Prefect itself complains when it
is imported.

Source: Prefect 3.8 `prefect/settings/sources.py`, `prefect/settings/base.py`.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TEST_MODES = (
    "PREFECT_TEST_MODE",
    "PREFECT_UNIT_TEST_MODE",
    "PREFECT_TESTING_UNIT_TEST_MODE",
    "PREFECT_TESTING_TEST_MODE",
)


@dataclass(frozen=True)
class PrefectSetup:
    """Where Prefect would go.

    Attributes:
        api_url: address of the server that is set up; None or empty if there is none.
        home: Prefect's home folder.
        profiles_path: the file of profiles; may not exist.
    """

    api_url: str | None
    home: Path
    profiles_path: Path


def read_setup(environ: Mapping[str, str], folder: Path) -> PrefectSetup:
    """Read the settings as Prefect would in this environment and working directory.

    Where Prefect is already imported, its own settings hold, whatever set them.
    """
    project = _ProjectSettings(environ, folder)
    test_mode = any(environ.get(name) for name in TEST_MODES)
    profiles_path = project.profiles_path()
    profile = {} if test_mode else _active_profile(profiles_path, environ)

    def setting(name: str, *keys: str) -> str | None:
        value = project.get(name, *keys)
        return profile.get(name) if value is None else value

    home = Path(setting("PREFECT_HOME", "home") or "~/.prefect").expanduser().absolute()
    api_url = setting("PREFECT_API_URL", "api", "url")
    if "prefect.settings" in sys.modules:
        from prefect.settings import get_current_settings

        settings = get_current_settings()
        home, api_url = settings.home.absolute(), settings.api.url
    return PrefectSetup(api_url, home, profiles_path)


class _ProjectSettings:
    """The sources above the profile: environment, `.env`, `prefect.toml`, `pyproject.toml`."""

    def __init__(self, environ: Mapping[str, str], folder: Path) -> None:
        self.environ = environ
        dotenv: Mapping[str, str | None] = {}
        if (folder / ".env").is_file():
            from dotenv import dotenv_values

            dotenv = dotenv_values(folder / ".env", encoding="utf-8")
        self.variables = [
            {name.upper(): value for name, value in source.items()} for source in (environ, dotenv)
        ]
        self.dotenv = dotenv
        self.tables = [
            _read_toml(folder / "prefect.toml"),
            _dig(_read_toml(folder / "pyproject.toml"), "tool", "prefect"),
        ]

    def get(self, name: str, *keys: str) -> str | None:
        """A setting by its variable, or by its keys in the TOML files; None if it is nowhere."""
        for variables in self.variables:
            if (value := variables.get(name)) is not None:
                return value
        for table in self.tables:
            found = _dig(table, *keys)
            if isinstance(found, str):
                return found
        return None

    def profiles_path(self) -> Path:
        """The file of profiles; names of variables are matched exactly here, as Prefect does."""
        name = "PREFECT_PROFILES_PATH"
        found = self.environ.get(name) or self.dotenv.get(name)
        for table in self.tables:
            path = _dig(table, "profiles_path")
            found = found or (path if isinstance(path, str) else None)
        if found:
            return Path(found)
        return Path(self.environ.get("PREFECT_HOME") or Path.home() / ".prefect") / "profiles.toml"


def _active_profile(profiles_path: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The settings of the active profile; those of Prefect's own default name no server."""
    profiles = _read_toml(profiles_path)
    name = environ.get("PREFECT_PROFILE") or profiles.get("active")
    profile = _dig(profiles, "profiles", str(name))
    return {str(k): str(v) for k, v in profile.items()} if isinstance(profile, dict) else {}


def _read_toml(path: Path) -> dict[str, object]:
    """A TOML file; empty if it is missing or no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _dig(table: object, *keys: str) -> object:
    """What lies under nested keys of a table; None if nothing does."""
    for key in keys:
        if not isinstance(table, dict):
            return None
        table = table.get(key)
    return table
