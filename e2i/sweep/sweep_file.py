"""Reading what a sweep is from a file: YAML, TOML or JSON, told by its ending.

Decides: an error names the file and the field, in the terms of the file. A key that stands twice is
an error, for the parser would take the last one without a word.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Hashable, Mapping

import yaml
from pydantic import ValidationError

from e2i.configuration import Configuration
from e2i.errors import ConfigError, StorageNotFoundError
from e2i.storage import Folder
from e2i.store_layout import public_url, split_url
from e2i.sweep.config import SearchConfig, SweepConfig

ENDINGS = (".yaml", ".yml", ".toml", ".json")


def read_sweep(url: str) -> SweepConfig:
    """What a file asks for; what it leaves out takes its default.

    Args:
        url: file or URL.

    Raises:
        ConfigError: there is no such file, it cannot be parsed, or a field is wrong.
        StorageError: the store refused.
    """
    where = public_url(url)
    folder, name = split_url(url)
    if not name.lower().endswith(ENDINGS):
        message = (
            f"the sweep's file is of no known kind: got {where}, expected a name that ends with "
            f"{', '.join(ENDINGS)}. Rename it."
        )
        raise ConfigError(message)
    try:
        text = Folder(folder).read(name).decode("utf-8-sig")
    except StorageNotFoundError as error:
        message = (
            f"the sweep's file is not there: got {where}, expected YAML, TOML or JSON. Correct "
            "--sweep."
        )
        raise ConfigError(message) from error
    except UnicodeDecodeError as error:
        message = (
            f"the sweep's file is no text: got byte {error.object[error.start]:#x} at "
            f"{error.start} in {where}, expected UTF-8. Save it as UTF-8."
        )
        raise ConfigError(message) from error
    content = _parsed(text, name, where)
    try:
        return SweepConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_faults(error, where)) from error


def _parsed(text: str, name: str, where: str) -> Mapping[str, object]:
    try:
        if name.lower().endswith(".toml"):
            content: object = tomllib.loads(text)
        elif name.lower().endswith(".json"):
            content = json.loads(text, object_pairs_hook=_each_once)
        else:
            content = yaml.load(text, _EachKeyOnce)  # noqa: S506 - a safe loader
    except (tomllib.TOMLDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        message = (
            f"the sweep's file cannot be read: got {reason} in {where}, expected "
            f"{_kind(name)}. Correct it there."
        )
        raise ConfigError(message) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        message = (
            f"the sweep's file holds no fields: got a {type(content).__name__} in {where}, "
            "expected names and values such as `trials: 12`. Correct it."
        )
        raise ConfigError(message)
    return content


def _kind(name: str) -> str:
    ending = name.lower().rpartition(".")[2]
    return {"toml": "TOML", "json": "JSON"}.get(ending, "YAML")


def _faults(error: ValidationError, where: str) -> str:
    """All faults of a file, one a line; of a list and of its items those of the items alone."""
    faults = error.errors(include_url=False)
    places = [fault["loc"] for fault in faults]
    lines = []
    for fault in faults:
        place = fault["loc"]
        if any(other != place and other[: len(place)] == place for other in places if place):
            continue
        field = ".".join(str(step) for step in place)
        said = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            said = _no_such_field(field, SearchConfig if len(place) > 1 else SweepConfig)
        elif fault["type"] in ("too_short", "too_long"):
            context = fault["ctx"]
            bound = (
                f"at least {context['min_length']}"
                if "min_length" in context
                else (f"at most {context['max_length']}")
            )
            said = f"got {fault['input']!r}, expected {bound} of them. Correct it."
        elif ": got " not in said:
            rule = said.removeprefix("Input should be ").removeprefix("Input should ")
            said = f"got {fault['input']!r}, expected {rule[:1].lower()}{rule[1:]}. Correct it."
        lines.append(f"{where}: {field + ': ' if field else ''}{said}")
    return "\n".join(lines)


def _no_such_field(field: str, model: type[Configuration]) -> str:
    known = list(model.model_fields)
    close = difflib.get_close_matches(field.rpartition(".")[2], known, n=1)
    step = f"Did you mean {close[0]!r}?" if close else "Take it out."
    return f"no such field: got {field!r}, expected one of {', '.join(known)}. {step}"


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object of JSON; refuses a name that stands twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} twice")
    return found


class _EachKeyOnce(yaml.SafeLoader):  # type: ignore[misc]
    """YAML without tags that make objects, and without keys that stand twice."""

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Hashable, object]:
        """A mapping; refuses a key that stands twice."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} twice", node.start_mark
                )
        mapping: dict[Hashable, object] = super().construct_mapping(node, deep)
        return mapping
