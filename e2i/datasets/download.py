"""Clotho on the local disk: fetched, checked and unpacked, and nothing of that twice.

Below the data root lie, afterwards:

    archives/clotho_audio_<split>.7z                    kept, unless asked otherwise
    clotho_csv_files/clotho_captions_<split>.csv
    clotho_audio_files/<split>/*.wav

What is decided here:

- First it is settled what is missing, then how big that is, then whether the disk can take it, and
  only then is anything written. Captions come first, then the archives, several at a time.
- A split is unpacked to `clotho_audio_files/.e2i-<split>` and moved when it is complete, so a kill
  leaves no half split under the split's name; one that lost recordings later is unpacked again,
  from the archive if that is still there. Files of others in that folder stay.
- A folder that somebody else unpacked is taken over if each recording has the archive's checksum.
- An interrupt, or one file's fault, stops all threads; what has arrived is gone on with next time.

Source: Zenodo record 4783391.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from e2i.datasets.archives import Member, holds_all, move_into, read_members, unpack
from e2i.datasets.clotho_record import CLOTHO, ArchiveRecord, RecordFile, with_checksums
from e2i.datasets.disk_space import require_space
from e2i.datasets.download_config import DownloadConfig
from e2i.datasets.download_state import DownloadState, locked
from e2i.datasets.metadata_file import AUDIO_FOLDER, CSV_FOLDER
from e2i.datasets.part_file import drop_part, part_size_bytes
from e2i.datasets.web_folder import StoppedError, WebFolder
from e2i.errors import ConfigError, StorageError
from e2i.storage import Folder, translation
from e2i.storage.locations import locate

ARCHIVE_FOLDER = "archives"
_LONGEST_GOODBYE_S = 2.0

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class DownloadCounts:
    """What a download did.

    Attributes:
        downloaded: files fetched now.
        reused: files that need not be fetched.
        unpacked: recordings unpacked now.
        unpacked_before: recordings that were there.
        downloaded_bytes: what came over the network now: without the parts that were there, with
            what had to be fetched again.
    """

    downloaded: int
    reused: int
    unpacked: int
    unpacked_before: int
    downloaded_bytes: int


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One file to fetch."""

    file: RecordFile
    target: Path


def download_clotho(
    data_root: str,
    config: DownloadConfig,
    *,
    record: ArchiveRecord = CLOTHO,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> DownloadCounts:
    """Fetch, check and unpack what a data root lacks.

    Args:
        data_root: local folder.
        config: which splits, from where, how patiently.
        record: the files and their sums.
        progress: told how many more bytes have arrived, then how many are unpacked; from any
            thread, negative where a file is started over.
        note: told in one line what takes long or is tried again; from any thread.

    Raises:
        ConfigError: the data root is no local folder, or an option does not fit.
        DatasetError: a file never has its sum, or an archive cannot be unpacked.
        StorageError: a file cannot be had, the disk is full or refuses.
    """
    with ClothoDownload(data_root, config, record=record, note=note) as download:
        download.plan()
        download.fetch(progress)
        download.plan_unpacking()
        download.unpack(progress)
        return download.counts


class ClothoDownload:
    """The steps of `download_clotho`, for callers that show each: a context, used in this order.

    `plan()`, `fetch()`, `plan_unpacking()`, `unpack()`, `counts`; the data root is locked from
    beginning to end. Arguments and errors are those of `download_clotho`.
    """

    def __init__(
        self,
        data_root: str,
        config: DownloadConfig,
        *,
        record: ArchiveRecord = CLOTHO,
        note: Callable[[str], None] | None = None,
    ) -> None:
        self._root = local_root(data_root)
        self._config = config
        self._note = note or _unheard
        self._record = _with_own_sums(record, config)
        self._stop = threading.Event()
        self._contexts = contextlib.ExitStack()
        self._wanted: list[_Wanted] = []
        self._to_unpack: dict[str, list[Member]] = {}
        self._not_whole: list[str] = []
        self._fetched = self._fetched_bytes = self._unpacked = self._unpacked_before = 0
        self._counting = threading.Lock()

    def __enter__(self) -> Self:
        """Lock the data root."""
        with contextlib.ExitStack() as contexts:
            contexts.enter_context(locked(self._root, self._note))
            self._state = DownloadState(self._root)
            self._contexts = contexts.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop what still runs, and unlock."""
        self._stop.set()
        self._contexts.close()

    @property
    def counts(self) -> DownloadCounts:
        """What was done so far."""
        return DownloadCounts(
            downloaded=self._fetched,
            reused=2 * len(self._config.splits) - len(self._wanted),
            unpacked=self._unpacked,
            unpacked_before=self._unpacked_before,
            downloaded_bytes=self._fetched_bytes,
        )

    def plan(self) -> int:
        """Settle what is missing, and that it fits; the bytes of the files to fetch.

        Nothing is written, and the network is not used unless something is missing.
        """
        splits, force = self._config.splits, self._config.force
        self._not_whole = [split for split in splits if force or not self._is_whole(split)]
        whole = set(splits) - set(self._not_whole)
        self._unpacked_before = sum(map(self._state.num_recordings, whole))
        captions = [
            _Wanted(file, self._root / CSV_FOLDER / file.name)
            for file in (self._record.captions[split] for split in splits)
        ]
        archives = [
            _Wanted(self._record.archives[split], self._archive_path(split))
            for split in self._not_whole
        ]
        self._wanted = [
            wanted
            for wanted in captions + archives
            if force or not self._state.check(wanted.target, wanted.file.md5, self._note)
        ]
        if not self._wanted:
            return 0
        web = self._contexts.enter_context(WebFolder(self._config, self._note, self._stop))
        self._web = web
        sizes = dict.fromkeys(self._wanted, 0)

        def ask(wanted: _Wanted) -> None:
            sizes[wanted] = web.size_bytes(wanted.file.name) or 0

        self._run([partial(ask, wanted) for wanted in self._wanted], self._config.connections)
        self._require_space_for(sizes)
        return sum(sizes.values())

    def fetch(self, progress: Progress | None = None) -> None:
        """Fetch the missing files."""
        report = progress or _unheard

        def fetch(wanted: _Wanted) -> None:
            file, target = wanted.file, wanted.target
            if self._config.force:
                drop_part(target)
            received_bytes = self._web.fetch(file.name, target, file.md5, report)
            self._state.remember_file(target, file.md5)
            with self._counting:
                self._fetched += 1
                self._fetched_bytes += received_bytes

        self._run([partial(fetch, wanted) for wanted in self._wanted], self._config.connections)

    def plan_unpacking(self) -> int:
        """Look into the archives, and settle that their recordings fit; the bytes to unpack."""
        self._to_unpack = {}
        for split in self._not_whole:
            members = read_members(self._archive_path(split))
            _remove_folder(self._unpacking_path(split))
            if not self._config.force and holds_all(self._audio_path(split), members):
                self._remember(split, members)
                self._unpacked_before += len(members)
                continue
            self._to_unpack[split] = members
        total = sum(m.size_bytes for members in self._to_unpack.values() for m in members)
        require_space([(self._root / AUDIO_FOLDER, total)], "unpack the recordings")
        return total

    def unpack(self, progress: Progress | None = None) -> None:
        """Unpack the splits that are not whole."""
        report = progress or _unheard

        def advance(count: int) -> None:
            if self._stop.is_set():
                raise StoppedError
            report(count)

        def unpack_split(split: str) -> None:
            members, folder = self._to_unpack[split], self._unpacking_path(split)
            try:
                unpack(self._archive_path(split), members, folder, advance)
                self._state.forget_split(split)
                move_into(folder, self._audio_path(split))
            except BaseException:
                with contextlib.suppress(StorageError):
                    _remove_folder(folder)
                raise
            self._remember(split, members)
            with self._counting:
                self._unpacked += len(members)

        workers = min(len(self._to_unpack), os.cpu_count() or 1)
        self._run([partial(unpack_split, split) for split in self._to_unpack], workers)
        if self._config.delete_archives:
            self._delete_archives()

    def _is_whole(self, split: str) -> bool:
        md5 = self._record.archives[split].md5
        return self._state.is_whole(split, self._audio_path(split), md5)

    def _remember(self, split: str, members: Sequence[Member]) -> None:
        sizes = {member.name: member.size_bytes for member in members}
        self._state.remember_split(split, self._record.archives[split].md5, sizes)

    def _require_space_for(self, sizes: dict[_Wanted, int]) -> None:
        needs = []
        for wanted, size_bytes in sizes.items():
            there = 0 if self._config.force else part_size_bytes(wanted.target)
            left = max(0, size_bytes - there)
            needs.append((wanted.target.parent, left))
            if wanted.target.parent.name == ARCHIVE_FOLDER:
                # Recordings take at least what their archive does.
                unpacked = max(size_bytes, wanted.file.unpacked_bytes)
                needs.append((self._root / AUDIO_FOLDER, unpacked))
        require_space(needs, "fetch and unpack the data set")

    def _delete_archives(self) -> None:
        for split in self._config.splits:
            path = self._archive_path(split)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise translation.from_os_error(error, "delete", str(path)) from error

    def _archive_path(self, split: str) -> Path:
        return self._root / ARCHIVE_FOLDER / self._record.archives[split].name

    def _audio_path(self, split: str) -> Path:
        return self._root / AUDIO_FOLDER / split

    def _unpacking_path(self, split: str) -> Path:
        return self._root / AUDIO_FOLDER / f".e2i-{split}"

    def _run(self, jobs: Sequence[Callable[[], None]], workers: int) -> None:
        """Run jobs in threads; the first fault, or an interrupt, stops the others."""
        if not jobs:
            return
        pool = ThreadPoolExecutor(workers, thread_name_prefix="download")
        running = [pool.submit(self._stop_others_on_fault, job) for job in jobs]
        faults: list[BaseException] = []
        try:
            for done in as_completed(running):
                fault = done.exception()
                if fault is not None and not isinstance(fault, StoppedError):
                    faults.append(fault)
        except BaseException:
            # Threads end at their next block; a stalled one does not hold up an interrupt.
            self._stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            wait(running, timeout=_LONGEST_GOODBYE_S)
            raise
        pool.shutdown(wait=True)
        if faults:
            raise faults[0]

    def _stop_others_on_fault(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException:
            self._stop.set()
            raise


def local_root(data_root: str) -> Path:
    """The local folder that a data root names.

    Raises:
        ConfigError: it names none.
    """
    location, _ = locate(data_root)
    if location.protocol != "file":
        raise ConfigError(
            f"archives are unpacked on the local disk: got the data root {location.url}, expected "
            "a local folder. Download to a folder, copy it to the store, and give the copy's URL "
            "as --metadata and --audio-root."
        )
    return Path(location.path)


def _with_own_sums(record: ArchiveRecord, config: DownloadConfig) -> ArchiveRecord:
    if config.checksums is None:
        return record
    above, slash, name = config.checksums.rpartition("/")
    try:
        text = Folder((above or "/") if slash else ".").read(name).decode("utf-8")
    except (StorageError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the checksums: got {config.checksums!r} ({error}), expected a text file "
            "as md5sum writes it. Correct --checksums."
        ) from error
    return with_checksums(record, text, config.checksums)


def _remove_folder(path: Path) -> None:
    """Remove what an earlier run was unpacking."""
    try:
        if path.is_symlink() or not path.exists():
            return
        shutil.rmtree(path)
    except OSError as error:
        raise translation.from_os_error(error, "delete", str(path)) from error


def _unheard(_: object) -> None:
    """Stands in where nobody wants to know."""
