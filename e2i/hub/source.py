"""Where embeddings are downloaded from: a data set of the Hub, or a folder.

Conventions: `--subset` names the folder of the cache there. Without it, that is the name of the
cache folder here, as the original has it, or else the root.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

from e2i.cache.layout import HEADER_NAME, SNAPSHOT_NAMES
from e2i.cache.restore import KeptCache, look_at
from e2i.errors import CacheNotFoundError, ConfigError
from e2i.storage import Folder
from e2i.store_layout import split_url

_REPO = re.compile(r"[\w.-]+/[\w.-]+")
_SHOWN = 10


def source_folder(repo_id: str, revision: str | None = None) -> Folder:
    """The root of what is downloaded from.

    Args:
        repo_id: `owner/name` of a data set on the Hub, the URL of a folder, or the path of a local
            one; a relative path begins with a dot, as it could be a data set else.
        revision: branch, tag or commit of the data set.

    Raises:
        ConfigError: it is none of these, or a revision is given for a folder.
    """
    is_path = repo_id.startswith(("/", "./", "../", "~"))
    if is_path or "://" in repo_id:
        if revision is not None:
            raise ConfigError(
                f"only a data set of the Hub has revisions: got --revision {revision} for a "
                "folder, expected 'owner/name'. Leave --revision out."
            )
        return Folder(Path(repo_id).expanduser().absolute() if is_path else repo_id)
    if not _REPO.fullmatch(repo_id):
        raise ConfigError(
            f"not a data set of the Hub: got {repo_id!r}, expected 'owner/name', the URL of a "
            "folder, or a path that begins with / or a dot. Correct --repo-id."
        )
    at = f"@{quote(revision, safe='')}" if revision else ""
    return Folder(f"hf://datasets/{repo_id}{at}")


def find_cache(repo_id: str, revision: str | None, subset: str, cache_dir: str) -> KeptCache:
    """The cache that is kept there.

    Args:
        repo_id: see `source_folder`.
        revision: see `source_folder`.
        subset: its folder there; empty for the name of `cache_dir`, or else the root.
        cache_dir: where it is to be restored.

    Raises:
        CacheNotFoundError: there is none.
        CacheError: it is not whole, or cannot be read.
        ConfigError: see `source_folder`.
        StorageUnavailableError: the Hub or the store does not answer.
        StorageError: it refused.
    """
    root = source_folder(repo_id, revision)
    name = subset.strip("/") or split_url(cache_dir)[1]
    places = [root.folder(name)] if name else []
    if not subset:
        places.append(root)
    for place in places:
        kept = look_at(place)
        if kept is not None:
            return kept
    raise _nothing_there(root, name, subset)


def _nothing_there(root: Folder, name: str, subset: str) -> CacheNotFoundError:
    found = sorted(
        {
            file.name.rpartition("/")[0]
            for file in root.files()
            if file.name.rpartition("/")[2] in {HEADER_NAME, SNAPSHOT_NAMES[0]}
        }
        - {""}
    )
    step = (
        f"Give one of these as --subset: {', '.join(found[:_SHOWN])}."
        if found
        else "Correct --repo-id; a private data set needs a login (`hf auth login`, or HF_TOKEN)."
    )
    return CacheNotFoundError(
        f"there is no cache to download: got {root.url}{f'/{name}' if subset else ''}, expected "
        f"a folder {name!r}{'' if subset else ', or the root,'} with {HEADER_NAME} or the "
        f"original's {SNAPSHOT_NAMES[0]}. {step}"
    )
