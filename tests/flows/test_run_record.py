"""What a flow tells of its run."""

from __future__ import annotations

from flows.run_record import RunRecord, _last_name


def test_locations_are_told_without_the_credentials_that_a_url_can_hold() -> None:
    record = RunRecord()
    record.locations |= {"cache": "s3://key:s3cr3t@bucket/cache", "checkpoint": "none"}
    summary = record.summary()
    assert summary.locations == {"cache": "s3://bucket/cache", "checkpoint": "none"}
    assert "s3cr3t" not in summary.as_json()


def test_a_run_is_not_named_after_credentials() -> None:
    assert _last_name("s3://key:s3cr3t@bucket") == "bucket"
    assert _last_name("/data/development/") == "development"
    assert _last_name(None) == ""
