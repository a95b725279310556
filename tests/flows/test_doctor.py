"""`e2i doctor` as a command: what it gathers, and that it is quick and keeps secrets."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from e2i.encoders.config import EncodersConfig
from flows import doctor_command
from flows.doctor_command import run_doctor, tokens
from flows.doctor_parameters import DoctorParameters
from flows.summary import RunSummary

HERE = EncodersConfig(audio_encoder="logmel", text_encoder="hashing", device="cpu")
SECRET = "hush-0123456789"


def _checks(summary: RunSummary) -> Mapping[str, Mapping[str, str]]:
    checks = summary.details["checks"]
    assert isinstance(checks, list)
    return {check["name"]: check for check in checks}


def _metadata(root: Path, split: str, recordings: dict[str, bytes]) -> str:
    audio = root / "clotho_audio_files" / split
    audio.mkdir(parents=True)
    for name, data in recordings.items():
        (audio / name).write_bytes(data)
    path = root / "clotho_csv_files" / f"clotho_captions_{split}.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text("file_name,caption_1\n" + "".join(f"{n},a sound\n" for n in recordings))
    return str(path)


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_command, "read_setup", lambda *_: _Setup(""))


class _Setup:
    def __init__(self, api_url: str) -> None:
        self.api_url = api_url


def test_it_looks_at_everything(tmp_path: Path) -> None:
    one = _metadata(tmp_path, "development", {"rain.wav": b"rain"})
    two = _metadata(tmp_path, "evaluation", {"regen.wav": b"rain"})
    summary = run_doctor(
        DoctorParameters(store_url=str(tmp_path / "store"), metadata=(one, two), encoders=HERE)
    )
    checks = _checks(summary)
    assert list(checks) == [
        "python",
        "packages",
        "device",
        "disk",
        "memory",
        "audio encoder",
        "text encoder",
        "tokens",
        "prefect server",
        "store",
        f"recordings of {tmp_path.name}/development",
        f"recordings of {tmp_path.name}/evaluation",
        f"{tmp_path.name}/development and {tmp_path.name}/evaluation",
    ]
    assert list(checks.values())[-1]["status"] == "warning"
    assert checks["store"]["status"] == "ok"
    assert summary.counts["problems"] == sum(c["status"] == "problem" for c in checks.values())
    assert json.loads(summary.as_json())["details"]["checks"][0]["name"] == "python"


def test_the_splits_of_a_store_are_compared(tmp_path: Path) -> None:
    for split in ("development", "validation"):
        _metadata(tmp_path / "data" / "soundscapes", split, {f"{split}.wav": split.encode()})
    checks = _checks(run_doctor(DoctorParameters(store_url=str(tmp_path), encoders=HERE)))
    shared = checks["soundscapes/development and soundscapes/validation"]
    assert shared["found"] == "no recording stands in both"


def test_what_is_wrong_comes_with_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    summary = run_doctor(
        DoctorParameters(
            store_url=str(tmp_path / "file" / "store"),
            metadata=(str(tmp_path / "none.csv"),),
            encoders=HERE,
        )
    )
    checks = _checks(summary)
    assert summary.counts["problems"] >= 2
    assert checks["store"]["status"] == "problem"
    assert "metadata not found" in checks["metadata"]["found"]
    for check in checks.values():
        assert bool(check["next_step"]) == (check["status"] != "ok"), check
    assert any(note.startswith("problem  metadata: ") for note in summary.notes)


def test_what_does_not_answer_in_time_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_command, "LIMIT_S", 0.2)
    fine = doctor_command.Check("fine", "ok", "")
    jobs = {"store": lambda: time.sleep(2) or [], "fine": lambda: [fine]}
    slow, quick = doctor_command._side_by_side(jobs)
    assert (slow.name, slow.status, slow.found) == ("store", "problem", "no answer within 0 s")
    assert quick == fine


def test_a_busy_machine_is_not_blamed_on_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_command, "LIMIT_S", 0.0)
    monkeypatch.setattr(doctor_command, "LOCAL_LIMIT_S", 0.1)
    (slow,) = doctor_command._side_by_side({"device": lambda: time.sleep(1) or []})
    assert (slow.status, slow.found) == ("warning", "not looked at within 0 s")
    assert slow.next_step == "This machine is busy or slow: call it again later."


def test_a_check_that_breaks_is_a_problem_of_its_own() -> None:
    def breaks() -> list[doctor_command.Check]:
        raise ZeroDivisionError("oh")

    (check,) = doctor_command._side_by_side({"device": breaks})
    assert (check.status, check.found) == (
        "problem",
        "could not be looked at (ZeroDivisionError: oh)",
    )


class _Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server_url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Health) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/api"
        server.shutdown()


def test_the_prefect_server(monkeypatch: pytest.MonkeyPatch, server_url: str) -> None:
    monkeypatch.setattr(doctor_command, "read_setup", lambda *_: _Setup(server_url))
    assert doctor_command._server({}).status == "ok"
    gone = "http://me:hush@127.0.0.1:9/api"
    monkeypatch.setattr(doctor_command, "read_setup", lambda *_: _Setup(gone))
    check = doctor_command._server({})
    assert (check.status, check.found) == ("problem", "http://127.0.0.1:9/api does not answer")


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("HF_TOKEN", "Hugging Face"),
        ("WANDB_API_KEY", "W&B"),
        ("AWS_ACCESS_KEY_ID", "AWS"),
        ("AWS_PROFILE", "AWS"),
    ],
)
def test_tokens_in_variables(tmp_path: Path, variable: str, name: str) -> None:
    assert not any(tokens({}, tmp_path).values())
    found = tokens({variable: SECRET}, tmp_path)
    assert [key for key, there in found.items() if there] == [name]


def test_tokens_in_files(tmp_path: Path) -> None:
    for name in (".cache/huggingface/token", ".aws/credentials"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(SECRET)
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"machine api.wandb.ai login user password {SECRET}\n")
    netrc.chmod(0o600)
    assert all(tokens({}, tmp_path).values())
    other = {"WANDB_BASE_URL": "https://wandb.example.org"}
    assert not tokens(other, tmp_path)["W&B"]


def test_a_broken_netrc_is_no_key(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_bytes(b"machine \xff\xfe nonsense")
    assert not tokens({}, tmp_path)["W&B"]


def test_it_imports_no_prefect_and_shows_no_secret(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from e2i.encoders.config import EncodersConfig\n"
        "from flows.doctor_command import run_doctor\n"
        "from flows.doctor_parameters import DoctorParameters\n"
        "encoders = EncodersConfig(audio_encoder='logmel', text_encoder='hashing')\n"
        f"summary = run_doctor(DoctorParameters(store_url={str(tmp_path)!r}, encoders=encoders))\n"
        "assert 'prefect' not in sys.modules\n"
        "print(summary.as_json())\n"
    )
    variables = ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID")
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={"HOME": str(tmp_path), "PATH": "", **dict.fromkeys(variables, SECRET)},
    )
    assert SECRET not in done.stdout + done.stderr
    answer = json.loads(done.stdout)
    (found,) = [c["found"] for c in answer["details"]["checks"] if c["name"] == "tokens"]
    assert found == "Hugging Face yes, W&B yes, AWS yes"
    assert answer["seconds"] < 15.0
