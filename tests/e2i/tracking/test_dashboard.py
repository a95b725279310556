"""The dashboard's specification: it shows what e2i logs, by the names that it logs them under."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from wandb_workspaces.workspaces import Workspace, internal

from e2i.errors import RunFailedError
from e2i.retrieval.evaluation import metric_names
from e2i.tracking import dashboard as module
from e2i.tracking.dashboard import dashboard, save_dashboard, specification
from e2i.tracking.names import ARMS, of_arm
from e2i.training.epochs import EpochRecord
from tasks.tracking import epoch_values, score_values


@pytest.fixture(scope="module")
def sections() -> dict[str, dict[str, Any]]:
    """Sections of the specification as it is sent, by name."""
    sent = json.loads(json.dumps(specification(dashboard("team", "e2i"))))
    assert (sent["entity"], sent["project"], sent["displayName"]) == ("team", "e2i", "e2i")
    return {s["name"]: s for s in sent["spec"]["section"]["panelBankConfig"]["sections"]}


def _logged() -> set[str]:
    """All names that training and evaluation of both arms log numbers under."""
    directions = ("text_to_audio", "audio_to_text")
    metrics = {f"{direction}_{name}": 0.5 for direction in directions for name in metric_names()}
    epoch = EpochRecord(1, 1, 1e-3, 1.0, metrics, is_best=True, seconds=0.1, pairs_per_s=10.0)
    scores = {name: {"value": 0.5, "low": 0.4, "high": 0.6} for name in metrics}
    values = [*epoch_values(epoch), *score_values(scores, "evaluation", seen=False)]
    return {of_arm(arm, name) for arm in ARMS for name in values}


def test_every_panel_shows_numbers_that_are_logged(sections: dict[str, dict[str, Any]]) -> None:
    drawn = [
        metric
        for name in ("Scores on evaluation", "Training")
        for panel in sections[name]["panels"]
        for metric in panel["config"]["metrics"]
    ]
    assert len(drawn) >= 20
    assert set(drawn) <= _logged()
    assert "vision_evaluation_text_to_audio_mAP@10" in drawn


def test_training_is_drawn_over_our_own_steps(sections: dict[str, dict[str, Any]]) -> None:
    panels = sections["Training"]["panels"]
    assert {panel["viewType"] for panel in panels} == {"Run History Line Plot"}
    assert {panel["config"]["xAxis"] for panel in panels} == {"step"}


def test_runs_are_grouped_and_the_best_is_on_top() -> None:
    runs = specification(dashboard("team", "e2i", "validation"))["spec"]["section"]["runSets"][0]
    assert [key["name"] for key in runs["grouping"]] == ["group"]
    (order,) = runs["sort"]["keys"]
    assert order["key"] == {"section": "summary", "name": "validation_text_to_audio_mAP@10"}
    assert order["ascending"] is False
    assert "config:code.code_sha256.value" in runs["runFeed"]["columnOrder"]


def test_the_specification_is_one_that_the_package_reads_back() -> None:
    made = dashboard("team", "e2i")
    view = internal.View.model_validate(specification(made))
    again = Workspace._from_model(view)
    assert [s.name for s in again.sections] == [s.name for s in made.sections]
    assert [len(s.panels) for s in again.sections] == [len(s.panels) for s in made.sections]


def test_no_network_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "no_answer_from_wandb", lambda folder: "no connection to here.")
    with pytest.raises(RunFailedError) as refused:
        save_dashboard("team", "e2i")
    assert str(refused.value) == (
        "W&B cannot be had: got no connection to here, expected an answer. Try again with a "
        "network, or print the specification with --dry-run."
    )


def test_a_refusal_is_said_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(workspace: Workspace) -> None:
        raise ValueError("401 from https://me:hush@api.example")

    monkeypatch.setattr(module, "no_answer_from_wandb", lambda folder: "")
    monkeypatch.setattr(module, "silence", lambda folder: None)
    monkeypatch.setattr(Workspace, "save", refuse)
    with pytest.raises(RunFailedError) as refused:
        save_dashboard("team", "e2i")
    assert str(refused.value) == (
        "W&B did not take the dashboard: got 401 from https://api.example, expected a view of "
        "project 'e2i'. Look at key, --wandb-entity and --wandb-project."
    )


def test_what_is_sent_is_the_view_and_its_address_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[dict[str, Any]] = []

    def save(workspace: Workspace) -> Workspace:
        sent.append(specification(workspace))
        return workspace

    monkeypatch.setattr(module, "no_answer_from_wandb", lambda folder: "")
    monkeypatch.setattr(module, "silence", lambda folder: None)
    monkeypatch.setattr(Workspace, "save", save)
    monkeypatch.setattr(Workspace, "url", "https://wandb.example/team/e2i?nw=1")
    assert save_dashboard("team", "e2i") == "https://wandb.example/team/e2i?nw=1"
    assert sent[0]["displayName"] == "e2i"


class _Wandb:
    """What W&B's API is asked for, and answers that hold one saved view."""

    def __init__(self) -> None:
        self.saved: list[dict[str, Any]] = []

    def execute(self, api: object, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "mutation" in query:
            self.saved.append(variables)
            view = {"id": variables.get("id", "new"), "name": variables["name"]}
            return {"upsertView": {"view": view, "inserted": "id" not in variables}}
        found = (variables["entityName"], variables["name"], variables["viewName"])
        if found != ("team", "bird songs", "nw-abc123-v"):
            return {"project": {"allViews": {"edges": []}}}
        held = {"id": "id of it", "displayName": "e2i", "spec": '{"section": {"version": 5}}'}
        return {"project": {"allViews": {"edges": [{"node": held}]}}}


@pytest.fixture
def wandb_api(monkeypatch: pytest.MonkeyPatch) -> _Wandb:
    import wandb

    answers = _Wandb()
    monkeypatch.setattr(module, "no_answer_from_wandb", lambda folder: None)
    monkeypatch.setattr(module, "silence", lambda folder: None)
    monkeypatch.setattr(internal, "execute_graphql", answers.execute)
    api = SimpleNamespace(default_entity="me", client=SimpleNamespace(app_url="https://wandb.test"))
    monkeypatch.setattr(wandb, "Api", lambda: api)
    return answers


def test_each_call_makes_a_new_view(wandb_api: _Wandb) -> None:
    urls = [save_dashboard("", "e2i") for _ in range(2)]
    assert urls[0] != urls[1]
    assert all("id" not in saved for saved in wandb_api.saved)
    assert {saved["entityName"] for saved in wandb_api.saved} == {"me"}


def test_a_saved_view_is_replaced_in_place(wandb_api: _Wandb) -> None:
    address = "https://wandb.test/team/bird%20songs?nw=abc123"
    save_dashboard("somebody", "else", "validation", address)
    (saved,) = wandb_api.saved
    assert (saved["id"], saved["name"]) == ("id of it", "nw-abc123-v")
    assert (saved["entityName"], saved["projectName"]) == ("team", "bird songs")
    assert "Scores on validation" in saved["spec"]


def test_a_view_that_is_not_there_is_said_and_none_is_made(wandb_api: _Wandb) -> None:
    address = "https://wandb.test/team/e2i?nw=gone"
    with pytest.raises(RunFailedError) as refused:
        save_dashboard("team", "e2i", view_url=address)
    assert wandb_api.saved == []
    assert str(refused.value).startswith("W&B did not take the dashboard: got ")
    assert str(refused.value).endswith(
        f", expected the view {address} to be there. Look at key and --view."
    )
