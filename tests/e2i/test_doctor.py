"""The checks, each with what makes it say ok, warning or problem."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from e2i import doctor
from e2i.clips import Caption, CaptionedClips, Clip
from e2i.doctor import GIB, Check, Package
from e2i.encoders.config import EncodersConfig
from e2i.storage import Folder


def _split(root: Path, split: str, recordings: dict[str, bytes | None]) -> CaptionedClips:
    """A split whose recordings are these bytes; None is one that is not there."""
    folder = root / split
    folder.mkdir(parents=True)
    clips = []
    for row, (name, data) in enumerate(recordings.items(), start=1):
        if data is not None:
            (folder / name).write_bytes(data)
        clips.append(Clip(name, name, (Caption(f"{name}#1", name, "a sound"),), row))
    return CaptionedClips("set", split, str(folder), tuple(clips), f"{split}.csv")


def test_python() -> None:
    assert doctor.check_python((3, 11, 7)) == Check("python", "ok", "3.11.7")
    old = doctor.check_python((3, 10, 1))
    assert (old.status, old.next_step) == ("problem", "Install Python 3.11.")


def test_packages() -> None:
    fine = Package("torch", ">=2.14", "2.14.1", True)
    missing = Package("pyarrow", ">=26", None, False)
    other = Package("fastapi", "<0.140", "0.165.0", False)
    assert doctor.check_packages([fine]) == Check("packages", "ok", "torch 2.14.1")
    assert doctor.check_packages([fine, other]).status == "warning"
    check = doctor.check_packages([fine, other, missing])
    assert check.status == "problem"
    assert check.found == "pyarrow>=26 is not installed; fastapi 0.165.0 is not <0.140"
    assert check.next_step == "Run `pip install 'pyarrow>=26' 'fastapi<0.140'`."


@pytest.mark.parametrize(
    ("gib", "status"), [(0.5, "problem"), (2, "warning"), (3.99, "warning"), (31, "ok")]
)
def test_disk_and_memory(gib: float, status: str) -> None:
    for check in (doctor.check_disk(int(gib * GIB), "/x"), doctor.check_memory(int(gib * GIB))):
        assert check.status == status
        assert bool(check.next_step) == (status != "ok")


def test_device() -> None:
    assert doctor.check_device("cpu").found.startswith("cpu will be used; ")
    assert doctor.check_device("cpu,cpu").found.startswith("cpu, cpu will be used; ")
    check = doctor.check_device("cuda:99")
    assert (check.status, check.next_step) == ("problem", "Use --device auto.")


def test_encoders() -> None:
    fine = EncodersConfig(audio_encoder="logmel", text_encoder="hashing")
    assert [check.status for check in doctor.check_encoders(fine)] == ["ok", "ok"]


def test_weights_that_a_run_would_fetch_are_told_and_not_fetched(tmp_path: Path) -> None:
    lacking = EncodersConfig(text_encoder="hashing", weights_dir=str(tmp_path))
    audio, _ = doctor.check_encoders(lacking)
    name = "passt-s-f128-p16-s10-ap.476-swa.pt"
    assert audio.status == "warning"
    assert f"passt, whose weights are not in {tmp_path}; a run fetches them from h" in audio.found
    assert audio.next_step == f"Offline, put {name} there, or use --audio-weights."
    (tmp_path / name).write_bytes(b"others")
    audio, _ = doctor.check_encoders(lacking)
    assert audio.status == "problem"
    assert "the weights are not the published ones" in audio.found


def test_an_encoder_that_cannot_be_had_is_a_problem_with_the_next_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from e2i.encoders import load
    from e2i.errors import EncoderUnavailableError

    def unavailable(config: EncodersConfig) -> None:
        raise EncoderUnavailableError("no weights: got none, expected some. Fetch them.")

    monkeypatch.setattr(load, "audio_settings", unavailable)
    named = EncodersConfig(audio_weights="mine.pt", text_encoder="hashing")
    audio, _ = doctor.check_encoders(named)
    assert audio == Check(
        "audio encoder", "problem", "no weights: got none, expected some", "Fetch them."
    )


def test_tokens_are_yes_or_no() -> None:
    assert doctor.check_tokens({"W&B": True, "AWS": False}).found == "W&B yes, AWS no"


def test_a_store_that_keeps_its_promises(tmp_path: Path) -> None:
    for url in (str(tmp_path / "new"), f"memory://{uuid.uuid4().hex}"):
        assert doctor.check_store(Folder(url)).status == "ok"
        assert Folder(url).files() == []


def test_a_real_s3_store(s3_folder: Folder) -> None:
    assert doctor.check_store(s3_folder).status == "ok"
    assert s3_folder.files() == []


def test_a_store_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    check = doctor.check_store(Folder(tmp_path / "file" / "store"))
    assert check.status == "problem"
    assert check.next_step


class _Forgetful(Folder):
    """A store without conditional writes."""

    def __init__(self, url: str, broken: str) -> None:
        super().__init__(url)
        self._broken = broken

    def create(self, name: str, data: bytes) -> bool:
        if self._broken != "create":
            return super().create(name, data)
        self.write(name, data)
        return True

    def replace(self, name: str, data: bytes, version: str | None) -> str:
        if self._broken != "replace":
            return super().replace(name, data, version)
        self.write(name, data)
        return self.read_versioned(name)[1]


@pytest.mark.parametrize(
    ("broken", "words"),
    [("create", "creates over what is there"), ("replace", "replaces what somebody else wrote")],
)
def test_a_store_without_conditional_writes(broken: str, words: str) -> None:
    store = _Forgetful(f"memory://{uuid.uuid4().hex}", broken)
    check = doctor.check_store(store)
    assert check.status == "problem"
    assert words in check.found
    assert store.files() == []


def test_server() -> None:
    assert doctor.check_server("", reachable=False).status == "ok"
    assert doctor.check_server("http://127.0.0.1:4200/api", reachable=True).status == "ok"
    assert doctor.check_server("http://127.0.0.1:4200/api", reachable=False).status == "problem"


@pytest.mark.parametrize(
    ("missing", "of", "status"),
    [(0, 3, "ok"), (1, 3, "warning"), (2, 3, "problem"), (3, 300, "warning"), (4, 300, "problem")],
)
def test_recordings_that_are_missing(tmp_path: Path, missing: int, of: int, status: str) -> None:
    recordings = {f"{n}.wav": None if n < missing else b"x" for n in range(of)}
    check = doctor.check_recordings(_split(tmp_path, "validation", recordings))
    assert (check.name, check.status) == ("recordings of set/validation", status)
    if missing:
        assert check.found.startswith(f"{missing} of {of} missing below {tmp_path}/validation: '0.")
        assert check.next_step == "Fetch them, or correct --audio-root."


def test_empty_recordings_count_too(tmp_path: Path) -> None:
    check = doctor.check_recordings(_split(tmp_path, "all", {"a.wav": b"x", "b.wav": b""}))
    assert (check.status, check.found) == ("warning", "1 empty: 'b.wav'")


def test_a_recording_in_two_splits_is_found_by_its_bytes(tmp_path: Path) -> None:
    long = b"h" * doctor.HEAD_BYTES
    splits = [
        _split(tmp_path, "development", {"rain.wav": b"rain", "long.wav": long + b"1"}),
        _split(
            tmp_path,
            "evaluation",
            {
                "rain.wav": b"wind",  # the same name and size
                "Regen #1.wav": b"rain",  # the same bytes
                "again.wav": b"rain",
                "long.wav": long + b"2",  # the same size and beginning
                "gone.wav": None,
            },
        ),
        _split(tmp_path, "validation", {"other.wav": b"other"}),
    ]
    assert doctor.shared_recordings(splits) == [
        (0, 1, ("rain.wav", "Regen #1.wav")),
        (0, 1, ("rain.wav", "again.wav")),
    ]
    checks = doctor.check_splits(splits)
    assert [check.status for check in checks] == ["warning", "ok", "ok"]
    assert checks[0].name == "set/development and set/evaluation"
    assert checks[0].found.startswith("2 recordings in both: 'rain.wav' is 'Regen #1.wav', ")


def test_only_recordings_that_may_be_equal_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    original: Callable[[Folder, str], object] = Folder.open
    monkeypatch.setattr(
        Folder, "open", lambda self, name: opened.append(name) or original(self, name)
    )
    splits = [
        _split(tmp_path, "development", {"a": b"1", "b": b"22", "twin": b"22"}),
        _split(tmp_path, "evaluation", {"c": b"333", "d": b"4444"}),
    ]
    assert doctor.shared_recordings(splits) == []
    assert opened == []


def test_one_split_is_compared_with_nothing(tmp_path: Path) -> None:
    assert doctor.check_splits([_split(tmp_path, "all", {"a": b"1", "b": b"1"})]) == []


def test_counts() -> None:
    checks = [Check("a", "ok", ""), Check("b", "problem", ""), Check("c", "ok", "")]
    assert doctor.count(checks) == {"ok": 2, "warnings": 0, "problems": 1}


def test_a_store_that_is_away_is_said_to_be_so_with_the_next_step() -> None:
    options = {
        "endpoint_url": "http://127.0.0.1:9",
        "key": "k",
        "secret": "s",
        "config_kwargs": {"retries": {"max_attempts": 1}},
    }
    check = doctor.check_store(Folder("s3://bucket/store", options))
    assert check.status == "problem"
    assert check.found.startswith("the store does not answer to ")
    assert "delete" not in check.found
    assert check.next_step == "Check that it is up and reachable, then try again."
