"""Where on the Hub a cache is mirrored to: the options, without anything that talks to it."""

from __future__ import annotations

import re

from pydantic import Field, SecretStr, field_validator

from e2i.configuration import Configuration

DEFAULT_REPO = "younissk/audio-text-embed-to-images"
"""Where the original kept its embeddings."""

_REPO_PATTERN = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}"


class HubConfig(Configuration):
    """The data set on the Hugging Face Hub that a cache is mirrored to."""

    hf_dataset: str | None = Field(
        default=None,
        description="Mirror the cache to this data set on the Hugging Face Hub, 'owner/name'; "
        "made, private, where there is none.",
    )
    hf_prefix: str = Field(
        default="",
        max_length=200,
        description="Folder in that data set; default: its root. One folder holds one cache.",
    )
    hf_token: SecretStr | None = Field(
        default=None,
        description="Token to write with. Default: HF_TOKEN, or the login of `hf auth login`. It "
        "is stored and shown nowhere.",
    )
    upload_every: int | None = Field(
        default=None,
        ge=1,
        description="Send what is stored each time that so many more pairs are, at most once a "
        "minute. Default: once, at the end.",
    )

    @field_validator("hf_dataset")
    @classmethod
    def _check_dataset(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not re.fullmatch(_REPO_PATTERN, value) or ".." in value or "--" in value:
            raise ValueError(
                f"not a data set of the Hub: got {value!r}, expected 'owner/name' of letters, "
                "digits, '_', '.' and '-'. Correct --hf-dataset."
            )
        return value

    @field_validator("hf_prefix")
    @classmethod
    def _check_prefix(cls, value: str) -> str:
        parts = value.strip("/").split("/")
        plain = all(
            part and part not in {".", "..", ".git", ".cache"} and part.isprintable()
            for part in parts
        )
        if (value.strip("/") and not plain) or "\\" in value:
            raise ValueError(
                f"not a folder of a data set: got {value!r}, expected names with '/' between them "
                "and no '.' or '..'. Correct --hf-prefix."
            )
        return value.strip("/")

    @property
    def token(self) -> str | None:
        """The token, or None: then huggingface_hub looks for one itself."""
        return self.hf_token.get_secret_value() if self.hf_token else None
