"""Where the recordings that metadata names may lie: below one root, and nowhere else.

Conventions: an audio name is relative to the root, `/` between folders, without `.` and `..`. It
means exactly its characters: nothing in it is an escape or a pattern.
"""

from __future__ import annotations

import posixpath
import re

from e2i.errors import DatasetError

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CREDENTIALS = re.compile(rf"({_URL.pattern})[^/]*@")


def audio_name_in(audio: str, root_url: str) -> str:
    """The name that a clip's recording is read by.

    Args:
        audio: as the metadata has it.
        root_url: the root, an absolute path or a URL.

    Returns:
        The name relative to the root; of what lies elsewhere, what the metadata has. Reading that
        is refused, and costs this clip alone.

    Raises:
        DatasetError: it names no recording at all, or holds credentials, which would be stored.
    """
    try:
        return resolve_audio_name(audio, root_url)
    except DatasetError:
        leads_out = ".." in audio.split("/") or audio.startswith("/") or _URL.match(audio)
        if not leads_out or audio.endswith("/") or "\0" in audio or _CREDENTIALS.match(audio):
            raise
        return audio


def resolve_audio_name(audio: str, root_url: str) -> str:
    """The name of a recording relative to the root of all recordings.

    Args:
        audio: as the metadata has it: relative, or an absolute path or URL below the root.
        root_url: the root, an absolute path or a URL.

    Raises:
        DatasetError: empty, a folder, with `..` in it, or outside the root. It says nothing of the
            row; whoever reads rows adds that.
    """
    if not audio.strip() or audio.endswith("/"):
        raise _refused(audio, "names no recording", "the name of one")
    if "\0" in audio:
        raise _refused(audio, "holds a NUL character", "a name without it")
    if ".." in audio.split("/"):
        raise _refused(audio, "has '..' in it", f"a name below {root_url}")
    name = audio
    if audio.startswith("/") or _URL.match(audio):
        root, absolute = _comparable(root_url), _comparable(audio)
        prefix = root if root.endswith("/") else root + "/"
        if not absolute.startswith(prefix):
            raise _refused(audio, "lies outside the audio root", f"one below {root_url}")
        name = absolute[len(prefix) :]
    name = "/".join(part for part in name.split("/") if part not in {"", "."})
    if not name.strip():
        raise _refused(audio, "names no recording", "the name of one")
    return name


def _comparable(location: str) -> str:
    """A path or URL without empty and `.` parts, so that two of them can be compared."""
    scheme = _URL.match(location)
    if scheme is None or scheme[1].lower() in {"file", "local"}:
        path = location[scheme.end() :] if scheme else location
        return posixpath.normpath("/" + path.lstrip("/"))
    parts = [part for part in location[scheme.end() :].split("/") if part not in {"", "."}]
    return f"{scheme[1].lower()}://{'/'.join(parts)}"


def _refused(audio: str, wrong: str, expected: str) -> DatasetError:
    shown = _CREDENTIALS.sub(r"\1***@", audio)
    shown = shown if len(shown) <= 200 else shown[:200] + "..."
    return DatasetError(
        f"audio name {wrong}: got {shown!r}, expected {expected}. Correct the name, or give the "
        "folder of the recordings as --audio-root."
    )
