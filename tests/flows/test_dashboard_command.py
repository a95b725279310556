"""`e2i wandb-dashboard`: what it prints, and what it needs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from e2i.errors import ConfigError
from flows.dashboard_command import create
from flows.dashboard_parameters import WandbDashboardParameters
from flows.summary import print_summary


def test_a_dry_run_prints_the_specification_and_nothing_else() -> None:
    out = io.StringIO()
    print_summary(create(WandbDashboardParameters(dry_run=True, wandb_entity="team")), out)
    sent = json.loads(out.getvalue())
    assert (sent["entity"], sent["project"]) == ("team", "e2i")
    assert sent["spec"]["section"]["panelBankConfig"]["sections"]


def test_without_a_key_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("NETRC", raising=False)
    with pytest.raises(ConfigError) as refused:
        create(WandbDashboardParameters())
    assert str(refused.value) == (
        "there is no key for W&B: got none in WANDB_API_KEY or ~/.netrc, expected one. Set it, or "
        "print what would be sent with --dry-run."
    )
