from __future__ import annotations

import pytest
from pydantic import ValidationError

from e2i.cache.config import CacheConfig, default_chunk_size, default_text_chunk_size


@pytest.mark.parametrize(
    ("max_failures", "clips", "allowed"),
    [
        (None, 10, 1),
        (None, 100, 1),
        (None, 3839, 38),
        (0, 3839, 0),
        (0.1, 50, 5),
        (0.1, 5, 0),
        (0.29, 100, 29),  # 28.999999999999996 in floats
        (1, 50, 1),
        (7, 5, 7),
    ],
)
def test_allowed_failures(max_failures: float | None, clips: int, allowed: int) -> None:
    assert CacheConfig(max_failures=max_failures).allowed_failures(clips) == allowed


@pytest.mark.parametrize("value", [-1, -0.5, 1.5, float("nan"), float("inf")])
def test_max_failures_is_a_share_or_a_number(value: float) -> None:
    with pytest.raises(ValidationError, match="max_failures"):
        CacheConfig(max_failures=value)


def test_a_wrong_max_failures_is_explained() -> None:
    with pytest.raises(ValidationError, match=r"got 1\.5, expected a share below 1 or a whole"):
        CacheConfig(max_failures=1.5)


@pytest.mark.parametrize("value", [0, -3])
def test_chunks_hold_at_least_one_clip(value: int) -> None:
    with pytest.raises(ValidationError, match="chunk_size"):
        CacheConfig(chunk_size=value)


def test_slow_encoders_get_small_chunks() -> None:
    assert default_chunk_size("passt") < default_chunk_size("unheard of") < 256
    assert default_chunk_size("logmel") == 256


def test_captions_take_less_time_than_recordings_so_more_of_them_make_a_chunk() -> None:
    assert default_text_chunk_size("hashing") > default_text_chunk_size("hf")
    assert default_text_chunk_size("hf") == default_text_chunk_size("unheard of") == 512
    assert default_text_chunk_size("hf") > default_chunk_size("logmel")
