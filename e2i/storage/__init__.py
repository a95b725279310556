"""One folder object over fsspec, and the only user of fsspec in e2i.

Conventions: names are relative, `/` between folders, never with `..`, and mean exactly their
characters: nothing in them is a pattern or an escape. A URL is any fsspec URL or a local path
(relative to the working directory, `~` expanded). Writes are atomic: a name holds the old bytes or
the new ones, never a part. Nothing is cached: a listing is what lies there now. Errors of all back
ends come as the `StorageError` tree; credentials appear in none of them.

| module | what |
|---|---|
| folder | `Folder`, what everybody uses |
| locations | URLs: which back end, without credentials |
| store | what a back end has to do |
| local, memory, s3, generic | the back ends |
| translation | their errors, in the words of `e2i.errors` |
"""

from __future__ import annotations

from e2i.storage.folder import Folder
from e2i.storage.store import FileInfo

__all__ = ["FileInfo", "Folder"]
