"""Metadata in any of the forms that are read: Clotho's CSV, JSON, JSONL.

Conventions: in JSON and JSONL an entry is an object with an id, a recording, its text and, if it
says so, a sample rate; the names of these keys can be set. What is decided here:

- A file named `.csv` is in Clotho's form. Any other tells by what it starts with.
- An id is a string or a whole number, and unique: it is the clip's. The text is a string or a list
  of strings; what is blank is no caption, and a caption keeps its number.
- Entries that name the same recording are one clip, under the first one's id, with the captions of
  all in their order. As clips of their own they would be candidates that nothing can tell apart.
- A recording is a path or URL below the audio root, or an object with one as `path` (as `datasets`
  writes it). Sound itself, as a list of samples, is refused.
- A recording's rate is the one that it is stored with. A sample rate in the metadata has to be a
  rate, and changes nothing.
- Faults of entries come together, the first ten of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from e2i.clips import Caption, CaptionedClips, Clip
from e2i.datasets.audio_root import audio_name_in
from e2i.datasets.clotho import read_clotho
from e2i.datasets.config import MetadataConfig
from e2i.datasets.json_entries import (
    LINE_SUFFIXES,
    STARTS,
    Entry,
    Fault,
    JsonObject,
    described,
    json_entries,
)
from e2i.datasets.metadata_file import (
    MetadataFile,
    collected,
    read_metadata_file,
    split_named_in,
)
from e2i.errors import ConfigError, DatasetError
from e2i.storage import Folder

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_JSON_SUFFIXES = (".json", *LINE_SUFFIXES)
_MAX_HZ = 1_000_000
_SHOWN_KEYS = 8


def read_metadata(source: MetadataConfig, *, dataset: str | None = None) -> CaptionedClips:
    """Read the clips and captions of one split.

    Args:
        source: the file, its split, the root of its recordings, and the keys of its entries.
        dataset: name of the data set. Default: the name of the folder that holds the data.

    Returns:
        The clips, in the order of the metadata.

    Raises:
        ConfigError: no metadata was given, or its location is malformed.
        DatasetNotFoundError: there is no such file.
        DatasetError: it is in none of the forms, or entries are wrong.
        StorageError: it cannot be read.
    """
    if source.metadata is None:
        raise ConfigError(
            "no metadata: got nothing, expected a caption file. Give its path or URL as --metadata."
        )
    if not source.metadata.lower().endswith(".csv"):
        file = read_metadata_file(source.metadata)
        if _is_json(file):
            return _read_json(file, source, dataset)
    return read_clotho(
        source.metadata, audio_root=source.audio_root, split=source.split, dataset=dataset
    )


def _is_json(file: MetadataFile) -> bool:
    if file.name.lower().endswith(_JSON_SUFFIXES):
        return True
    start = file.data.removeprefix(_BYTE_ORDER_MARK).lstrip()[:1]
    return start.decode("latin-1") in STARTS if start else False


def _read_json(file: MetadataFile, source: MetadataConfig, dataset: str | None) -> CaptionedClips:
    split = source.split or split_named_in(file.name)
    root = source.audio_root or file.default_audio_root(split)
    shown_root = Folder(root).url
    entries = json_entries(file.text("JSON"), file.source)
    return CaptionedClips(
        dataset=dataset or file.default_dataset,
        split=split,
        audio_root_url=root if "://" in root else shown_root,
        clips=_clips(entries, _Keys.of(source), shown_root, file.source),
        source=file.source,
    )


@dataclass(slots=True)
class _Recording:
    """The entries that name one recording; `texts` may hold blank ones, which count."""

    clip_id: str
    number: int
    texts: list[str] = field(default_factory=list)

    def clip(self, audio_name: str) -> Clip:
        captions = tuple(
            Caption(f"{self.clip_id}#{number}", self.clip_id, text)
            for number, text in enumerate(self.texts, 1)
            if text.strip()
        )
        return Clip(self.clip_id, audio_name, captions, self.number)


def _clips(entries: Iterable[Entry], keys: _Keys, root_url: str, source: str) -> tuple[Clip, ...]:
    recordings: dict[str, _Recording] = {}
    seen: dict[str, Entry] = {}
    faults: list[str] = []
    for entry in entries:
        try:
            clip_id, audio_name, texts = keys.values(entry, root_url)
        except DatasetError as error:
            faults.append(f"{entry}: {error}")
            continue
        if (first := seen.setdefault(clip_id, entry)) is not entry:
            faults.append(
                f"{entry}: {keys.clip_id!r} stands twice: got {clip_id!r} here and in {first}, "
                "expected each once. Put several captions of a clip into a list under "
                f"{keys.text!r}, or into entries with ids of their own."
            )
            continue
        recording = recordings.setdefault(audio_name, _Recording(clip_id, entry.number))
        recording.texts += texts
    if faults:
        raise collected(faults, source, "entry", "entries")
    if not recordings:
        raise DatasetError(
            f"metadata {source} holds no clips: got 0 entries, expected at least 1. Fetch the "
            "file again."
        )
    return tuple(recording.clip(name) for name, recording in recordings.items())


@dataclass(frozen=True, slots=True)
class _Keys:
    """The keys of an entry, and how what stands under them is read."""

    clip_id: str
    audio: str
    text: str
    sample_rate: str

    @classmethod
    def of(cls, source: MetadataConfig) -> _Keys:
        return cls(source.id_key, source.audio_key, source.text_key, source.sample_rate_key)

    def values(self, entry: Entry, root_url: str) -> tuple[str, str, list[str]]:
        """Id, audio name and texts of an entry.

        Raises:
            DatasetError: what is wrong, without saying which entry it is.
        """
        value = entry.value
        if isinstance(value, Fault):
            raise DatasetError(value.reason)
        if not isinstance(value, JsonObject):
            raise DatasetError(
                f"not an object: got {described(value)}, expected an object with the keys "
                f"{self.clip_id!r}, {self.audio!r} and {self.text!r}. Correct the entry."
            )
        self._check_keys(value)
        self._check_sample_rate(value)
        clip_id = self._clip_id(value)
        return clip_id, audio_name_in(self._audio(value), root_url), self._texts(value)

    def _check_keys(self, entry: JsonObject) -> None:
        wanted = {"--id-key": self.clip_id, "--audio-key": self.audio, "--text-key": self.text}
        for option, key in wanted.items():
            if key not in entry:
                names = ", ".join(repr(name[:40]) for name in list(entry)[:_SHOWN_KEYS]) or "none"
                raise DatasetError(
                    f"no key {key!r}: got the keys {names}, expected {key!r} among them. Add it, "
                    f"or name the key that holds it with {option}."
                )
        for key in entry.repeated:
            if key in {*wanted.values(), self.sample_rate}:
                raise DatasetError(
                    f"key {key!r} stands twice: got it more than once in one object, expected it "
                    "once. Remove the others, or make one list of them."
                )

    def _clip_id(self, entry: JsonObject) -> str:
        value = entry[self.clip_id]
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value.strip():
            raise _wrong_type(self.clip_id, value, "a string that is not blank, or a whole number")
        return _encodable(self.clip_id, value)

    def _audio(self, entry: JsonObject) -> str:
        value = entry[self.audio]
        if isinstance(value, JsonObject):
            value = value.get("path")
        if not isinstance(value, str):
            raise _wrong_type(
                self.audio, value, "the path or URL of a recording, or an object with one as 'path'"
            )
        return _encodable(self.audio, value)

    def _texts(self, entry: JsonObject) -> list[str]:
        value = entry[self.text]
        texts: list[str] = []
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str):
                raise _wrong_type(self.text, text, "a string or a list of strings")
            texts.append(_encodable(self.text, text))
        if not any(text.strip() for text in texts):
            raise DatasetError(
                f"no caption: got nothing but blanks under {self.text!r}, expected at least one "
                "caption. Add one, or remove the entry."
            )
        return texts

    def _check_sample_rate(self, entry: JsonObject) -> None:
        value = entry.get(self.sample_rate)
        if value is None:
            return
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _MAX_HZ:
            return
        raise _wrong_type(
            self.sample_rate, value, f"a sample rate in Hz, above 0, at most {_MAX_HZ:,}"
        )


def _wrong_type(key: str, value: object, expected: str) -> DatasetError:
    return DatasetError(
        f"wrong value under {key!r}: got {described(value)}, expected {expected}. Correct the "
        "entry."
    )


def _encodable(key: str, text: str) -> str:
    """The text, if it can be stored: half a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise DatasetError(
            f"no valid text under {key!r}: got half a surrogate pair (\\u{code:04x}), expected "
            "Unicode characters. Correct the escape."
        ) from error
    return text
