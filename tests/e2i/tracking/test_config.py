from __future__ import annotations

import pytest
from pydantic import ValidationError

from e2i.tracking.config import TrackingConfig


def test_the_defaults_are_those_of_the_original() -> None:
    config = TrackingConfig()
    assert (config.log_dir, config.run_name) == ("logs", "")
    assert (config.wandb_mode, config.wandb_project) == ("auto", "e2i")


@pytest.mark.parametrize("name", ["mlp lr=5e-4, seed 13", "Läufe", "a", ""])
def test_a_run_may_be_named_so(name: str) -> None:
    assert TrackingConfig(run_name=name).run_name == name


@pytest.mark.parametrize("name", ["a/b", "../up", ".hidden", "a\nb", "a" * 129, "a\0"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="run_name"):
        TrackingConfig(run_name=name)


@pytest.mark.parametrize("project", ["", "a/b", "a?b"])
def test_a_project_that_wandb_refuses_is_refused_before(project: str) -> None:
    with pytest.raises(ValidationError, match="wandb_project"):
        TrackingConfig(wandb_project=project)
