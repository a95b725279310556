"""What a flow run is called after."""

from __future__ import annotations

from e2i.cache.header import read_header
from e2i.errors import E2IError
from e2i.storage import Folder


def stored_names(cache_url: str) -> tuple[str, ...]:
    """Data set, split and encoders of a cache, by its own record; nothing where that is not had.

    What is wrong with it is for the run to say, which would not begin without a name.
    """
    try:
        header = read_header(Folder(cache_url))
    except (E2IError, OSError, ValueError):
        return ()
    sides = (header.audio, header.text)
    return (
        header.dataset,
        header.split,
        *(str(side.settings.get("encoder", "")) for side in sides),
    )
