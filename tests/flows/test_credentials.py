"""No flow takes a URL with credentials in it, from the command line or from a deployment."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2i.datasets.config import MetadataConfig
from e2i.encoders.config import EncodersConfig
from e2i.errors import ConfigError
from flows.caching import cache_embeddings, cache_images
from flows.credentials import refuse_credentials
from plain_program import e2i, plain_program

SECRET = "hunter2/and+more"
STEP = "Take them out, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."


@pytest.mark.parametrize(
    ("parameters", "name", "scheme"),
    [
        ({"cache_dir": f"s3://KEY:{SECRET}@bucket/cache"}, "cache_dir", "s3"),
        ({"cache_dir": ("a", "S3A://KEY:hunter2@bucket")}, "cache_dir", "s3a"),
        ({"source": {"metadata": "https://me:hunter2@host/a.csv"}}, "source.metadata", "https"),
        (
            {"source": MetadataConfig(metadata="a.csv", audio_root="s3://K:hunter2@b")},
            "source.audio_root",
            "s3",
        ),
        (
            {"encoders": EncodersConfig(audio_encoder=f"checkpoint:s3://KEY:{SECRET}@bucket/a")},
            "encoders.audio_encoder",
            "s3",
        ),
        ({"source": {"metadata": "https://hunter2@host/a.csv"}}, "source.metadata", "https"),
        ({"a": "https://host/a.pt?X-Amz-Date=1&X-Amz-Signature=hunter2"}, "a", "https"),
        ({"a": "https://host/a.pt?sv=1&sig=hunter2"}, "a", "https"),
    ],
)
def test_they_are_refused_and_not_shown(
    parameters: dict[str, object], name: str, scheme: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_credentials(parameters)
    step = STEP if scheme.startswith("s3") else "Give a location that needs none."
    assert str(caught.value) == (
        "Prefect records the parameters of a run: got credentials in the "
        f"{scheme}:// URL of {name} (not shown), expected a URL without. {step}"
    )


@pytest.mark.parametrize(
    "location",
    [
        "s3://bucket/a:b@c",
        "s3://arn:aws:s3:eu-west-1:123:accesspoint/mine/a@b",
        "http://127.0.0.1:8333/a:b@c",
        "https://host/a key=b/@c.csv",
        "checkpoint:s3://bucket/a:b@c",
        "hf://datasets/owner/name@main/a",
        "/data/a:b@c",
        "memory://a",
    ],
)
def test_other_locations_are_taken(location: str) -> None:
    refuse_credentials({"cache_dir": location})


@pytest.mark.parametrize(
    "words",
    [
        ("cache-images", "--cache-dir"),
        ("train-projection", "--cache-dir"),
        ("cache-embeddings", "--metadata", "a.csv", "--cache-dir"),
    ],
)
def test_a_command_ends_with_2(words: tuple[str, ...]) -> None:
    with plain_program():
        said = e2i(*words, f"s3://KEY:{SECRET}@bucket/cache")
    assert said.code == 2
    assert STEP in said.err
    assert "hunter2" not in said.err + said.out


@pytest.mark.usefixtures("prefect_harness")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_flow_run_of_a_deployment_fails_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="URL of cache_dir"):
        cache_images("s3://KEY:hunter2@bucket/cache")
    source = MetadataConfig(metadata="s3://KEY:hunter2@bucket/a.csv")
    with pytest.raises(ConfigError, match=r"URL of source\.metadata"):
        cache_embeddings(source, str(tmp_path))
