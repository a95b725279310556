"""Clips and captions: what a data set reader hands on.

Conventions: a clip's id is unique within its split; across splits and data sets a clip is
(data set, split, clip id). A caption's id is `<clip id>#<n>`, n from 1; ids may hold `#`
themselves, so it is never parsed back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Caption:
    """One text for a clip.

    Attributes:
        caption_id: `<clip_id>#<n>`, n from 1 in the order of the metadata.
        clip_id: the clip that it describes.
        text: the caption, as it stands in the metadata.
    """

    caption_id: str
    clip_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording and its captions.

    Attributes:
        clip_id: unique within its split.
        audio_name: the recording, relative to the audio root, `/` between folders.
        captions: at least one.
        row: line or entry of the metadata it came from, for messages; 1 is the first record.
    """

    clip_id: str
    audio_name: str
    captions: tuple[Caption, ...]
    row: int


@dataclass(frozen=True, slots=True)
class CaptionedClips:
    """One split of one data set.

    Attributes:
        dataset: name of the data set.
        split: name of the split.
        audio_root_url: folder that `audio_name` is relative to.
        clips: in the order of the metadata, ids unique.
        source: the metadata's location, without credentials.
    """

    dataset: str
    split: str
    audio_root_url: str
    clips: tuple[Clip, ...]
    source: str

    @property
    def captions(self) -> tuple[Caption, ...]:
        """All captions, clip by clip."""
        return tuple(caption for clip in self.clips for caption in clip.captions)


class ClipKey(NamedTuple):
    """A clip across data sets and splits."""

    dataset: str
    split: str
    clip_id: str
