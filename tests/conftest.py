"""What all tests share: an environment of their own, a real S3 server, a Prefect server.

The environment is set before anything is imported that reads it: no test sees the credentials,
profiles, proxies or servers of whoever runs it, and none reaches the network by accident.
"""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("e2i", deadline=None, database=None)
settings.load_profile("e2i")

sys.path.insert(0, str(Path(__file__).parent))  # s3_server, storage_contract
pytest.register_assert_rewrite("storage_contract")

_FOREIGN = ("AWS_", "FSSPEC_", "HF_", "HUGGING_FACE_", "PREFECT_", "WANDB_", "E2I_TEST_")
_home = Path(tempfile.mkdtemp(prefix="e2i-tests-"))
atexit.register(shutil.rmtree, _home, ignore_errors=True)

for _name in list(os.environ):
    if _name.startswith(_FOREIGN) or _name.lower().endswith("_proxy"):
        del os.environ[_name]
os.environ.update(
    AWS_CONFIG_FILE=str(_home / "aws-config"),
    AWS_SHARED_CREDENTIALS_FILE=str(_home / "aws-credentials"),
    AWS_EC2_METADATA_DISABLED="true",
    FSSPEC_CONFIG_DIR=str(_home / "fsspec"),
    HF_HOME=str(_home / "huggingface"),
    HF_HUB_OFFLINE="1",
    PREFECT_HOME=str(_home / "prefect"),
    WANDB_MODE="offline",
    WANDB_DIR=str(_home),
)

from e2i.storage import Folder  # noqa: E402
from s3_server import S3Server  # noqa: E402


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server for all tests of this process; not to be killed by any of them."""
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def mortal_s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server that tests may kill; whoever does starts it again."""
    with S3Server(tmp_path_factory.mktemp("mortal-s3")) as server:
        yield server


@pytest.fixture
def s3_folder(s3_server: S3Server) -> Folder:
    """An empty folder on the real S3 server."""
    return Folder(f"{s3_server.url}/{uuid.uuid4().hex}", s3_server.storage_options)


@pytest.fixture(scope="session")
def prefect_harness() -> Iterator[None]:
    """A Prefect server of the test session, on a database of its own."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


_WITH_PREFECT = frozenset({"deployments", "flows", "tasks"})
_LEFT_OPEN = r"ignore:unclosed <socket.socket .*laddr=..127.0.0.1:ResourceWarning"


def _knows_prefect(path: Path) -> bool:
    return path.relative_to(Path(__file__).parent).parts[0] in _WITH_PREFECT


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Prefect's clients leave connections to its test server to the collector; ours may not."""
    for item in items:
        if _knows_prefect(item.path):
            item.add_marker(pytest.mark.filterwarnings(_LEFT_OPEN))


@pytest.fixture(scope="module", autouse=True)
def _collected(request: pytest.FixtureRequest) -> Iterator[None]:
    """What Prefect left open is collected before tests that do not allow for it."""
    yield
    if _knows_prefect(request.path):
        gc.collect()
