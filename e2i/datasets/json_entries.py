"""The entries of a JSON or JSONL file, before anybody looks into them.

Conventions: entries are counted from 1; a line is known in JSONL only. What is decided here:

- A file that starts with `[` is a list of objects; one that starts with `{` is JSONL, one object a
  line, unless that object is all there is and the name does not say JSONL. Names alone do not tell:
  both are saved as `.json`.
- Lines end at line feeds alone. The other characters that Unicode calls line breaks may stand
  inside a caption.
- A key that stands twice in one object is a fault: readers differ in which one they take.

Source: RFC 8259 (JSON), https://jsonlines.org.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from e2i.errors import DatasetError

STARTS = ("[", "{")
"""What JSON and JSONL begin with."""

LINE_SUFFIXES = (".jsonl", ".ndjson")

_EXPECTED = "a list of objects, or one object a line"
_CONTAINERS = {dict: "an object", list: "a list"}
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the file.

    Attributes:
        number: from 1.
        line: in JSONL the line that it stands in, else 0.
        value: what stands there, of whatever type; a `Fault` where it cannot be read.
    """

    number: int
    line: int
    value: object

    def __str__(self) -> str:
        return f"entry {self.number}" + (f" (line {self.line})" if self.line else "")


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an entry cannot be read."""

    reason: str


class JsonObject(dict[str, object]):
    """An object of the file; `repeated` are the keys that stand in it more than once."""

    repeated: tuple[str, ...] = ()


def json_entries(text: str, source: str) -> Iterator[Entry]:
    """The entries of a file.

    Args:
        text: of the file.
        source: its location, for messages.

    Raises:
        DatasetError: it is neither a list nor one object a line.
    """
    if not text.strip():
        raise DatasetError(
            f"metadata {source} is empty: got no text, expected {_EXPECTED}. Fetch the file again."
        )
    named_so = source.lower().endswith(LINE_SUFFIXES)
    if text.lstrip().startswith("{") and _is_jsonl(text, named_so=named_so):
        return _lines(text)
    value = _parsed_whole(text, source)
    if not isinstance(value, list):
        got = described(value)
        if isinstance(value, JsonObject):
            got += f" (keys: {', '.join(repr(key[:_SHOWN]) for key in list(value)[:5]) or 'none'})"
        raise DatasetError(
            f"metadata {source} is not a list: got {got}, expected {_EXPECTED}. Save the entries "
            "as such."
        )
    return (Entry(number, 0, entry) for number, entry in enumerate(value, 1))


def described(value: object) -> str:
    """A JSON value in words: its type, and what it is where that is short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the string {value[:_SHOWN]!r}" + ("..." if len(value) > _SHOWN else "")
    if isinstance(value, int | float):
        return f"the number {str(value)[:_SHOWN]}"
    return next(words for kind, words in _CONTAINERS.items() if isinstance(value, kind))


def _is_jsonl(text: str, *, named_so: bool) -> bool:
    """Whether what starts with an object is one object a line, as far as can be told."""
    try:
        _, end = _DECODER.raw_decode(text, len(text) - len(text.lstrip()))
    except json.JSONDecodeError as error:
        return named_so or error.lineno == 1
    except (ValueError, RecursionError):
        return True
    return bool(text[end:].strip()) or (named_so and "\n" not in text.strip())


def _parsed_whole(text: str, source: str) -> object:
    try:
        return _DECODER.decode(text)
    except RecursionError as error:
        raise DatasetError(
            f"metadata {source} is nested too deeply: got more levels than can be read, expected "
            f"{_EXPECTED}. Correct the file."
        ) from error
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"metadata {source} is not JSON: got {error.msg!r} in line {error.lineno}, column "
            f"{error.colno}, expected {_EXPECTED}. Correct it there, or fetch the file again."
        ) from error
    except ValueError as error:
        raise DatasetError(
            f"metadata {source} cannot be read: got {error}, expected {_EXPECTED}. Correct the "
            "file."
        ) from error


def _lines(text: str) -> Iterator[Entry]:
    """One entry a line that is not blank."""
    number = 0
    for line_number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            number += 1
            yield Entry(number, line_number, _parsed_line(line))


def _parsed_line(line: str) -> object:
    try:
        return _DECODER.decode(line)
    except RecursionError:
        return Fault(
            "nested too deeply: got more levels than can be read, expected an object. Correct "
            "the line."
        )
    except json.JSONDecodeError as error:
        return Fault(
            f"not JSON: got {error.msg!r} at column {error.colno}, expected one object a line. "
            "Correct the line."
        )
    except ValueError as error:
        return Fault(f"cannot be read: got {error}, expected an object. Correct the line.")


def _object_of(pairs: list[tuple[str, object]]) -> JsonObject:
    made = JsonObject(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        made.repeated = tuple(key for key in made if keys.count(key) > 1)
    return made


_DECODER = json.JSONDecoder(object_pairs_hook=_object_of)
