"""Models published on the Hugging Face Hub: found in the Hub's own cache, else fetched into it.

Decides: nothing is asked of the network where the cache has the model. Where it has not, one
request finds the commit, and small files are fetched; weights are fetched when a model is loaded.
Each wait for an answer is bounded. Where the cache lies, whether the network may be used, and with
which token, is huggingface_hub's own affair (`HF_HOME`, `HF_HUB_OFFLINE`, `hf auth login`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from e2i.errors import EncoderUnavailableError

LIMIT_S = 10.0
"""The longest wait for an answer of the Hub."""

_OF_THE_DISK = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR}
)


def hub_model(
    reference: str,
    option: str,
    side_files: Sequence[str],
    tokenizers: Sequence[str],
    weights: Sequence[str],
) -> tuple[Path, str, str]:
    """A published model: local folder, name and commit.

    What somebody else left in the cache without a tokenizer is completed, at its own commit, if
    the Hub answers.

    Args:
        reference: `name` or `name@revision`.
        option: the option that named it, for messages.
        side_files: what is fetched now; the first has to be there.
        tokenizers: names of them that a tokenizer is made from.
        weights: names of weights, one of which has to be there.

    Raises:
        EncoderUnavailableError: it is neither in the cache nor to be had from the Hub.
    """
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    repository, _, revision = reference.partition("@")
    try:
        cached = try_to_load_from_cache(repository, side_files[0], revision=revision or None)
    except HFValidationError as error:
        raise _not_given(reference, "no name that it could have", option) from error
    if isinstance(cached, str):
        folder = Path(cached).parent
        if any((folder / name).is_file() for name in weights):
            if any((folder / name).is_file() for name in tokenizers) or not _answers():
                return folder, repository, folder.name
            revision = folder.name
    if not _answers():
        raise _unreachable(reference, option)
    hub = _Hub(repository, revision or None, option)
    folder = Path(hub.fetched(side_files[0])).parent
    hub = _Hub(repository, folder.name, option)
    with ThreadPoolExecutor(len(side_files)) as pool:
        list(pool.map(hub.fetched, side_files[1:]))
    if not any(hub.has(name) for name in weights):
        raise _not_given(reference, "a repository without weights", option)
    return folder, repository, folder.name


def fetch_weights(repository: str, revision: str, option: str, weights: Sequence[str]) -> None:
    """Fetch the weights of a published model, unless the cache has them.

    Args:
        repository: its name.
        revision: the commit.
        option: the option that named it, for messages.
        weights: names of weights in the order of preference; an index names its parts.

    Raises:
        EncoderUnavailableError: the Hub does not answer.
    """
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415

    hub = _Hub(repository, revision, option)

    def found(name: str) -> str:
        cached = try_to_load_from_cache(repository, name, revision=revision)
        return cached if isinstance(cached, str) else hub.fetched(name, needed=False)

    def cached(name: str) -> str:
        path = try_to_load_from_cache(repository, name, revision=revision)
        return path if isinstance(path, str) else ""

    path = next(filter(None, map(cached, weights)), "")
    path = path or next(filter(None, map(found, weights)), "")
    if path.endswith(".index.json"):
        index = json.loads(Path(path).read_bytes())
        for name in sorted({*index["weight_map"].values()}):
            found(name)


@dataclass(frozen=True, slots=True)
class _Hub:
    """One repository at one revision; the default branch for None."""

    repository: str
    revision: str | None
    option: str

    def fetched(self, name: str, *, needed: bool | None = None) -> str:
        """Path of a file in the cache, fetched if need be; empty where there is no such file.

        The configuration is what every model has: without it the name is wrong.
        """
        needed = name == "config.json" if needed is None else needed
        path = self._asked(name, needed=needed, dry_run=False)
        return path if isinstance(path, str) else ""

    def has(self, name: str) -> bool:
        """Whether the repository has a file."""
        return bool(self._asked(name, needed=False, dry_run=True))

    def _asked(self, name: str, *, needed: bool, dry_run: bool) -> object:
        from huggingface_hub import hf_hub_download  # noqa: PLC0415
        from huggingface_hub.errors import (  # noqa: PLC0415
            GatedRepoError,
            LocalEntryNotFoundError,
            RemoteEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        shown = f"{self.repository}@{self.revision}" if self.revision else self.repository
        try:
            with quiet_hub():
                return hf_hub_download(
                    self.repository,
                    name,
                    revision=self.revision,
                    etag_timeout=LIMIT_S,
                    dry_run=dry_run,
                )
        except RemoteEntryNotFoundError as error:
            if not needed:
                return None
            raise _not_given(shown, f"a repository without {name}", self.option) from error
        except GatedRepoError as error:
            raise _not_given(shown, "one that needs a login with access", self.option) from error
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise _not_given(shown, "no such model or revision", self.option) from error
        except LocalEntryNotFoundError as error:
            raise _unreachable(shown, self.option) from error
        except OSError as error:
            if error.errno in _OF_THE_DISK:
                raise _not_kept(shown, error, self.option) from error
            raise _unreachable(shown, self.option) from error


def _answers() -> bool:
    """Whether the Hub can be reached, asked once: its client would try for more than a minute."""
    from huggingface_hub import constants  # noqa: PLC0415

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        with urllib.request.urlopen(constants.ENDPOINT, timeout=LIMIT_S):  # noqa: S310
            return True
    except urllib.error.HTTPError as answer:
        answer.close()
        return True
    except urllib.error.URLError as error:  # a certificate unknown here may be known to the client
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, ValueError):
        return False


_quiet_guard = threading.Lock()
_quiet_depth = 0
_loud: list[Callable[[], None]] = []


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """The Hub's client without its bars and remarks, until the last who entered has left."""
    global _quiet_depth  # noqa: PLW0603 - the client's settings are the process's
    with _quiet_guard:
        if _quiet_depth == 0:
            _loud.extend(_silenced())
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_guard:
            _quiet_depth -= 1
            while _quiet_depth == 0 and _loud:
                _loud.pop()()


def _silenced() -> list[Callable[[], None]]:
    """Silence the client; what brings back what was there."""
    from huggingface_hub.utils import logging as hub_logging  # noqa: PLC0415
    from huggingface_hub.utils.tqdm import (  # noqa: PLC0415
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    verbosity = hub_logging.get_verbosity()
    before: list[Callable[[], None]] = [lambda: hub_logging.set_verbosity(verbosity)]
    hub_logging.set_verbosity(logging.CRITICAL)
    if not are_progress_bars_disabled():
        disable_progress_bars()
        before.append(enable_progress_bars)
    return before


def _not_given(reference: str, what: str, option: str) -> EncoderUnavailableError:
    return EncoderUnavailableError(
        f"the Hugging Face Hub does not give this model: got {reference!r}, {what}, expected the "
        f"name of a published transformers model, or a folder. Correct {option}."
    )


def _unreachable(reference: str, option: str) -> EncoderUnavailableError:
    from huggingface_hub import constants  # noqa: PLC0415

    return EncoderUnavailableError(
        f"the model is not on this machine and the Hugging Face Hub cannot be asked: got "
        f"{reference!r}, neither a folder here nor in {constants.HF_HUB_CACHE}, expected "
        f"config.json, tokenizer.json and model.safetensors of it. Put them into a folder and give "
        f"that as {option}, or run once with a network."
    )


def _not_kept(reference: str, error: OSError, option: str) -> EncoderUnavailableError:
    from huggingface_hub import constants  # noqa: PLC0415

    return EncoderUnavailableError(
        f"the model cannot be kept on this machine: got {error.strerror} for {reference} in "
        f"{constants.HF_HUB_CACHE}, expected a folder with room that can be written to. Set "
        f"HF_HOME to one, or give a local folder as {option}."
    )
