from __future__ import annotations

import pytest
from pydantic import ValidationError

from e2i.datasets.soundscapes.config import SPLITS, SoundscapesConfig
from e2i.errors import ConfigError


def test_default_sizes():
    config = SoundscapesConfig()
    assert [config.num_clips(split) for split in SPLITS] == [320, 100, 100]


@pytest.mark.parametrize("field", ["num_development", "num_validation", "num_evaluation"])
def test_sizes_are_at_least_one(field):
    with pytest.raises(ValidationError, match=field):
        SoundscapesConfig(**{field: 0})


def test_a_misspelt_option_is_an_error():
    with pytest.raises(ValidationError, match="num_test"):
        SoundscapesConfig(num_test=3)


def test_every_field_is_described():
    for name, field in SoundscapesConfig.model_fields.items():
        assert field.description, name


def test_unknown_split():
    with pytest.raises(ConfigError) as caught:
        SoundscapesConfig().num_clips("test")
    assert str(caught.value) == (
        "unknown split of the generated data set: got 'test', expected one of development, "
        "validation, evaluation. Choose one of these."
    )
