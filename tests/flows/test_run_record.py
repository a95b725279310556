"""What a flow tells of its run."""

from __future__ import annotations

from pathlib import Path

from e2i.cache.header import SideSettings, ensure_header
from e2i.datasets.config import MetadataConfig
from e2i.encoders.config import EncodersConfig
from e2i.storage import Folder
from flows.run_record import RunRecord, run_name
from tasks.naming import stored_names


def test_locations_are_told_without_the_credentials_that_a_url_can_hold() -> None:
    record = RunRecord()
    record.locations |= {"cache": "s3://key:s3cr3t@bucket/cache", "checkpoint": "none"}
    summary = record.summary()
    assert summary.locations == {"cache": "s3://bucket/cache", "checkpoint": "none"}
    assert "s3cr3t" not in summary.as_json()


def test_a_run_is_named_after_data_set_split_and_encoders() -> None:
    encoders = EncodersConfig(audio_encoder="logmel", text_encoder="hashing")
    clotho = "/data/CLOTHO_v2.1/clotho_csv_files/clotho_captions_validation.csv"
    for parameters, name in (
        ({"dataset": "soundscapes", "encoders": encoders}, "soundscapes-logmel-hashing"),
        (
            {"source": MetadataConfig(metadata=clotho), "encoders": encoders},
            "CLOTHO_v2.1-validation-logmel-hashing",
        ),
        (
            {"source": {"metadata": "s3://b/sounds/all.csv", "split": "mine"}, "encoders": None},
            "sounds-mine",
        ),
        ({"source": MetadataConfig(), "cache_dir": "/caches/a"}, "a"),
        ({"cache_dir": ()}, "development"),
        ({}, "e2i"),
    ):
        assert run_name(parameters) == name


def test_a_run_on_a_cache_is_named_by_what_the_cache_says_itself(tmp_path: Path) -> None:
    assert stored_names(str(tmp_path)) == ()
    settings = {
        "audio": SideSettings({"encoder": "logmel"}, 4),
        "text": SideSettings({"encoder": "hashing"}, 4),
    }
    ensure_header(Folder(tmp_path), "sounds", "evaluation", settings)
    names = stored_names(str(tmp_path))
    assert names == ("sounds", "evaluation", "logmel", "hashing")
    parameters = {"cache_dir": (str(tmp_path), "another")}
    assert run_name(parameters, names) == "sounds-evaluation-logmel-hashing"


def test_a_run_is_not_named_after_credentials() -> None:
    assert run_name({"cache_dir": "s3://key:s3cr3t@bucket"}) == "bucket"
    metadata = {"metadata": "s3://key:s3cr3t@bucket/sounds.csv"}
    assert run_name({"source": metadata}) == "bucket-all"
