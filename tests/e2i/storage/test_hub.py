"""Reading from the Hub, through `hf://` and the real client."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from e2i.errors import ConfigError, StoragePermissionError, StorageUnavailableError
from e2i.storage import Folder
from hub_server import HubServer, Status
from storage_contract import ReadingContract

REPO = "me/files"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with HubServer(tmp_path_factory.mktemp("hub")) as server, server.found_by_this_process():
        yield server


class TestHub(ReadingContract):
    @pytest.fixture
    def folder(self, hub: HubServer) -> Folder:
        hub.create(REPO)
        return Folder(f"hf://datasets/{REPO}/below")

    @pytest.fixture
    def put(self, hub: HubServer):
        return lambda name, data: hub.put_files(REPO, {f"below/{name}": data})


def test_the_hub_is_not_written(hub: HubServer) -> None:
    hub.create(REPO)
    folder = Folder(f"hf://datasets/{REPO}")
    for change in (
        lambda: folder.write("a", b""),
        lambda: folder.create("a", b""),
        lambda: folder.replace("a", b"", None),
        lambda: folder.delete("a"),
    ):
        with pytest.raises(ConfigError, match=r"hf:// is for reading: .* --hf-dataset"):
            change()
    assert hub.files(REPO) == {}


def test_a_state_of_the_past(hub: HubServer) -> None:
    hub.create(REPO)
    hub.put_files(REPO, {"a": b"then"})
    then = hub.commits(REPO)[-1]["oid"]
    hub.put_files(REPO, {"a": b"now", "b": b""})
    assert Folder(f"hf://datasets/{REPO}").read("a") == b"now"
    past = Folder(f"hf://datasets/{REPO}@{then}")
    assert past.read("a") == b"then"
    assert [file.name for file in past.files()] == ["a"]


def test_no_data_set_holds_nothing(hub: HubServer) -> None:
    folder = Folder("hf://datasets/me/nothing")
    assert folder.info("a") is None
    assert folder.files() == []


def test_a_refusal_and_an_outage_are_told(hub: HubServer) -> None:
    hub.create(REPO)
    folder = Folder(f"hf://datasets/{REPO}")
    hub.fail("info", Status(403))
    with pytest.raises(StoragePermissionError, match=re.escape(f"hf://datasets/{REPO}/a")):
        folder.read("a")
    hub.fail("info", Status(503))
    with pytest.raises(StorageUnavailableError, match="the store does not answer to read"):
        folder.read("a")
