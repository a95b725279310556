"""Downloading Clotho from a server that cuts, stalls, corrupts and refuses."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import py7zr
import pytest
from pydantic import ValidationError

from archive_server import (
    ArchiveServer,
    Corrupt,
    Cut,
    IgnoreRange,
    Stall,
    Status,
    TooLong,
)
from e2i.datasets import disk_space
from e2i.datasets import web_folder as web_folder_module
from e2i.datasets.archives import read_members
from e2i.datasets.clotho import read_clotho
from e2i.datasets.clotho_record import CLOTHO, ArchiveRecord, RecordFile, with_checksums
from e2i.datasets.disk_space import in_words, require_space
from e2i.datasets.download import (
    ClothoDownload,
    DownloadCounts,
    download_clotho,
)
from e2i.datasets.download_config import DownloadConfig
from e2i.datasets.download_state import LOCK_NAME, STATE_NAME
from e2i.datasets.presence import splits_lacking
from e2i.errors import (
    ConfigError,
    DatasetError,
    StorageError,
    StorageFullError,
    StorageNotFoundError,
    StoragePermissionError,
    StorageUnavailableError,
)

SPLITS = ("development", "validation", "evaluation")
NUM_CLIPS = {"development": 4, "validation": 2, "evaluation": 2}
CLIP_BYTES = 400_000
ARCHIVE = "clotho_audio_evaluation.7z"
CAPTIONS = "clotho_captions_evaluation.csv"


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_split(folder: Path, split: str) -> None:
    """Archive and captions of one split in Clotho's form, of sounds that do not compress."""
    noise = random.Random(split)
    rows = ["file_name," + ",".join(f"caption_{n}" for n in range(1, 6))]
    with py7zr.SevenZipFile(
        folder / f"clotho_audio_{split}.7z", "w", filters=[{"id": py7zr.FILTER_COPY}]
    ) as archive:
        for n in range(NUM_CLIPS[split]):
            name = f"{split} #{n} [a].wav"
            archive.writestr(noise.randbytes(CLIP_BYTES), f"{split}/{name}")
            rows.append(name + "".join(f",sound {n} caption {k}" for k in range(1, 6)))
    (folder / f"clotho_captions_{split}.csv").write_text("\r\n".join(rows) + "\r\n")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    for split in SPLITS:
        write_split(folder, split)
    return folder


@pytest.fixture
def server(published: Path) -> Iterator[ArchiveServer]:
    with ArchiveServer(published) as running:
        yield running


@pytest.fixture
def record(published: Path) -> ArchiveRecord:
    return record_of(published)


def record_of(folder: Path) -> ArchiveRecord:
    def files(kind: str, ending: str) -> dict[str, RecordFile]:
        names = {split: f"clotho_{kind}_{split}.{ending}" for split in SPLITS}
        return {split: RecordFile(name, md5(folder / name)) for split, name in names.items()}

    return ArchiveRecord(files("audio", "7z"), files("captions", "csv"))


class Run:
    """Downloads to one data root, and what they said."""

    def __init__(self, root: Path, server: ArchiveServer, record: ArchiveRecord) -> None:
        self.root = root
        self.server = server
        self.record = record
        self.notes: list[str] = []
        self.reported = 0

    def __call__(self, *, splits: tuple[str, ...] = ("evaluation",), **options) -> DownloadCounts:
        defaults = {"base_url": self.server.url, "retry_wait_s": 0.001, "timeout_s": 5.0}
        config = DownloadConfig(**{**defaults, "splits": splits, **options})
        self.notes, self.reported = [], 0
        lock = threading.Lock()

        def report(count: int) -> None:
            with lock:
                self.reported += count

        return download_clotho(
            str(self.root), config, record=self.record, progress=report, note=self.notes.append
        )

    @property
    def archive(self) -> Path:
        return self.root / "archives" / ARCHIVE

    @property
    def part(self) -> Path:
        return self.archive.with_name(f"{ARCHIVE}.part")

    def check(self, splits: tuple[str, ...] = ("evaluation",)) -> None:
        """Everything is there, whole, and nothing else is."""
        for split in splits:
            folder = self.root / "clotho_audio_files" / split
            noise = random.Random(split)
            names = [f"{split} #{n} [a].wav" for n in range(NUM_CLIPS[split])]
            assert sorted(path.name for path in folder.iterdir()) == sorted(names)
            for name in names:
                assert (folder / name).read_bytes() == noise.randbytes(CLIP_BYTES), name
            captions = f"clotho_captions_{split}.csv"
            stored = self.root / "clotho_csv_files" / captions
            assert stored.read_bytes() == (self.server.folder / captions).read_bytes()
        leftovers = [
            path.name
            for path in self.root.rglob("*")
            if ".part" in path.name or path.name.startswith(".e2i-")
        ]
        assert sorted(leftovers) == [STATE_NAME, LOCK_NAME]


@pytest.fixture
def run(tmp_path: Path, server: ArchiveServer, record: ArchiveRecord) -> Run:
    return Run(tmp_path / "CLOTHO", server, record)


def test_everything_is_fetched_unpacked_and_readable(run: Run) -> None:
    counts = run(splits=SPLITS)
    run.check(SPLITS)
    sent = sum(path.stat().st_size for path in run.server.folder.iterdir())
    assert counts == DownloadCounts(
        downloaded=6, reused=0, unpacked=8, unpacked_before=0, downloaded_bytes=sent
    )
    assert run.reported == sent + 8 * CLIP_BYTES
    captions = run.root / "clotho_csv_files" / "clotho_captions_development.csv"
    assert len(read_clotho(str(captions)).clips) == 4
    assert run.server.requests[0].user_agent.startswith("e2i/")


def test_files_are_fetched_at_the_same_time_but_no_more_than_asked(
    run: Run, tmp_path: Path
) -> None:
    splits = ("development", "validation")
    for split in splits:
        run.server.faults[f"clotho_audio_{split}.7z"] = [Stall(10)]
    run(splits=splits, connections=2, timeout_s=0.3)
    assert run.server.most_at_once >= 2
    run.server.most_at_once = 0
    other = Run(tmp_path / "other", run.server, run.record)
    other(splits=splits, connections=1)
    other.check(splits)


def test_the_second_time_nothing_is_fetched_summed_or_unpacked(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(splits=SPLITS)
    asked = len(run.server.requests)
    before = {path: path.stat() for path in run.root.rglob("*") if path.is_file()}

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("done twice")

    monkeypatch.setattr(hashlib, "md5", refuse)
    monkeypatch.setattr(py7zr, "SevenZipFile", refuse)
    counts = run(splits=SPLITS)
    assert counts == DownloadCounts(0, 6, 0, first.unpacked, 0)
    assert len(run.server.requests) == asked
    assert run.reported == 0
    assert run.notes == []
    after = {path: path.stat() for path in run.root.rglob("*") if path.is_file()}
    assert {p: (s.st_mtime_ns, s.st_ino) for p, s in after.items()} == {
        p: (s.st_mtime_ns, s.st_ino) for p, s in before.items()
    }


def test_one_split_more_costs_that_split_only(run: Run) -> None:
    run(splits=("evaluation",))
    asked = len(run.server.requests)
    counts = run(splits=("evaluation", "validation"))
    assert (counts.downloaded, counts.reused) == (2, 2)
    assert (counts.unpacked, counts.unpacked_before) == (2, 2)
    assert all("validation" in request.name for request in run.server.requests[asked:])


def test_a_cut_is_gone_on_with_by_range(run: Run) -> None:
    run.server.faults[ARCHIVE] = [Cut(500_000), Cut(600_000)]
    counts = run()
    run.check()
    first, second, third = run.server.bodies(ARCHIVE)
    assert first.range is None
    starts = [int(r.range.removeprefix("bytes=").rstrip("-")) for r in (second, third)]
    assert 0 < starts[0] <= 500_000 < starts[1] <= 600_000
    assert second.if_range == f'"{run.record.archives["evaluation"].md5}"'
    assert counts.downloaded_bytes == sum(
        (run.server.folder / name).stat().st_size for name in (ARCHIVE, CAPTIONS)
    )
    assert any(
        re.fullmatch(rf"{ARCHIVE}: the connection was cut; asking again in 0 s \(1 of 8\)\.", note)
        for note in run.notes
    )


def test_failures_count_only_while_nothing_more_comes(run: Run) -> None:
    run.server.faults[ARCHIVE] = [Cut(100_000 * n) for n in range(1, 8)]
    run(retries=1)
    run.check()


def test_a_run_that_gave_up_is_resumed_by_the_next(run: Run) -> None:
    run.server.faults[ARCHIVE] = [Cut(300_000)] * 3
    with pytest.raises(StorageUnavailableError) as caught:
        run(retries=1)
    assert str(caught.value) == (
        f"cannot fetch {ARCHIVE}: got 'the connection was cut' from {run.server.url}/{ARCHIVE} 2 "
        "times in a row, expected the file. Check the network and the server, then run this "
        "again: it goes on where it stopped."
    )
    there = run.part.stat().st_size
    assert 0 < there <= 300_000
    described = json.loads(run.part.with_name(f"{ARCHIVE}.part.json").read_text())
    assert described == {
        "url": f"{run.server.url}/{ARCHIVE}",
        "md5": md5(run.server.folder / ARCHIVE),
        "size_bytes": (run.server.folder / ARCHIVE).stat().st_size,
        "etag": f'"{md5(run.server.folder / ARCHIVE)}"',
    }
    run.server.requests.clear()
    run.server.faults.clear()
    counts = run()
    run.check()
    assert [request.range for request in run.server.bodies(ARCHIVE)] == [f"bytes={there}-"]
    assert counts.downloaded_bytes == (run.server.folder / ARCHIVE).stat().st_size - there
    assert run.reported == (run.server.folder / ARCHIVE).stat().st_size + 2 * CLIP_BYTES


def test_a_part_that_is_whole_but_was_not_renamed_costs_nothing(run: Run) -> None:
    run.server.faults[ARCHIVE] = [Cut(300_000)] * 2
    with pytest.raises(StorageUnavailableError):
        run(retries=0)
    run.part.write_bytes((run.server.folder / ARCHIVE).read_bytes())
    run.server.requests.clear()
    run.server.faults.clear()
    run()
    run.check()
    assert run.server.bodies(ARCHIVE) == []


@pytest.mark.parametrize("sidecar", ["", "[]", '{"md5": "0"}', None])
def test_a_part_of_something_else_is_started_over(run: Run, sidecar: str | None) -> None:
    run.part.parent.mkdir(parents=True)
    run.part.write_bytes(b"not this" * 100)
    if sidecar is not None:
        run.part.with_name(f"{ARCHIVE}.part.json").write_text(sidecar)
    counts = run()
    run.check()
    assert [request.range for request in run.server.bodies(ARCHIVE)] == [None]
    assert counts.downloaded_bytes > 2 * CLIP_BYTES


def test_a_part_with_wrong_bytes_is_fetched_again(run: Run) -> None:
    run.server.faults[ARCHIVE] = [Cut(300_000)]
    with pytest.raises(StorageUnavailableError):
        run(retries=0)
    run.part.write_bytes(bytes(run.part.stat().st_size))
    run()
    run.check()
    assert any("the checksum is off" in note for note in run.notes)
    assert run.server.bodies(ARCHIVE)[-1].range is None


def test_a_server_that_ignores_ranges_starts_the_file_over(run: Run) -> None:
    run.server.faults[ARCHIVE] = [Cut(500_000), IgnoreRange()]
    run()
    run.check()
    assert len(run.server.bodies(ARCHIVE)) == 2
    assert (
        run.reported
        == (run.server.folder / ARCHIVE).stat().st_size
        + 2 * CLIP_BYTES
        + (run.server.folder / CAPTIONS).stat().st_size
    )


def test_a_server_that_ignores_ranges_and_cuts_is_given_up(run: Run) -> None:
    run.server.faults[ARCHIVE] = [Cut(300_000)] * 20
    real = run.server.take

    def without_range(request):
        return real(replace(request, range=None))

    run.server.take = without_range
    with pytest.raises(StorageUnavailableError, match=r"3 times in a row"):
        run(retries=2)


def test_a_file_that_changed_meanwhile_is_started_over(
    tmp_path: Path, published: Path, record: ArchiveRecord
) -> None:
    folder = shutil.copytree(published, tmp_path / "changing")
    right = (folder / ARCHIVE).read_bytes()
    with ArchiveServer(folder) as server:
        run = Run(tmp_path / "root", server, record)
        (folder / ARCHIVE).write_bytes(bytes(reversed(right)))
        server.faults[ARCHIVE] = [Cut(500_000)]
        with pytest.raises(StorageUnavailableError):
            run(retries=0)
        (folder / ARCHIVE).write_bytes(right)
        run(retries=0)
        run.check()
        # The ETag no longer fits, so the server sends the whole file instead of the range.
        assert len(server.bodies(ARCHIVE)) == 2


def test_without_etags_the_size_tells_another_file(
    tmp_path: Path, published: Path, record: ArchiveRecord
) -> None:
    folder = shutil.copytree(published, tmp_path / "changing")
    right = (folder / ARCHIVE).read_bytes()
    with ArchiveServer(folder) as server:
        server.etags = False
        run = Run(tmp_path / "root", server, record)
        (folder / ARCHIVE).write_bytes(b"?" * 700_000)
        server.faults[ARCHIVE] = [Cut(500_000)]
        with pytest.raises(StorageUnavailableError):
            run(retries=0)
        (folder / ARCHIVE).write_bytes(right)
        run()
        run.check()
        assert any("the server has another version of it" in note for note in run.notes)
        assert all(request.if_range is None for request in server.requests)


def test_a_part_longer_than_the_file_is_started_over(run: Run) -> None:
    run.server.faults[ARCHIVE] = [Cut(300_000)]
    with pytest.raises(StorageUnavailableError):
        run(retries=0)
    sidecar = run.part.with_name(f"{ARCHIVE}.part.json")
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "size_bytes": None}))
    run.part.write_bytes(bytes(2_000_000))
    run()
    run.check()
    assert any("the server has another size for it" in note for note in run.notes)


def test_a_stall_is_noticed_and_gone_on_with(run: Run) -> None:
    run.server.faults[ARCHIVE] = [Stall(500_000)]
    started = time.monotonic()
    run(timeout_s=0.3)
    assert 0.3 < time.monotonic() - started < 5
    run.check()
    assert f"{ARCHIVE}: no data for 0.3 s; asking again in 0 s (1 of 8)." in run.notes
    assert len(run.server.bodies(ARCHIVE)) == 2


def test_a_wrong_sum_is_fetched_again_by_itself(run: Run) -> None:
    run.server.faults[ARCHIVE] = [Corrupt(1000)]
    run.server.faults[CAPTIONS] = [Corrupt(3)]
    counts = run()
    run.check()
    assert counts.downloaded == 2
    assert sum("the checksum is off (MD5 " in note for note in run.notes) == 2
    assert [request.range for request in run.server.bodies(ARCHIVE)] == [None, None]


def test_a_sum_that_is_always_wrong_is_given_up(run: Run) -> None:
    right = run.record.archives["evaluation"]
    run.record.archives["evaluation"] = replace(right, md5="0" * 32)
    with pytest.raises(DatasetError) as caught:
        run()
    size = in_words((run.server.folder / ARCHIVE).stat().st_size)
    assert str(caught.value) == (
        f"{ARCHIVE} is not the expected file: got MD5 {right.md5} ({size}, "
        f"application/octet-stream) from {run.server.url}/{ARCHIVE} 3 times, expected {'0' * 32}. "
        "Correct --base-url or --checksums, or try another network."
    )
    assert len(run.server.bodies(ARCHIVE)) == 3
    assert not run.archive.exists()
    assert not (run.root / "clotho_audio_files" / "evaluation").exists()


def test_more_bytes_than_announced_are_not_kept(run: Run) -> None:
    run.server.faults[ARCHIVE] = [Cut(300_000), TooLong(1000)]
    run()
    run.check()


def test_a_server_that_tells_no_sizes_will_do(run: Run) -> None:
    run.server.tells_size = False
    run.server.etags = False
    run.server.faults[ARCHIVE] = [IgnoreRange(), TooLong(10)]
    run.server.size_faults[ARCHIVE] = [IgnoreRange()]
    run()
    run.check()


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(run: Run, code: int) -> None:
    run.server.size_faults[ARCHIVE] = [Status(code)]
    run.server.faults[ARCHIVE] = [Status(code), Status(code, {"Retry-After": "nonsense"})]
    run()
    run.check()
    assert sum(f"{ARCHIVE}: the server says {code} " in note for note in run.notes) == 3


def test_retry_after_is_obeyed(run: Run) -> None:
    run.server.faults[ARCHIVE] = [Status(503, {"Retry-After": "1"})]
    started = time.monotonic()
    run()
    assert time.monotonic() - started >= 1
    assert f"{ARCHIVE}: the server says 503 Service Unavailable; asking again in 1 s (1 of 8)." in (
        run.notes
    )


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("date", 90), ("-1", None), ("", None)],
)
def test_retry_after_as_number_or_date(header: str, seconds: float | None) -> None:
    given = formatdate(time.time() + 90, usegmt=True) if header == "date" else header
    answer = web_folder_module.httpx.Response(503, headers={"Retry-After": given})
    found = web_folder_module._retry_after_s(answer)
    assert found == pytest.approx(seconds, abs=30) if seconds else found is None


def test_a_server_that_stays_busy_is_given_up(run: Run) -> None:
    run.server.faults[ARCHIVE] = [Status(503)] * 9
    with pytest.raises(StorageUnavailableError, match=r"'the server says 503 .* 3 times in a row"):
        run(retries=2)


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (404, StorageNotFoundError, "is not there: got 404 Not Found for {url}, expected the file"),
        (403, StoragePermissionError, "not allowed to fetch {name}: got 403 Forbidden for {url}"),
        (418, StorageError, "cannot fetch {name}: got 418 I'm a Teapot for {url}, expected 200"),
    ],
)
def test_a_refusal_is_final_and_comes_before_anything_is_fetched(
    run: Run, code: int, kind: type[Exception], text: str
) -> None:
    run.server.size_faults[ARCHIVE] = [Status(code)]
    with pytest.raises(kind) as caught:
        run(splits=SPLITS)
    shown = text.format(name=ARCHIVE, url=f"{run.server.url}/{ARCHIVE}")
    assert shown.casefold() in str(caught.value).casefold()
    assert "--base-url" in str(caught.value)
    assert not (run.root / "archives").exists()
    assert not (run.root / "clotho_csv_files").exists()


def test_offline_says_so_soon(run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/files"
        with pytest.raises(StorageUnavailableError) as caught:
            run(base_url=url, connections=1)
    assert re.fullmatch(
        rf"cannot fetch {CAPTIONS}: got 'no connection \(.*\)' from {url}/{CAPTIONS} 4 times in a "
        r"row, expected the file\. Check the network and the server, then run this again: it "
        r"goes on where it stopped\.",
        str(caught.value),
    )
    assert len(run.notes) == 3


def test_secrets_in_the_base_url_are_sent_but_not_shown(run: Run) -> None:
    url = run.server.url.replace("://", "://user:hunter2@") + "?token=s3cret"
    run.server.size_faults[CAPTIONS] = [Status(503), Status(404)]
    with pytest.raises(StorageNotFoundError) as caught:
        run(base_url=url)
    assert run.server.requests[0].query == "token=s3cret"
    said = f"{caught.value} {run.notes}"
    assert "hunter2" not in said
    assert "s3cret" not in said
    assert f"{run.server.url}/{CAPTIONS}" in said


def test_a_split_that_lost_a_recording_is_unpacked_again(run: Run) -> None:
    run()
    folder = run.root / "clotho_audio_files" / "evaluation"
    (folder / "evaluation #0 [a].wav").unlink()
    asked = len(run.server.requests)
    counts = run()
    run.check()
    assert counts == DownloadCounts(0, 2, 2, 0, 0)
    assert len(run.server.requests) == asked
    (folder / "evaluation #1 [a].wav").write_bytes(b"cut short")
    (folder / "my notes.txt").write_text("mine")
    assert run().unpacked == 2
    assert (folder / "my notes.txt").read_text() == "mine"
    (folder / "my notes.txt").unlink()
    run.check()


def test_a_half_unpacked_split_is_unpacked_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kill leaves: the folder that is being unpacked to, and no split."""
    unpacking = run.root / "clotho_audio_files" / ".e2i-evaluation"
    unpacking.mkdir(parents=True)
    (unpacking / "evaluation #0 [a].wav").write_bytes(b"half")
    (unpacking / "stray.wav").write_bytes(b"half")
    run()
    run.check()


def test_a_fault_while_unpacking_leaves_no_half_split(run: Run) -> None:
    config = DownloadConfig(base_url=run.server.url, splits=("evaluation",))

    def full(count: int) -> None:
        raise OSError(28, "No space left on device")

    with ClothoDownload(str(run.root), config, record=run.record) as download:
        download.plan()
        download.fetch()
        download.plan_unpacking()
        with pytest.raises(StorageFullError, match=r"no space is left to unpack recordings"):
            download.unpack(full)
    assert list((run.root / "clotho_audio_files").iterdir()) == []
    counts = run()
    run.check()
    assert (counts.downloaded, counts.unpacked) == (0, 2)


def test_an_archive_put_there_by_hand_is_used(run: Run) -> None:
    run.archive.parent.mkdir(parents=True)
    shutil.copy(run.server.folder / ARCHIVE, run.archive)
    counts = run()
    run.check()
    assert (counts.downloaded, counts.reused) == (1, 1)
    size = in_words(run.archive.stat().st_size)
    assert run.notes == [f"{ARCHIVE}: summing what is there ({size})."]


def test_a_broken_archive_and_edited_captions_are_replaced(run: Run) -> None:
    run()
    (run.root / "clotho_csv_files" / CAPTIONS).write_text("file_name,caption_1\n")
    run.archive.write_bytes(b"broken")
    shutil.rmtree(run.root / "clotho_audio_files")
    counts = run()
    run.check()
    assert (counts.downloaded, counts.unpacked) == (2, 2)
    assert sum("is not the expected file; fetching it" in note for note in run.notes) == 2


def test_recordings_that_somebody_else_unpacked_are_taken_over(run: Run) -> None:
    folder = run.root / "clotho_audio_files" / "evaluation"
    folder.mkdir(parents=True)
    noise = random.Random("evaluation")
    for n in range(2):
        (folder / f"evaluation #{n} [a].wav").write_bytes(noise.randbytes(CLIP_BYTES))
    inodes = {path.stat().st_ino for path in folder.iterdir()}
    counts = run()
    run.check()
    assert (counts.unpacked, counts.unpacked_before) == (0, 2)
    assert {path.stat().st_ino for path in folder.iterdir()} == inodes


def test_losing_the_state_costs_sums_only(run: Run) -> None:
    run()
    asked = len(run.server.requests)
    (run.root / STATE_NAME).write_text("{")
    counts = run()
    assert counts == DownloadCounts(0, 2, 0, 2, 0)
    assert len(run.server.requests) == asked


def test_archives_can_be_deleted_and_are_not_missed(run: Run) -> None:
    run(delete_archives=True)
    assert not run.archive.exists()
    run.check()
    asked = len(run.server.requests)
    assert run(delete_archives=True) == DownloadCounts(0, 2, 0, 2, 0)
    assert len(run.server.requests) == asked


def test_force_fetches_and_unpacks_everything_again(run: Run) -> None:
    run()
    counts = run(force=True)
    run.check()
    assert (counts.downloaded, counts.reused) == (2, 0)
    assert (counts.unpacked, counts.unpacked_before) == (2, 0)


def test_an_archive_that_points_out_of_its_folder_is_refused(
    tmp_path: Path, published: Path
) -> None:
    folder = shutil.copytree(published, tmp_path / "evil")
    with py7zr.SevenZipFile(folder / ARCHIVE, "a") as archive:
        archive.header.files_info.files[1]["filename"] = "evaluation/../../../evil.wav"
    with ArchiveServer(folder) as server:
        run = Run(tmp_path / "root", server, record_of(folder))
        with pytest.raises(DatasetError, match=r"'evaluation/\.\./\.\./\.\./evil\.wav'"):
            run()
    assert not (run.root / "clotho_audio_files" / "evaluation").exists()
    assert list(tmp_path.rglob("evil.wav")) == []


Usage = namedtuple("Usage", ["total", "used", "free"])


def test_space_is_checked_before_anything_is_fetched(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: Usage(9, 9, 1_000_000))
    with pytest.raises(StorageFullError) as caught:
        run()
    assert str(caught.value) == (
        f"too little space to fetch and unpack the data set: got 1.0 MB free in {run.root}, "
        "expected at least 1.6 MB. Free some, or choose another --data-root: what is there "
        "already is used."
    )
    assert run.server.bodies(ARCHIVE) == []
    assert sorted(path.name for path in run.root.iterdir()) == [LOCK_NAME]


def test_space_for_what_is_known_to_be_unpacked_is_checked_before(run: Run) -> None:
    known = run.record.archives["evaluation"]
    run.record.archives["evaluation"] = replace(known, unpacked_bytes=10**18)
    with pytest.raises(StorageFullError, match=r"expected at least 1000000000\.0 GB"):
        run()


def test_space_is_checked_again_before_unpacking(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    shutil.rmtree(run.root / "clotho_audio_files")
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: Usage(9, 9, 700_000))
    with pytest.raises(
        StorageFullError, match=r"too little space to unpack the recordings: got 700\.0 kB free"
    ):
        run()
    assert list(run.root.glob("clotho_audio_files/*")) == []


def test_needs_on_one_file_system_are_added(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    require_space([(tmp_path / "a" / "b", free // 2)], "test")
    with pytest.raises(StorageFullError):
        require_space([(tmp_path / "a", free * 2 // 3), (tmp_path / "b", free * 2 // 3)], "test")


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (4_541_582_263, "4.5 GB")],
)
def test_sizes_in_words(size_bytes: int, text: str) -> None:
    assert in_words(size_bytes) == text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_says_so(run: Run, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoragePermissionError, match=r"not allowed to write"):
            run()
    finally:
        tmp_path.chmod(0o700)


def test_a_file_where_the_data_root_belongs_says_so(run: Run) -> None:
    run.root.write_text("a file")
    with pytest.raises(StorageError, match=r"A file lies where a folder is needed"):
        run()


def test_the_data_root_has_to_be_local(run: Run) -> None:
    with pytest.raises(ConfigError) as caught:
        download_clotho("s3://bucket/clotho", DownloadConfig(), record=run.record)
    assert str(caught.value) == (
        "archives are unpacked on the local disk: got the data root s3://bucket/clotho, expected "
        "a local folder. Download to a folder, copy it to the store, and give the copy's URL as "
        "--metadata and --audio-root."
    )


def test_two_runs_take_turns(run: Run) -> None:
    run.root.mkdir()
    with (run.root / LOCK_NAME).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        counts: list[DownloadCounts] = []
        thread = threading.Thread(target=lambda: counts.append(run()))
        thread.start()
        for _ in range(100):
            if run.notes:
                break
            time.sleep(0.02)
        assert run.notes == [f"another run is downloading to {run.root}; waiting for it to end."]
        assert run.server.requests == []
    thread.join()
    assert counts[0].downloaded == 2
    run.check()


def test_an_interrupt_stops_the_threads_and_keeps_what_came(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.server.faults[ARCHIVE] = [Stall(600_000)]
    config = DownloadConfig(base_url=run.server.url, splits=("evaluation",), timeout_s=0.5)
    arrived = threading.Event()

    def interrupt(futures: object) -> Iterator[object]:
        assert arrived.wait(5)
        raise KeyboardInterrupt
        yield

    counted: list[int] = []

    def report(count: int) -> None:
        counted.append(count)
        if sum(counted) > 550_000:
            arrived.set()

    with ClothoDownload(str(run.root), config, record=run.record) as download:
        download.plan()
        monkeypatch.setattr("e2i.datasets.download.as_completed", interrupt)
        with pytest.raises(KeyboardInterrupt):
            download.fetch(report)
    monkeypatch.undo()
    assert [t.name for t in threading.enumerate() if t.name.startswith("download")] == []
    assert not run.archive.exists()
    there = run.part.stat().st_size
    assert there > 500_000
    run()
    run.check()
    assert run.server.bodies(ARCHIVE)[-1].range == f"bytes={there}-"


KILLED = """
import sys, time
from e2i.datasets.download import ClothoDownload
from e2i.datasets.download_config import DownloadConfig

root, url, sums, stage = sys.argv[1:]

def hang(count):
    if stage == "unpack":
        print("unpacking", flush=True)
        time.sleep(60)

config = DownloadConfig(base_url=url, checksums=sums, splits=("evaluation",))
with ClothoDownload(root, config) as download:
    download.plan()
    download.fetch()
    download.plan_unpacking()
    download.unpack(hang)
"""


@pytest.mark.parametrize("stage", ["fetch", "unpack"])
def test_a_killed_run_is_gone_on_with(run: Run, tmp_path: Path, stage: str) -> None:
    sums = tmp_path / "sums.md5"
    sums.write_text("".join(f"{md5(run.server.folder / n)}  {n}\n" for n in (ARCHIVE, CAPTIONS)))
    run.server.faults[ARCHIVE] = [Stall(600_000)] if stage == "fetch" else []
    arguments = [sys.executable, "-c", KILLED, str(run.root), run.server.url, str(sums), stage]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        if stage == "unpack":
            assert process.stdout.readline() == b"unpacking\n"
        while stage == "fetch" and not (run.part.exists() and run.part.stat().st_size > 500_000):
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    assert not (run.root / "clotho_audio_files" / "evaluation").exists()
    there = run.part.stat().st_size if stage == "fetch" else None
    run.server.requests.clear()
    counts = run()
    run.check()
    assert counts.unpacked == 2
    ranges = [request.range for request in run.server.bodies(ARCHIVE)]
    assert ranges == ([f"bytes={there}-"] if stage == "fetch" else [])


def test_own_checksums_replace_the_published_ones(run: Run, tmp_path: Path) -> None:
    sums = [f"{md5(path)}  {path.name}" for path in sorted(run.server.folder.iterdir())]
    (tmp_path / "sums.md5").write_text("\n".join(["", *sums, f"{'0' * 32} *folder/other.txt"]))
    run.record = CLOTHO
    run(splits=SPLITS, checksums=str(tmp_path / "sums.md5"))
    run.check(SPLITS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "nonsense\n",
            "cannot read the checksums: got 'nonsense' in line 1 of here, expected 32 "
            "hexadecimal digits, two spaces and a name. Write them with md5sum.",
        ),
        (f"{'0' * 32}  a.txt\n", "no checksum of a file of the record: got 1 other names in here"),
        ("", "no checksum of a file of the record: got 0 other names in here"),
    ],
)
def test_checksums_that_cannot_be_used(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        with_checksums(CLOTHO, text, "here")


def test_checksums_that_are_not_there(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the checksums: got '.*/none'"):
        run(checksums=str(tmp_path / "none"))


@pytest.mark.parametrize("url", ["zenodo.org/files", "ftp://host/x", "file:///tmp", "http://", ""])
def test_a_base_url_that_is_no_web_address(url: str) -> None:
    with pytest.raises(ValidationError):
        DownloadConfig(base_url=url)


def test_the_published_record() -> None:
    """Names and sums as on the record's page."""
    assert CLOTHO.archives["development"].name == "clotho_audio_development.7z"
    assert CLOTHO.archives["evaluation"].md5 == "4569624ccadf96223f19cb59fe4f849f"
    config = DownloadConfig()
    assert config.base_url == "https://zenodo.org/records/4783391/files"
    assert config.splits == SPLITS


def test_which_splits_are_lacking(run: Run) -> None:
    config = DownloadConfig(splits=SPLITS)
    assert splits_lacking(str(run.root), config) == SPLITS
    run(splits=("evaluation", "validation"))
    assert splits_lacking(str(run.root), config) == ("development",)
    (run.root / "clotho_audio_files" / "validation" / "validation #1 [a].wav").unlink()
    assert splits_lacking(f"{run.root}/", config) == ("development", "validation")


def test_members_of_the_test_archive_lie_in_a_folder_named_after_the_split(published: Path) -> None:
    """The archives of these tests have Clotho's form."""
    assert [m.archived_name for m in read_members(published / ARCHIVE)] == [
        "evaluation/evaluation #0 [a].wav",
        "evaluation/evaluation #1 [a].wav",
    ]
