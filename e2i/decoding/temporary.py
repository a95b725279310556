"""Temporary files without a name: nothing is left behind, whoever is killed."""

from __future__ import annotations

import tempfile
from typing import BinaryIO

from e2i.storage import translation


def temporary_file(content: bytes = b"") -> BinaryIO:
    """An open file of the local disk with this content, which goes away when it is closed.

    Raises:
        StorageError: there is no room for temporary files.
    """
    try:
        file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    except OSError as error:
        raise translation.from_os_error(error, "write", "temporary files") from error
    try:
        file.write(content)
        file.flush()
    except OSError as error:
        file.close()
        raise translation.from_os_error(error, "write", "temporary files") from error
    return file
