from __future__ import annotations

import json
import re

import pytest
from pydantic import ValidationError

from e2i.hub.config import HubConfig


@pytest.mark.parametrize("name", ["me/sounds", "an-org/a.b_c-d", "A1/1"])
def test_names_of_data_sets(name: str) -> None:
    assert HubConfig(hf_dataset=name).hf_dataset == name


@pytest.mark.parametrize(
    "name",
    ["sounds", "", "a/b/c", "/a", "a/", "a b/c", "../a", "a/..", "a/b--c", "hf://a/b", "é/b"],
)
def test_what_is_no_data_set_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(f"got {name!r}, expected 'owner/name'")):
        HubConfig(hf_dataset=name)


@pytest.mark.parametrize(
    ("given", "prefix"), [("", ""), ("/", ""), ("a", "a"), ("/a/b c/", "a/b c"), ("é", "é")]
)
def test_folders_of_a_data_set(given: str, prefix: str) -> None:
    assert HubConfig(hf_prefix=given).hf_prefix == prefix


@pytest.mark.parametrize("given", ["..", "a/../b", "a//b", ".git", "a\\b", "a\nb", "./a"])
def test_what_is_no_folder_is_refused(given: str) -> None:
    with pytest.raises(ValidationError, match=r"Correct --hf-prefix"):
        HubConfig(hf_prefix=given)


def test_the_token_is_in_no_form_of_the_configuration() -> None:
    config = HubConfig(hf_dataset="me/x", hf_token="hf_secret")
    assert config.token == "hf_secret"
    shown = [str(config), repr(config), config.model_dump_json(), json.dumps(config.model_dump(
        mode="json")), str(config.model_dump()), str(hash(config))]  # fmt: skip
    assert not any("hf_secret" in text for text in shown)
    assert HubConfig().token is None


def test_the_form_asks_for_it_as_a_password() -> None:
    schema = json.dumps(HubConfig.model_json_schema()["properties"]["hf_token"])
    assert '"writeOnly": true' in schema
