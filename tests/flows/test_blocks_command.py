"""`e2i setup-blocks`: what it stores, what it says, what it refuses."""

from __future__ import annotations

import pytest

import tasks.credentials
from e2i.errors import ConfigError
from flows import blocks_command
from flows.blocks_command import setup_blocks
from flows.blocks_parameters import SetupBlocksParameters

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "s3cr3t"}


class Stored(dict[str, dict[str, str]]):
    """What was stored, by block."""


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> Stored:
    """A server that is set up, and keeps what it is given."""
    kept = Stored()

    class Setup:
        api_url = "http://me:pass@127.0.0.1:4200/api"

    monkeypatch.setattr(blocks_command, "read_setup", lambda environ, folder: Setup)
    monkeypatch.setattr(blocks_command, "check_server", lambda *_: None)
    monkeypatch.setattr(
        tasks.credentials,
        "store_block",
        lambda service, variables: kept.update({service.block: dict(variables)}),
    )
    for service in tasks.credentials.SERVICES.values():
        for name in service.variables:
            monkeypatch.delenv(name, raising=False)
    return kept


def _set(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_every_login_of_the_environment_is_stored(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set(monkeypatch, **KEYS, HF_TOKEN="hf", WANDB_ENTITY="nobody")
    summary = setup_blocks(SetupBlocksParameters())
    assert stored == {"e2i-storage": KEYS, "e2i-hub": {"HF_TOKEN": "hf"}}
    assert summary.counts == {"blocks": 2}
    assert summary.notes == (
        "Block e2i-storage holds AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY.",
        "Block e2i-hub holds HF_TOKEN.",
    )
    assert "s3cr3t" not in summary.as_json()
    assert "pass" not in summary.as_json()


def test_one_service_alone(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, **KEYS, HF_TOKEN="hf")
    setup_blocks(SetupBlocksParameters(service=("hub",)))
    assert set(stored) == {"e2i-hub"}
    with pytest.raises(ConfigError, match=r"no login for wandb: got none of WANDB_API_KEY, .* in "):
        setup_blocks(SetupBlocksParameters(service=("wandb",)))


@pytest.mark.usefixtures("stored")
def test_an_environment_without_logins_is_told() -> None:
    with pytest.raises(
        ConfigError, match=r"nothing to store: got none of AWS_ACCESS_KEY_ID, .* in the environment"
    ):
        setup_blocks(SetupBlocksParameters())


def test_blocks_need_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    class Setup:
        api_url = None

    monkeypatch.setattr(blocks_command, "read_setup", lambda environ, folder: Setup)
    with pytest.raises(
        ConfigError, match=r"no Prefect server is set up: got no PREFECT_API_URL .* `make server`"
    ):
        setup_blocks(SetupBlocksParameters())
