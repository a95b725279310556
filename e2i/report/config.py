"""What a report shows, and how large it may get."""

from __future__ import annotations

from pydantic import Field

from e2i.configuration import Configuration


class ReportConfig(Configuration):
    """Sizes of a report. None of them changes a score."""

    examples: int = Field(
        4, ge=0, le=50, description="Captions shown with what they found: the best, and the worst."
    )
    sheet_clips: int = Field(
        12, ge=0, le=60, description="Clips whose pseudo-images are shown beside a caption's."
    )
    bins: int = Field(
        4, ge=1, le=10, description="Groups by caption length and by duration, equally large."
    )
    max_recording_bytes: int = Field(
        200_000,
        ge=0,
        le=10_000_000,
        description="A recording is playable in the report up to this size, as it is stored or as "
        "a mono MP3 (about 5.5 kB a second).",
    )
    max_recordings_bytes: int = Field(
        6_000_000,
        ge=0,
        le=100_000_000,
        description="All recordings in a report together; what comes later is not playable.",
    )
