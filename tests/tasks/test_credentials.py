"""Credentials from Prefect blocks: what is taken, what is not, and that nobody is shown them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from prefect.blocks.system import Secret
from prefect.client.orchestration import SyncPrefectClient, get_client

from e2i.errors import ConfigError
from tasks.credentials import SERVICES, missing_from, store_block, take_credentials, variables_of

STORAGE = SERVICES["storage"]
HELD = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "hush-hush",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:8333",
}


def test_what_the_environment_lacks_is_taken() -> None:
    assert missing_from(STORAGE, HELD, {}) == HELD
    assert missing_from(STORAGE, HELD, {"AWS_ENDPOINT_URL": "http://other", "HOME": "/"}) == {
        name: HELD[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    }


@pytest.mark.parametrize("login", ["AWS_ACCESS_KEY_ID", "AWS_PROFILE"])
def test_a_login_is_not_mixed_of_two(login: str) -> None:
    assert missing_from(STORAGE, HELD, {login: "mine"}) == {
        "AWS_ENDPOINT_URL": HELD["AWS_ENDPOINT_URL"]
    }


def test_only_variables_of_the_service_are_stored() -> None:
    environment = {**HELD, "AWS_PROFILE": "", "HF_TOKEN": "hf", "PATH": "/bin"}
    assert variables_of(STORAGE, environment) == HELD
    assert variables_of(SERVICES["hub"], environment) == {"HF_TOKEN": "hf"}


@pytest.mark.usefixtures("prefect_harness")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestBlocks:
    @pytest.fixture
    def client(self) -> Iterator[SyncPrefectClient]:
        with get_client(sync_client=True) as connected:
            yield connected
            for service in SERVICES.values():
                found = connected.read_block_documents_by_type("secret")
                for document in found:
                    if document.name == service.block:
                        connected.delete_block_document(document.id)

    @pytest.fixture(autouse=True)
    def _environment_is_put_back(self) -> Iterator[None]:
        before = dict(os.environ)
        yield
        os.environ.clear()
        os.environ.update(before)

    def test_a_block_is_read_back_and_shown_to_nobody(self, client: SyncPrefectClient) -> None:
        assert take_credentials(client) == ()
        store_block(STORAGE, {"AWS_ACCESS_KEY_ID": "old", "AWS_SECRET_ACCESS_KEY": "old"})
        store_block(STORAGE, HELD)
        assert set(take_credentials(client)) == set(HELD)
        assert {name: os.environ[name] for name in HELD} == HELD
        shown = client.read_block_document_by_name("e2i-storage", "secret", include_secrets=False)
        assert "hush-hush" not in shown.model_dump_json()

    @pytest.mark.parametrize("held", [{"PATH": "/tmp", "AWS_PROFILE": "x"}, "words"])
    def test_a_block_sets_no_other_variable(self, client: SyncPrefectClient, held: object) -> None:
        Secret(value=held).save("e2i-storage", overwrite=True)
        got = "PATH" if isinstance(held, dict) else "no variables"
        with pytest.raises(
            ConfigError,
            match=f"block 'e2i-storage' does not hold what it should: got {got}, expected values "
            "of AWS_ACCESS_KEY_ID, .* Make it again with `e2i setup-blocks`",
        ):
            take_credentials(client)
