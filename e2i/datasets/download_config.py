"""How the files of Clotho are fetched and unpacked: the options, without anything that computes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from e2i.configuration import Configuration

SplitName = Literal["development", "validation", "evaluation"]
ZENODO_URL = "https://zenodo.org/records/4783391/files"


class DownloadConfig(Configuration):
    """Which splits of Clotho to fetch, from where, and how patiently."""

    base_url: str = Field(
        ZENODO_URL,
        min_length=1,
        description="http(s) address of the folder that holds the record's files; a mirror will "
        "do, since every file is checked.",
    )
    splits: tuple[SplitName, ...] = Field(
        ("development", "validation", "evaluation"),
        min_length=1,
        description="Splits to have: development, validation, evaluation.",
    )
    checksums: str | None = Field(
        None,
        min_length=1,
        description="Path or URL of a list of MD5 sums as md5sum writes it, for files that are "
        "not the published ones. Unset: the published sums of Zenodo record 4783391.",
    )
    connections: int = Field(3, ge=1, le=8, description="Files fetched at the same time.")
    retries: int = Field(
        8,
        ge=0,
        le=100,
        description="How often in a row a file is asked for again when nothing more of it came.",
    )
    retry_wait_s: float = Field(
        1.0,
        ge=0,
        le=60,
        allow_inf_nan=False,
        description="First wait before asking again, in seconds; it doubles up to 60, and a "
        "longer Retry-After of the server counts.",
    )
    timeout_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        allow_inf_nan=False,
        description="Seconds without a byte after which a connection counts as stalled.",
    )
    delete_archives: bool = Field(
        False, description="Delete each archive once it is unpacked (7 GB for all of Clotho)."
    )
    force: bool = Field(
        False, description="Fetch and unpack everything again, whatever is there already."
    )

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, value: str) -> str:
        scheme, separator, rest = value.partition("://")
        host = rest.partition("/")[0]
        if not separator or scheme.lower() not in {"http", "https"} or not host or " " in value:
            raise ValueError(
                f"base_url is no web address: got {value!r}, expected http(s)://host/folder. "
                f"Correct it, or leave it out for {ZENODO_URL}."
            )
        return value

    @field_validator("splits")
    @classmethod
    def _once_each(cls, value: tuple[SplitName, ...]) -> tuple[SplitName, ...]:
        return tuple(dict.fromkeys(value))
