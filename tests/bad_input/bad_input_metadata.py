"""Metadata that is wrong."""

from __future__ import annotations

from pathlib import Path

from bad_input_program import Case, World, embed


def metadata(name: str, data: bytes | str, *words: str, options: tuple[str, ...] = ()) -> Case:
    """A metadata file that is wrong."""

    def make(world: World, tmp: Path) -> list[str]:
        path = tmp / name.rsplit(": ", maxsplit=1)[-1]
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return embed(path, tmp / "cache", *options)

    return Case(name, make, ("metadata", *words))


HEADER = "file_name,caption_1,caption_2\n"
CSV = [
    metadata(
        "no column file_name: a.csv",
        "file,caption_1\na.wav,x\n",
        "got no column file_name",
        "expected file_name, caption_1",
        "Correct the header.",
    ),
    metadata("no caption column: a.csv", "file_name,text\na.wav,x\n", "got no caption column"),
    metadata(
        "no caption: a.csv",
        HEADER + "a.wav,x,y\nb.wav,, \n",
        "row 2 (line 3): no caption",
        "'b.wav'",
        "expected at least one caption",
        "Add one, or remove the row.",
    ),
    metadata(
        "duplicate row: a.csv",
        HEADER + "a.wav,x,y\na.wav,x,y\n",
        "row 2 (line 3): file_name",
        "got 'a.wav' here and in row 1 (line 2)",
        "Remove one of the rows.",
    ),
    metadata(
        "latin-1: a.csv",
        (HEADER + "a.wav,café,x\n").encode("latin-1"),
        "is not UTF-8",
        "got byte 0xe9 in line 2",
        "iconv -f ISO-8859-1",
    ),
    metadata("UTF-16: a.csv", (HEADER + "a.wav,x,y\n").encode("utf-16"), "got UTF-16", "iconv"),
    metadata("binary: a.csv", b"RIFF\x24\x00\x00\x00WAVE" * 9, "is not text", "a NUL byte in line"),
    metadata("empty: a.csv", "", "is empty: got no text, expected a header and rows", "Fetch"),
    metadata("no rows: a.csv", HEADER, "holds no clips: got a header and 0 rows"),
    metadata(
        "quotes unbalanced: a.csv",
        HEADER + 'a.wav,"x,y\nb.wav,x,y\n',
        "cannot be read at row 1 (line 2): got an unbalanced quote",
        "Correct the quotes.",
    ),
    metadata(
        "unquoted comma: a.csv",
        HEADER + "a.wav,rain, heavy,y\n",
        "got 4, expected 3",
        "Put captions with commas in double quotes",
    ),
    metadata(
        "cut short: a.csv", HEADER + "a.wav,x,y\nb.wa", "row 2 (line 3): wrong number of cells"
    ),
    metadata("semicolons: a.csv", "file_name;caption_1\na.wav;x\n", "separated by commas"),
    metadata("endless cell: a.csv", HEADER + 'a.wav,"' + "x" * 200_000, "a quote that opens there"),
]

ENTRY = '{"id": "a", "audio": "a.wav", "text": "x"}'
JSON = [
    metadata(
        "not a list: a.json",
        '{"data": [1]}',
        "is not a list: got an object (keys: 'data')",
        "expected a list of objects, or one object a line",
    ),
    metadata(
        "entries of wrong type: a.json",
        '["a", 3]',
        "has 2 wrong entries",
        "entry 1: not an object: got the string 'a'",
        "entry 2: not an object",
    ),
    metadata(
        "wrong id: a.json",
        '[{"id": [], "audio": "a.wav", "text": "x"}]',
        "under 'id': got a list, expected a string",
    ),
    metadata(
        "wrong text: a.json",
        '[{"id": 1, "audio": "a.wav", "text": 5}]',
        "under 'text': got "
        "the number 5, expected a string or a list of strings. Correct the entry.",
    ),
    metadata(
        "wrong audio: a.json",
        '[{"id": 1, "audio": [0.1, 0.2], "text": "x"}]',
        "under 'audio': got a list, expected the path or URL of a recording",
    ),
    metadata(
        "wrong rate: a.json",
        '[{"id": 1, "audio": "a", "text": "x", "sample_rate": "fast"}]',
        "under 'sample_rate': got the string 'fast', expected a sample rate in Hz",
    ),
    metadata(
        "missing key: a.json",
        '[{"id": 1, "audio": "a.wav", "caption": "x"}]',
        "entry 1: no key 'text': got the keys 'id', 'audio', 'caption'",
        "--text-key",
    ),
    metadata(
        "missing key of that name: a.json",
        f"[{ENTRY}]",
        "no key 'path'",
        "--audio-key",
        options=("--audio-key", "path"),
    ),
    metadata(
        "duplicate ids: a.json",
        f"[{ENTRY}, {ENTRY}]",
        "entry 2: 'id' stands twice: got 'a' here and in entry 1, expected each once",
    ),
    metadata("deep nesting: a.json", "[" * 100_000, "is nested too deeply", "Correct the file."),
    metadata("cut short: a.json", f"[{ENTRY}, ", "is not JSON: got", "line 1, column"),
    metadata("no entries: a.json", "[]", "holds no clips: got 0 entries, expected at least 1"),
    metadata("empty: a.json", "", "is empty: got no text"),
    metadata("latin-1: a.json", '["é"]'.encode("latin-1"), "is not UTF-8: got byte 0xe9"),
    metadata("binary: a.jsonl", bytes(range(256)), "is not text: got a NUL byte"),
    metadata(
        "a broken line: a.jsonl", f"{ENTRY}\n{ENTRY[:20]}\n", "entry 2 (line 2): not JSON: got"
    ),
    metadata("half a surrogate: a.jsonl", ENTRY.replace('"x"', '"\\ud800"'), "half a surrogate"),
]
