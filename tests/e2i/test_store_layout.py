"""Locations below a store: joined, split, and shown without credentials."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2i.errors import ConfigError
from e2i.store_layout import StoreLayout, join_url, public_url, split_url


@pytest.mark.parametrize(
    ("url", "folder", "name"),
    [
        ("s3://bucket/a/b", "s3://bucket/a", "b"),
        ("s3://bucket/a/", "s3://bucket", "a"),
        ("/a/b", "/a", "b"),
        ("/a", "/", "a"),
        ("a/b", "a", "b"),
        ("file:///a/b", "file:///a", "b"),
        ("file:///a", "file:///", "a"),
    ],
)
def test_a_location_is_its_folder_and_its_name(url: str, folder: str, name: str) -> None:
    assert split_url(url) == (folder, name)
    assert join_url(folder, name) == url.rstrip("/")


def test_a_relative_name_lies_in_the_working_folder_not_in_the_root() -> None:
    assert split_url("heads.safetensors") == (".", "heads.safetensors")


@pytest.mark.parametrize(
    ("url", "name"),
    [("s3://bucket", "bucket"), ("memory://x", "x"), ("s3://key:secret@bucket", "bucket")],
)
def test_nothing_lies_above_a_bucket(url: str, name: str) -> None:
    assert split_url(url) == (url, name)


@pytest.mark.parametrize("root", ["/", "memory://", "s3://bucket/", "s3://bucket"])
def test_below_a_root_stands_one_slash(root: str) -> None:
    assert join_url(root, "a", "b") == root.rstrip("/") + {"memory://": "//"}.get(root, "/") + "a/b"


@settings(deadline=None)
@given(st.lists(st.text("ab#%. -", min_size=1).filter(lambda n: "/" not in n), min_size=1))
def test_splitting_undoes_joining(names: list[str]) -> None:
    url = join_url("s3://bucket/x", *names)
    assert split_url(url) == (join_url("s3://bucket/x", *names[:-1]), names[-1])


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://key:secret@bucket/a", "s3://bucket/a"),
        ("https://user:secret@host/a", "https://host/a"),
        ("/a/b", "/a/b"),
        ("none", "none"),
    ],
)
def test_what_is_shown_holds_no_credentials(url: str, shown: str) -> None:
    assert public_url(url) == shown


def test_a_store_is_the_same_from_every_working_directory() -> None:
    assert StoreLayout("/store").cache_url("validation") == "/store/embeddings/validation"
    assert StoreLayout("memory://s").logs_url == "memory://s/logs"
    with pytest.raises(ConfigError, match=r"got 'store', expected an absolute path or a URL"):
        StoreLayout("store")
