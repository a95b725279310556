"""`make worker`: which pools it serves."""

from __future__ import annotations

import pytest

from deployments import local_worker
from deployments.pools import pools


def test_a_pool_that_make_deploy_does_not_make_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["local_worker", "--pools", "e2i-cpu", "e2i-gpus"])
    monkeypatch.setattr(local_worker, "Worker", None)
    with pytest.raises(SystemExit, match="2"):
        local_worker.main()
    assert "invalid choice: 'e2i-gpus'" in capsys.readouterr().err


def test_it_serves_the_pools_that_make_deploy_makes() -> None:
    assert tuple(pool.name for pool in pools("process", 1)) == local_worker.POOLS
