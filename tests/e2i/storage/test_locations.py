"""URLs: what they name, what is refused, what is not shown."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from e2i.errors import ConfigError
from e2i.storage import Folder
from e2i.storage.locations import locate, secrets_in

SECRET = "hunter2+very/secret"


@pytest.mark.parametrize(
    ("url", "protocol", "path", "shown"),
    [
        ("/a/b/", "file", "/a/b", "/a/b"),
        ("/", "file", "/", "/"),
        ("/a/../b", "file", "/b", "/b"),
        ("file:///a%20b/#c?d", "file", "/a%20b/#c?d", "/a%20b/#c?d"),
        ("local:///a", "file", "/a", "/a"),
        ("/with://inside", "file", "/with:/inside", "/with:/inside"),
        ("memory://", "memory", "/", "memory://"),
        ("memory:///a//b/", "memory", "/a/b", "memory://a/b"),
        ("s3://bucket", "s3", "", "s3://bucket"),
        ("S3A://bucket//a/./b/", "s3", "a/b", "s3://bucket/a/b"),
        ("s3://bucket/a?b#c%20", "s3", "a?b#c%20", "s3://bucket/a?b#c%20"),
        ("http://host:80/a/", "http", "http://host:80/a", "http://host:80/a"),
        ("https://u:p@host/a%20b", "https", "https://host/a%20b", "https://host/a%20b"),
    ],
)
def test_what_a_url_names(url, protocol, path, shown):
    location, _ = locate(url)
    assert (location.protocol, location.path, location.url) == (protocol, path, shown)


def test_an_access_point_is_a_bucket():
    arn = "arn:aws:s3:us-west-2:123456789012:accesspoint/mine"
    location, options = locate(f"s3://{arn}/a/b")
    assert (location.bucket, location.path, options) == (arn, "a/b", {})


def test_credentials_in_an_s3_url_become_options():
    location, options = locate("s3://KEY:hunter2%2Bvery%2Fsecret@bucket/a")
    assert location.url == "s3://bucket/a"
    assert options == {"key": "KEY", "secret": SECRET}


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "not a folder: got ''"),
        ("a\0b", "not a folder"),
        ("s3:/bucket/a", "got one slash after 's3:', expected 's3://'"),
        (Path("s3://bucket/a"), "a Path drops one"),
        (Path("memory://a"), "one slash after 'memory:'"),
        ("s3://", "no valid bucket name"),
        ("s3:///a", "no valid bucket name"),
        ("s3://b/../c", "'..' in it"),
        ("memory://../c", "'..' in it"),
        ("file://host/a", "expected file:/// and an absolute path"),
        ("file://relative", "expected file:/// and an absolute path"),
        ("://a", "no single protocol"),
        ("simplecache::s3://b/a", "not a chain"),
        ("http://", "no host"),
        ("http://host/a?b", "a query or fragment"),
        ("no-such-protocol://a", "unknown protocol: got 'no-such-protocol'"),
    ],
)
def test_malformed_urls(url, text):
    with pytest.raises(ConfigError) as caught:
        Folder(url)
    assert text in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    "url",
    [
        f"s3://KEY:{SECRET}@bucket/a",  # the slash ends the bucket too early
        "s3://hunter2@bucket/a",
        "s3://:hunter2@bucket/a",
        "s3://KEY:hunter2@/a",
        "s3://KEY:hunter2@b/../a",
        "https://user:hunter2@host/a?x",
        "https://host/a?sig=hunter2",
        "https://user:hunter2@/a",
        "file://user:hunter2@host/a",
        "ftp://user:hunter2/slash@host/a",
        "nosuch://user:hunter2@host/a",
        "simplecache::s3://KEY:hunter2@bucket/a",
    ],
)
def test_a_refusal_shows_no_secret(url):
    with pytest.raises(ConfigError) as caught:
        Folder(url)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value, limit=0))


def test_a_password_for_another_protocol_is_not_shown():
    folder = Folder("ftp://user:hunter2@host/a")
    assert folder.url == "ftp://user@host/a"
    assert "hunter2" not in repr(folder)
    assert folder.folder("b").url == "ftp://user@host/a/b"


def test_nothing_is_touched_by_pointing_at_it(tmp_path):
    Folder(tmp_path / "new").folder("below")
    assert not (tmp_path / "new").exists()


def test_secrets_among_options():
    options = {
        "key": "an-access-key",
        "endpoint_url": "http://host",
        "client_kwargs": {"aws_secret_access_key": SECRET, "region_name": "us-east-1"},
        "anon": False,
    }
    assert secrets_in(options) == {"an-access-key", SECRET}
