"""No credential in anything that a run shows or stores, with the log at its most talkative.

A URL with credentials in it is for the quick commands: Prefect records a run's parameters.
"""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest
from recordings import write_data_set

from conftest import PROGRAM, Start
from e2i.storage import Folder
from s3_server import S3Server

WRONG = "planted-wrong-secret-4711"
ENCODERS = ("--audio-encoder", "logmel", "--text-encoder", "hashing")


@pytest.mark.timeout(600)
def test_secrets_show_nowhere(start: Start, tmp_path: Path, s3_server: S3Server) -> None:
    metadata = write_data_set(tmp_path / "data", 6)
    url = f"{s3_server.url}/secrets-{tmp_path.name}"
    inside = f"s3://{s3_server.key}:{quote(s3_server.secret)}@{url.removeprefix('s3://')}"
    shown = []

    def run(code: int, *words: str, **variables: str) -> str:
        process = start(
            PROGRAM, *words, "--log-level", "debug",
            environment={**s3_server.environment, **variables}, cwd=tmp_path,
        )  # fmt: skip
        out, err = process.communicate(timeout=240)
        assert process.returncode == code, err
        shown.extend((out, err))
        return out

    embed = ("cache-embeddings", "--metadata", str(metadata), *ENCODERS, "--chunk-size", "2")
    run(0, *embed, "--cache-dir", url, "--json")
    run(1, *embed, "--cache-dir", url, AWS_SECRET_ACCESS_KEY=WRONG)
    cache = Folder(url, s3_server.storage_options)
    name = cache.files("audio")[0].name
    cache.write(name, cache.read(name)[:-3])
    found = json.loads(run(1, "cache", "verify", url, "--json"))
    assert found["details"]["faults"][0]["name"] == name
    run(0, "cache", "repair", url, "--json")
    run(0, "cache", "verify", inside, "--json")
    run(0, "cache", "prune", inside)
    run(1, "cache", "info", url, AWS_SECRET_ACCESS_KEY=WRONG)

    secrets = (s3_server.secret, WRONG, s3_server.key, quote(s3_server.secret))
    for text in shown:
        assert not any(secret in text for secret in secrets), text
    stored = [cache.read(file.name) for file in cache.files()]
    kept = [path.read_bytes() for path in (tmp_path / "prefect").rglob("*") if path.is_file()]
    assert len(stored) > 6
    assert kept
    for data in (*stored, *kept):
        assert not [secret for secret in secrets if secret.encode() in data]
